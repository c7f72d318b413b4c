"""Benchmarks beside torch at their smallest: bundles, equal results, counted work; times mean nothing and are not asserted."""

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments import bench_sample, bench_train, run
from experiments.harness import benchmark
from experiments.harness.errors import UserError
from jaxpost import models, records
from jaxpost.records.verify import verify

TINY = models.TransformerConfig(vocab=13, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ff=24)


@pytest.mark.slow
@pytest.mark.parametrize("name, targets", [
    ("bench_sample", {"generate"}), ("bench_train", {"torch", "limit"}),
    ("bench_rl", {"trl, small", "trl, rlvr_sparsity"})])
def test_the_bundle_holds_targets_and_costs(tmp_path, name, targets):
    pytest.importorskip("transformers", reason="pip install -e '.[test,parity]'")
    assert run.main([f"--config={name}:smoke", f"--workdir={tmp_path}/run"]) == 0
    assert not verify(tmp_path / "run")[1]
    found = {target["name"]: target for target in records.storage.read_json(tmp_path / "run" / "manifest.json")["targets"]}
    assert set(found) == targets and all(t["spread"][0] <= t["measured"] <= t["spread"][1] for t in found.values())
    costs = pq.read_table(tmp_path / "run" / "costs.parquet").to_pylist()
    assert len({cost["value"] for cost in costs if cost["quantity"] == "flops"}) == 1  # equal work


@pytest.mark.slow
@pytest.mark.parametrize("name, targets", [
    ("bench_start", {"simplicity_bias:smoke, cold", "simplicity_bias:smoke, warm"}),
    ("bench_scaling", {"layers", "width", "sequence", "rows", "ensemble", "group", "matrices"})])
def test_benchmarks_without_a_peer_run_too(tmp_path, name, targets):
    assert run.main([f"--config={name}:smoke", f"--workdir={tmp_path}/run"]) == 0
    assert not verify(tmp_path / "run")[1]
    found = records.storage.read_json(tmp_path / "run" / "manifest.json")["targets"]
    assert {target["name"] for target in found} == targets


def test_counted_operations_are_those_of_the_products():
    """Against XLA's own count of one forward pass, which adds the element-wise ones and does not know of the causal half."""
    rows, length = 3, 64
    params = models.init(TINY, jax.random.key(0))
    pass_ = jax.jit(lambda tokens: models.apply(TINY, params, tokens, valid_BxS=jnp.ones(tokens.shape, bool),
                                                first=length - 1).logits)
    counted = pass_.lower(jnp.ones((rows, length), jnp.int32)).compile().cost_analysis()["flops"]
    masked = 2 * rows * 2 * TINY.heads * TINY.head_dim * length * (length - 1) / 2  # one layer
    layers = TINY.layers  # XLA counts the body of a scan once
    head = 2 * rows * TINY.width * TINY.vocab
    ours = (benchmark.operations(TINY, rows, length, 1) - head) / layers + head + masked
    assert ours < counted < 1.5 * ours


def test_another_model_is_noticed():
    params, other = (models.init(TINY, jax.random.key(seed)) for seed in (0, 1))
    prompt = np.ones((4, 3), np.int32)
    greedy = np.asarray(models.sample(TINY, params, prompt, jax.random.key(0), length=5, temperature=1e-4,
                                      eos=benchmark.NEVER).tokens_NxT)
    bench_sample.agree(TINY, params, prompt, greedy)
    with pytest.raises(UserError, match="the two models are not the same"):
        bench_sample.agree(TINY, other, prompt, greedy)
    bench_train.agree(np.asarray([2.0, 1.0]), np.asarray([2.0, 1.00001]))
    with pytest.raises(UserError, match="losses differ at step 2: ours 1.000000, theirs 1.010000"):
        bench_train.agree(np.asarray([2.0, 1.0]), np.asarray([2.0, 1.01]))


def test_a_peer_that_is_not_installed_is_named_with_the_command():
    with pytest.raises(UserError, match=r"not_there, which is not installed: pip install -e '.\[parity\]'"):
        benchmark.peer("not_there")


@pytest.mark.parametrize(("config", "override", "expected"), [
    ("bench_train", "turns=0", "turns=0: must be at least 1"), ("bench_train", "mesh.ensemble=2", "runs on one device"),
    ("bench_rl", "selected=('smal',)", "case 'smal' is not known; did you mean 'small'?"),
    ("bench_scaling", "sizes.rows=(4,)", "sizes.rows=(4,): an exponent needs two sizes at least")])
def test_a_mistake_is_one_line_with_the_fix(capsys, tmp_path, config, override, expected):
    assert run.main([f"--config={config}:smoke", f"--workdir={tmp_path}/run", f"--config.{override}"]) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1
