"""Weights & Biases: one run an arm and seed, grouped by the study, and one run of the whole with claims and report.

Every file that the client writes lies in the bundle's `telemetry/wandb`; `wandb sync` of the `offline-run-*` directories there
uploads what was run offline. Steps are logged under "step", so that a run that is resumed goes on in the same curve; the steps
after its last checkpoint are then logged twice.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

_PLACES = ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR")
REPORT = ("report.html", "CITATION.bib", "manifest.json", "measurements.parquet", "metrics.parquet", "completions.parquet")


class WandbSink:
    """Runs of W&B.

    Args:
      mode: offline or online. project: of W&B. config: of the study, as a mapping. name: of the study.
      folder: where all its files lie.

    Raises:
      ImportError: wandb is not installed. Exception: whatever the service answers; nothing is open then.
    """

    name = "W&B"

    def __init__(self, mode: str, project: str, config: Mapping, name: str, folder: Path):
        import wandb  # optional: starts helper processes

        self._wandb, self._study, self._where = wandb, name, {"mode": mode, "project": project}
        self._config, self._folder = dict(config), Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._before = {place: os.environ.get(place) for place in _PLACES}
        os.environ.update(dict.fromkeys(_PLACES, str(self._folder)))
        self._group = f"{name}-{hashlib.sha256(str(self._folder.resolve()).encode()).hexdigest()[:8]}"
        self._runs: dict[tuple[str, int], object] = {}
        try:
            self._whole = self._init("study", "study", [name], self._config)
        except BaseException:
            self._restore()
            raise

    def scalars(self, arm: str, seed: int, step: int, values: Mapping[str, float]) -> None:
        """As `sink.Sink`."""
        self._run(arm, seed).log({"step": step, **values})

    def table(self, arm: str, seed: int, step: int, name: str, header: Sequence[str], lines: Sequence[Sequence]) -> None:
        """As `sink.Sink`."""
        made = self._wandb.Table(columns=list(header), data=[list(line) for line in lines])
        self._run(arm, seed).log({"step": step, name: made})

    def ended(self, arm: str, seed: int) -> None:
        """As `sink.Sink`."""
        if (run := self._runs.pop((arm, seed), None)) is not None:
            run.finish(exit_code=0)

    def published(self, bundle: Path, manifest: Mapping) -> None:
        """As `sink.Sink`."""
        claims = manifest.get("claim_results", ())
        header = ("claim", "verdict", "estimate", "ci_lo", "ci_hi", "threshold", "p_holm", "n_units", "statement", "note")
        lines = [[claim["id"], *(claim.get(key) for key in header[1:])] for claim in claims]
        self._whole.log({"claims": self._wandb.Table(columns=list(header), data=lines)})
        self._whole.summary.update({f"claims/{claim['id']}": claim["verdict"] for claim in claims})
        self._whole.summary["bundle_id"] = manifest["bundle_id"]
        artifact = self._wandb.Artifact(f"{self._study}-report", type="report", metadata={"bundle_id": manifest["bundle_id"]})
        for name in REPORT:
            if (bundle / name).is_file():
                artifact.add_file(str(bundle / name), name=name)
        self._whole.log_artifact(artifact)

    def close(self, failed: bool) -> None:
        """As `sink.Sink`."""
        try:
            for run in [*self._runs.values(), self._whole]:
                run.finish(exit_code=int(failed))
            self._wandb.teardown()  # a finished run may still be on its way to the disk
        finally:
            self._runs = {}
            self._restore()

    def _run(self, arm: str, seed: int):
        if (arm, seed) not in self._runs:
            config = self._config | {"this_arm": arm, "this_seed": seed}
            run = self._init(f"{arm}-seed-{seed}", "arm", [self._study, arm, f"seed {seed}"], config)
            run.define_metric("*", step_metric="step")
            self._runs[arm, seed] = run
        return self._runs[arm, seed]

    def _init(self, name: str, kind: str, tags: Sequence[str], config: Mapping):
        identity = hashlib.sha256(f"{self._group}/{name}".encode()).hexdigest()[:16]
        settings = self._wandb.Settings(silent=True, init_timeout=15, console="off", x_disable_stats=True)
        return self._wandb.init(
            **self._where, dir=str(self._folder), group=self._group, job_type=kind, name=name, id=identity, resume="allow",
            reinit="create_new", tags=[tag[:64] for tag in tags], config=dict(config), settings=settings)

    def _restore(self) -> None:
        for place, value in self._before.items():
            os.environ.pop(place, None)
            if value is not None:
                os.environ[place] = value
