"""Several processes decide alike, hold each other's arrays, and write checkpoints that one process reads on another mesh."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from experiments.launch import free_port
from jaxpost import processes, sharding
from jaxpost.checkpoint import CheckpointError, Checkpoints

ROOT = Path(__file__).resolve().parents[1]


class State(NamedTuple):
    step: Any
    params: Any
    probe_state: Any = None


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_agree_and_one_reads_what_they_saved(tmp_path, count):
    port = str(free_port())
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // count}"}
    started = [subprocess.Popen([sys.executable, Path(__file__).with_name("process_group.py"), port, str(count), str(index),
                                 tmp_path / "saves"], env=environment, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT) for index in range(count)]
    said = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0] * count, said
    assert all("agreed" in text for text in said), said
    with Checkpoints(tmp_path / "saves") as saves:
        assert saves.latest() == (7, {"about": "several processes"})
        place = NamedSharding(sharding.make_mesh({"data": 4, "tensor": 2}), PartitionSpec(None, None))
        shapes = {"split": (8, 3), "same": (3,), "own": (3,)}
        abstract = State(jax.ShapeDtypeStruct((), np.uint32),
                         {name: jax.ShapeDtypeStruct(shape, np.float32, sharding=place if name == "split" else None)
                          for name, shape in shapes.items()})
        read = saves.restore(7, abstract)
    np.testing.assert_array_equal(read.params["split"], np.arange(24.0).reshape(8, 3))
    assert read.params["split"].sharding == place and int(read.step) == 7


def test_one_process_agrees_with_itself():
    assert processes.agreed(lambda: {"a": 1}) == {"a": 1} and processes.any_of(True, False) == (True, False)
    assert processes.broadcast(lambda: b"x") == b"x" and processes.first() and not processes.several()


def test_a_lost_process_is_no_damaged_checkpoint(tmp_path, monkeypatch):
    broken = "UNKNOWN: Gloo AllGather failed: Connection closed by peer [127.0.0.1]:20888"

    def fail(*given):
        raise ValueError(broken)

    with Checkpoints(tmp_path) as saves:
        saves.save(1, State(np.uint32(1), {"a": np.ones(2, np.float32)}), {})
        saves.wait()
        monkeypatch.setattr("jaxpost.checkpoint._digests", fail)
        for several, kind in ((False, CheckpointError), (True, ValueError)):
            monkeypatch.setattr("jaxpost.processes.several", lambda several=several: several)
            with pytest.raises(kind, match="Gloo"):
                saves.restore_params(1)
