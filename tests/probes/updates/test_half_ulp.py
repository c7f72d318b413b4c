"""Half-ULP shares against bit patterns and shuffles."""

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxpost import probes
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.updates import half_ulp
from jaxpost.probes.weights import visibility
from tests.probes.gate_rows import on_grid, one, rows_of

KEY = jax.random.key(0)
PREVIOUS = probes.Need("weights", (("checkpoint", "previous"),))
INFOS = [TensorInfo("embed", "embed", None, (24, 10)), TensorInfo("layers/0/q", "q", 0, (40, 30)),
         TensorInfo("layers/1/q", "q", 1, (40, 30))]


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(1)
    start = {info.name: on_grid(0.05 * rng.normal(size=info.shape)) for info in INFOS}
    end = {name: (w + 2e-4 * rng.standard_t(3, size=w.shape)).astype(np.float32) for name, w in start.items()}
    return start, end


def measured(probe, start, end):
    ctx = probes.Context({probe.before: start, probes.WEIGHTS: end})
    return jax.device_get(jax.jit(probe.measure)(ctx, probe.init(ctx, KEY), KEY)[1])


STEP = half_ulp.HalfULP(before=PREVIOUS, shifts=(-2, 0, 1))


def test_counts_are_those_of_exact_half_ulps_and_at_threshold_0_those_of_changed_codes(weights):
    start, end = weights
    values = measured(STEP, start, end)
    rows = rows_of(STEP, values, infos=INFOS)
    changed = {n: np.asarray(visibility.bf16_codes(end[n]) != visibility.bf16_codes(start[n])) for n in start}
    for name in start:
        assert values[name]["count"][1] == changed[name].sum()
        d = (end[name] - start[name]).astype(np.float64)
        exponent = np.floor(np.log2(np.maximum(np.abs(start[name]), 1e-30)))
        half = 2.0 ** (exponent - 8)
        inner = (np.abs(start[name]) == 2.0**exponent) & (d * start[name] < 0)  # towards zero from a power of two
        for i, j in ((0, -2), (2, 1)):
            assert values[name]["count"][i] == (np.abs(d) > np.where(inner, half / 2, half) * 2.0**j).sum()
    row = one(rows, "ulp.beyond", params="log2=0;since=previous", granularity="global")
    total = sum(w.size for w in start.values())
    assert row["value"] == pytest.approx(sum(c.sum() for c in changed.values()) / total)
    assert row["null_kind"] == "halfulp_permuted" and row["null_lo"] < row["value"] < row["null_hi"]  # a blind update


def test_at_and_beside_half_an_ulp_the_rule_is_that_of_the_cast():
    """Powers of two, odd and even mantissas of both signs; a tie goes to the even neighbour."""
    w = np.array([sign * (1 + k / 128) for k in range(128) for sign in (1, -1)], np.float32)
    for share in (0.5, 1.0):  # of half an ULP: below a power of two the spacing is half as wide
        for near in (1 - 2.0**-6, 1.0, 1 + 2.0**-6):
            for side in (1, -1):
                d = np.full(w.shape, side * share * near * 2.0**-8, np.float32)
                moved = (w + d).astype(ml_dtypes.bfloat16).astype(np.float32) != w
                found = half_ulp.beyond(jnp.asarray(d), visibility.bf16_codes(jnp.asarray(w)))
                np.testing.assert_array_equal(found, moved)


def test_the_blind_null_is_the_mean_over_shuffles_at_every_threshold(weights):
    start, end = weights
    values = measured(STEP, start, end)["layers/0/q"]
    rng, w0 = np.random.default_rng(2), start["layers/0/q"]
    d = end["layers/0/q"] - w0
    codes = visibility.bf16_codes(w0)
    scales = [4.0, 1.0, 0.5, 1 / float(values["median"])]
    for i, scale in enumerate(scales):
        draws = (rng.permutation(d.ravel()).reshape(d.shape) * np.float32(scale) for _ in range(60))
        shuffled = [int(half_ulp.beyond(jnp.asarray(x), codes).sum()) for x in draws]
        assert values["expected"][i, 0] == pytest.approx(np.mean(shuffled), abs=4 * np.std(shuffled) / np.sqrt(60))
        assert np.sqrt(values["variance"][i, 0]) > 0.7 * np.std(shuffled)


def test_the_size_free_share_ignores_size_and_sees_where_the_update_lies(weights):
    start, _ = weights
    rng = np.random.default_rng(3)
    blind = {n: 2.0**-20 * rng.integers(1, 60, size=w.shape) * rng.choice([-1, 1], w.shape) for n, w in start.items()}
    follows = {n: on_grid(2.0**-9 * w * rng.uniform(0.5, 1.5, size=w.shape)) for n, w in start.items()}
    probe = half_ulp.HalfULP(shifts=(1,))

    def of(step, scale):
        end = {n: (w.astype(np.float64) + scale * step[n]).astype(np.float32) for n, w in start.items()}
        return measured(probe, start, end)

    rows = rows_of(probe, of(blind, 1), of(blind, 4), of(follows, 1), infos=INFOS)
    first, larger, aligned = (one(rows, "ulp.size_free", seed=s, granularity="global") for s in range(3))
    assert larger["value"] == pytest.approx(first["value"], abs=2e-3)
    assert first["null_lo"] < first["value"] < first["null_hi"]
    assert abs(aligned["value"] - aligned["null_value"]) > 3 * (aligned["null_hi"] - aligned["null_value"])
    assert one(rows, "ulp.median", seed=1, granularity="global")["value"] == pytest.approx(
        4 * one(rows, "ulp.median", granularity="global")["value"], rel=0.02)
    assert not [r for r in rows if "log2=0" in (r["params"] or "")]


def test_one_matrix_at_a_time_reads_the_same_bits(weights):
    start, end = weights
    together = measured(STEP, start, end)
    for name in start:
        alone = measured(STEP, {name: start[name]}, {name: end[name]})
        chex.assert_trees_all_equal(alone[name], together[name])


def test_bf16_masters_have_the_calibrated_null_and_odd_updates_their_statuses(weights):
    start, end = weights
    rounded = {n: on_grid(w) for n, w in end.items()}
    broken = {**end, "embed": end["embed"] * np.float32(np.nan)}
    rows = rows_of(STEP, *(measured(STEP, start, w) for w in (rounded, start, broken)), infos=INFOS)
    row = one(rows, "ulp.beyond", params="log2=0;since=previous", granularity="global")
    assert row["null_kind"] == "law_range" and row["dtype"] == "bf16"
    assert row["null_value"] == pytest.approx(row["value"], rel=1e-3)
    still = one(rows, "ulp.size_free", seed=1, granularity="global")
    assert still["status"] == "degenerate" and "did not move" in still["status_reason"]
    assert one(rows, "ulp.beyond", seed=1, params="log2=0;since=previous", granularity="global")["value"] == 0.0
    for metric, params in (("ulp.beyond", "log2=0;since=previous"), ("ulp.size_free", "since=previous"),
                           ("ulp.median", "since=previous")):
        nan = one(rows, metric, seed=2, params=params, granularity="global")
        assert nan["status"] == "nan" and nan["value"] is None
        assert one(rows, metric, seed=2, params=params, granularity="body")["status"] == "ok"


def test_a_blind_update_of_bf16_masters_reads_as_its_null_at_every_threshold():
    rng = np.random.default_rng(4)
    w0 = on_grid(rng.normal(size=(300, 200)) * 0.02)
    for size in (2e-5, 3e-4):  # a quarter and nine tenths of the entries change
        w1 = on_grid(w0 + size * rng.normal(size=w0.shape))
        found = jax.device_get(half_ulp.half_ulp_counts(jnp.asarray(w0), jnp.asarray(w1), (-4, -1, 0, 1, 2, 4)))
        assert found["bf16"] == 1
        np.testing.assert_allclose(found["count"], found["expected"][:, 0], atol=6e-3 * w0.size)


def test_contract_cost_and_refusals(weights):
    probe = half_ulp.HalfULP()
    assert isinstance(probe, probes.Probe) and set(probe.metrics) <= set(probes.METRICS)
    assert probe.cost(probes.Context(dict.fromkeys((probes.WEIGHTS0, probes.WEIGHTS), weights[0]))).streamed > 0
    for make, message in (
        (lambda: half_ulp.HalfULP(before=probes.PARAMS0), "weights of an earlier checkpoint; found params"),
        (lambda: half_ulp.HalfULP(shifts=(1, 1)), "distinct integers"),
        (lambda: half_ulp.HalfULP(lane="inline"), "sidecar or offline"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
