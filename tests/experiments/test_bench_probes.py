"""The benchmark at its smallest: its table, its bundle, its oracle; ratios of toy sizes mean nothing and are not asserted."""

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments import bench_probes, run
from jaxpost import records
from jaxpost.records.verify import verify


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "run"
    assert run.main(["--config=bench_probes:smoke", f"--workdir={path}"]) == 0
    return path


@pytest.mark.slow
def test_the_bundle_holds_targets_costs_and_the_angle(finished):
    assert not verify(finished)[1]
    manifest = records.storage.read_json(finished / "manifest.json")
    targets = {target["name"]: target for target in manifest["targets"]}
    assert set(targets) == {"economy", "coherence", "memory", "subspaces", "angle"}
    for target in targets.values():
        assert target["spread"][0] <= target["measured"] <= target["spread"][1] and target["met"] in (True, False)
    costs = pq.read_table(finished / "costs.parquet").to_pylist()
    assert {"bench.economy", "bench.step-beside-economy", "bench.coherence", "bench.exact"} <= {cost["phase"] for cost in costs}
    (row,) = records.read_measurements(finished).to_pylist()  # no price in a science row
    assert row["metric"] == "bench.angle_error" and row["value"] < 1e-3 and row["num_err"] < 1e-3


def test_the_planted_matrix_has_the_planted_spectrum():
    a, right = bench_probes.planted(96, 8, 0.2)
    u, s, vt = np.linalg.svd(a.astype(np.float64))
    np.testing.assert_allclose(s[:8], np.linspace(2.0, 1.2, 8), rtol=1e-5)
    assert s[8] == pytest.approx(1.0, rel=1e-5)
    np.testing.assert_allclose(np.linalg.svd(vt[:8] @ right, compute_uv=False), 1.0, atol=1e-6)


def test_memory_counts_arguments_results_and_temporaries_once():
    compiled = jax.jit(lambda x: (x @ x).sum()).lower(jnp.ones((64, 64))).compile()
    assert 64 * 64 * 4 <= bench_probes.peak_bytes(compiled) <= 4 * 64 * 64 * 4


def test_turns_alternate_and_the_first_of_each_is_not_counted():
    called = []
    first, second = bench_probes.by_turns(lambda: called.append("a"), lambda: called.append("b"), 3)
    assert "".join(called) == "ab" * 4 and first.shape == second.shape == (3,)


@pytest.mark.parametrize(("override", "expected"), [
    ("--config.presets=('econmy',)", "did you mean 'economy'?"),
    ("--config.presets=('full',)", "'full' is no preset with a budget"), ("--config.turns=0", "turns=0: must be at least 1"),
    ("--config.train.microbatch=5", "does not divide train.rows=16; nearest valid: 4"),
    ("--config.subspaces.k=256", "needs k < size"), ("--config.mesh.ensemble=2", "runs on one device"),
    ("--config.train.learning_rate=0.0", "must be greater than 0")])
def test_a_mistake_is_one_line_with_the_fix(capsys, tmp_path, override, expected):
    assert run.main(["--config=bench_probes:smoke", f"--workdir={tmp_path}/run", override]) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1
