"""Whole studies in several processes on this machine: one bundle, the rows of one process; stopped, killed and resumed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import launch, tiny_hf
from jaxpost import records
from jaxpost.records.verify import verify
from tests import quick_compilation

from .conftest import ROOT

pytestmark = pytest.mark.slow
SUBJECT = ROOT / "experiments" / "faults" / "subject.py"
QUOTIENTS = ("weight.spectral_kappa", "weight.spectral_shift_over_update")  # of small numbers: they show rounding enlarged
# A device each, compiled as quickly as in other tests.
ENVIRONMENT = os.environ | {"XLA_FLAGS": " ".join(quick_compilation.FLAGS), "PYTHONPATH": str(ROOT)}
TEXT = Path(__file__).resolve().parent / "tiny_text.py"


def start(count: int, directory: Path, *more: str, config: Path = SUBJECT) -> list[subprocess.Popen]:
    """So many processes of one run, a device each."""
    address = f"localhost:{launch.free_port()}"
    return [subprocess.Popen([sys.executable, "-m", "experiments.run", f"--config={config}", f"--workdir={directory}",
                              f"--config.distributed={address},{count},{index}", *more],
                             cwd=ROOT, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for index in range(count)]


def ends(running: list[subprocess.Popen]) -> tuple[list[int], list[str], list[str]]:
    """(exit codes, stdouts, stderrs)."""
    said = [process.communicate(timeout=1800) for process in running]
    return [process.returncode for process in running], [out for out, _ in said], [err for _, err in said]


def worst(one: Path, other: Path, arm: str) -> float:
    """The largest difference of an arm's rows of single seeds, relative to the larger of the value and 1, without QUOTIENTS."""
    found = [{row["row_id"]: row["value"] for row in
              records.select(records.read_measurements(path), arm=arm, role="seed").to_pylist()
              if row["metric"] not in QUOTIENTS} for path in (one, other)]
    assert found[0] and found[0].keys() == found[1].keys()
    pairs = [(found[0][key], found[1][key]) for key in found[0] if None not in (found[0][key], found[1][key])]
    return max(abs(x - y) / max(1.0, abs(x)) for x, y in pairs)


def in_one(directory: Path, *more: str, config: Path = SUBJECT) -> Path:
    """The run of a directory, begun or gone on with in one process, compiled as those of `start`."""
    subprocess.run([sys.executable, "-m", "experiments.run", f"--config={config}", f"--workdir={directory}", *more], cwd=ROOT,
                   check=True, env=ENVIRONMENT)
    return directory


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The undisturbed run of one process (read only)."""
    return in_one(tmp_path_factory.mktemp("alone") / "run")


@pytest.mark.parametrize(("count", "mesh"), [(2, "ensemble:2"), (4, "ensemble:2,data:2")])
def test_several_processes_write_one_bundle_with_the_rows_of_one(alone, tmp_path, count, mesh):
    codes, out, err = ends(start(count, tmp_path / "run", f"--config.mesh={mesh}"))
    assert codes == [0] * count, err
    assert "bundle" in out[0] and not any("bundle" in text for text in out[1:])
    good, bad = verify(tmp_path / "run")
    assert good and not bad
    assert worst(alone, tmp_path / "run", "sft") < (2e-6 if count == 2 else 1e-2)  # an axis `data` sums in another order


def test_a_run_of_two_stopped_by_sigterm_goes_on_in_one_process(alone, tmp_path):
    path = tmp_path / "run"
    running = start(2, path, "--config.mesh=ensemble:2")
    while not list(path.glob("rows/rlvr-00001*.parquet")) and running[0].poll() is None:
        time.sleep(0.01)
    running[1].send_signal(signal.SIGTERM)  # to one of them: both save and end
    codes, _, err = ends(running)
    assert codes == [75, 75] and all("is saved at step" in text for text in err), err
    in_one(path)
    assert not verify(path)[1] and worst(alone, path, "sft") < 2e-6


def test_post_training_of_a_directory_runs_in_two_processes(tmp_path):
    pytest.importorskip("tokenizers")
    tiny_hf.make(tmp_path, steps=40)
    more = (f"--config.model.directory={tmp_path / 'model'}", f"--config.data.train={tmp_path / 'train.jsonl'}",
            f"--config.data.evaluate={tmp_path / 'evaluate.jsonl'}")
    codes, _, err = ends(start(2, tmp_path / "two", "--config.mesh=fsdp:2", *more, config=TEXT))
    assert codes == [0, 0], err
    in_one(tmp_path / "one", *more, config=TEXT)
    assert not verify(tmp_path / "two")[1]
    assert worst(tmp_path / "one", tmp_path / "two", "sft-lr1") < 1e-2
    assert len(list((tmp_path / "two" / "policies").iterdir())) == 2
    np.testing.assert_equal([path.name for path in (tmp_path / "two" / "policies").iterdir() if path.suffix == ".tmp"], [])
