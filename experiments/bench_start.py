"""What a run costs from nothing to its report: cold, and again with the programs that the first one compiled."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from experiments.harness import benchmark
from experiments.harness.errors import UserError
from experiments.harness.lifecycle import Stated, opened
from experiments.harness.session import StopSignals
from jaxpost import records

TITLE = "What a run costs from nothing"
QUESTION = "How long does a study take in a process of its own, with an empty compilation cache and with a full one?"
ROOT = Path(__file__).resolve().parents[1]


def run(config: ConfigDict, claims: Sequence[dict], workdir: Path, name: str, signals: StopSignals) -> None:
    """Run the study twice in turn, check that both bundles are one, print the table. Raises: UserError, BundleError."""
    benchmark.refuse_claims(config, claims)
    benchmark.require_least(config, turns=1)
    with opened(config, Stated(TITLE, QUESTION, (), (), [0], bases=0), workdir, name, signals) as running:
        if running is None:
            return
        bundle, session = running
        seconds = np.asarray([cold_and_warm(config.study) for _ in range(config.turns)])
        for place, side in enumerate(("cold", "warm")):
            bundle.cost(f"bench.{side}", wall_s=np.median(seconds[:, place]))
        notes = {"cold": "empty compilation cache", "warm": "that of the first run"}
        targets = [benchmark.at_most(f"{config.study}, {side}", seconds[:, place], config.wanted[side], note, "s")
                   for place, (side, note) in enumerate(notes.items())]
        benchmark.publish(bundle, session, TITLE, targets)


def cold_and_warm(study: str) -> tuple[float, float]:
    """Seconds of two processes that run a study in new directories with one new compilation cache. Raises: UserError, where one
    of them fails or their bundles differ."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        environment = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
        walls, bundles = [], []
        for side in ("cold", "warm"):
            began = time.perf_counter()
            done = subprocess.run([sys.executable, "-m", "experiments.run", f"--config={study}", f"--workdir={home / side}"],
                                  cwd=ROOT, env=environment | {"XDG_CACHE_HOME": str(home / "cache")}, capture_output=True,
                                  text=True)
            walls.append(time.perf_counter() - began)
            if done.returncode:
                raise UserError(f"--config={study} ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
            bundles.append(records.storage.read_json(home / side / "manifest.json")["bundle_id"])
    if len(set(bundles)) > 1:
        raise UserError(f"two runs of --config={study} gave bundles {bundles[0][:12]} and {bundles[1][:12]}: not the same work")
    return tuple(walls)
