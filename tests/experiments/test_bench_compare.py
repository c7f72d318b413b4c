"""The benchmark at its smallest: its table, its bundle, its pair; ratios of toy sizes mean nothing and are not asserted."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments import bench_compare, run
from jaxpost import formats, records
from jaxpost.records.verify import verify

from configs import bench_compare as config_file  # isort: skip


@pytest.mark.slow
def test_the_bundle_holds_targets_and_costs(tmp_path):
    path = tmp_path / "run"
    assert run.main(["--config=bench_compare:smoke", f"--workdir={path}"]) == 0
    assert not verify(path)[1]
    targets = {target["name"]: target for target in records.storage.read_json(path / "manifest.json")["targets"]}
    assert set(targets) - {"torch float32", "torch float64"} == {"report", "bandwidth", "spectra", "memory"}
    for target in targets.values():
        assert target["spread"][0] <= target["measured"] <= target["spread"][1] and target["met"] in (True, False)
    assert {"bench.element", "bench.top"} <= set(pq.read_table(path / "costs.parquet")["phase"].to_pylist())
    assert not (path / "pairs").exists()


def test_the_pair_is_a_base_and_a_small_update_of_it(tmp_path):
    model = config_file.get_config("smoke").model
    base, tuned = (formats.open_checkpoint(side) for side in bench_compare.write_pair(tmp_path, model, 1, 16))
    assert base.tensors.keys() == tuned.tensors.keys() and len(base.tensors) == 14
    name = "model.layers.0.mlp.down_proj.weight"
    w0, w1 = (side.read(name).astype(np.float32) for side in (base, tuned))
    assert w0.shape == (64, 96) and w0.std() == pytest.approx(0.02, rel=0.05)
    assert 0.05 < np.mean(w0 != w1) < 0.5 and np.abs(w1 - w0).max() < 1e-3
    assert np.array_equal(w0, np.asarray(bench_compare.tensors(model, 1, 16, False)[name]).astype(np.float32))


def test_copying_has_a_bandwidth():
    assert bench_compare.copy_bandwidth(2**20) > 0


@pytest.mark.parametrize(("override", "expected"), [
    ("--config.turns=0", "turns=0: must be at least 1"), ("--config.torch_layers=3", "more than model.layers=2"),
    ("--config.memory_gib=0.1", "the least is 0.5"), ("--config.mesh.ensemble=2", "runs on one device")])
def test_a_mistake_is_one_line_with_the_fix(capsys, tmp_path, override, expected):
    assert run.main(["--config=bench_compare:smoke", f"--workdir={tmp_path}/run", override]) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1
