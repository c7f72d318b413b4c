"""L1 and spectral norms of updates against float64 numpy, their nulls against random matrices, one matrix at a time."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import scipy.special

from jaxpost import probes, records
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.updates import distances as forgetting
from jaxpost.probes.weights import visibility

KEY = jax.random.key(0)
INFOS = [TensorInfo("embed", "embed", None, (24, 10)), TensorInfo("layers/0/q", "q", 0, (12, 10)),
         TensorInfo("layers/1/q", "q", 1, (12, 10)), TensorInfo("layers/0/up", "up", 0, (8, 30))]
PROBE = forgetting.WeightDistances()


def on_grid(w):
    return np.asarray(visibility.bf16_values(visibility.bf16_codes(jnp.asarray(w, jnp.float32))))


@pytest.fixture(scope="module")
def weights0():
    rng = np.random.default_rng(0)
    return {info.name: on_grid(0.1 * rng.normal(size=info.shape)) for info in INFOS}


@pytest.fixture(scope="module")
def weights1(weights0):
    rng = np.random.default_rng(1)
    return {name: (w + 1e-3 * rng.normal(size=w.shape)).astype(np.float32) for name, w in weights0.items()}


def context(weights0, weights1):
    return probes.Context({probes.WEIGHTS0: weights0, probes.WEIGHTS: weights1})


@pytest.fixture(scope="module")
def state(weights0):
    return PROBE.init(context(weights0, weights0), KEY)


def measured(state, weights0, weights1):
    return jax.device_get(jax.jit(PROBE.measure)(context(weights0, weights1), state, KEY)[1])


def rows_of(state, *values, infos=INFOS, probe=PROBE):
    columns = probe.finalize(jax.tree.map(lambda *x: np.stack(x), *values), state, infos=infos, arm="a", step=3,
                             seeds=range(len(values)), conditional_on="base", row_ids=records.row_ids)
    return records.measurement_table(columns).to_pylist()


def one(rows, metric, **wanted):
    wanted = {"role": "seed", "granularity": "global", "dtype": "fp32", "seed": 0} | wanted
    found = [r for r in rows if r["metric"] == metric and all(r[k] == v for k, v in wanted.items())]
    assert len(found) == 1, (metric, wanted, len(found))
    return found[0]


def test_values_are_those_of_float64_numpy_in_both_views(state, weights0, weights1):
    rows = rows_of(state, measured(state, weights0, weights1))
    for dtype, view in (("fp32", lambda w: w), ("bf16", on_grid)):
        d = {n: view(weights1[n]).astype(np.float64) - weights0[n] for n in weights0}
        wanted = {"weight.l1_sum": sum(np.abs(x).sum() for x in d.values()),
                  "weight.l1_mean": sum(np.abs(x).sum() for x in d.values()) / sum(x.size for x in d.values()),
                  "weight.spectral_norm": sum(np.linalg.norm(x, 2) for x in d.values())}
        for metric, value in wanted.items():
            row = one(rows, metric, dtype=dtype)
            assert row["value"] == pytest.approx(value, rel=1e-6) and abs(row["value"] - value) <= 2 * row["num_err"]
            assert row["noise_floor"] > 0
            if dtype == "fp32":
                assert row["null_lo"] < row["null_value"] < row["null_hi"]
            else:  # of what bf16 shows the law is not known
                assert row["null_value"] is None and "no calibrated null" in row["status_reason"]
    body = one(rows, "weight.l1_mean", granularity="body")
    parts = [d for n, d in {n: weights1[n].astype(np.float64) - weights0[n] for n in weights0}.items() if n != "embed"]
    assert body["value"] == pytest.approx(sum(np.abs(x).sum() for x in parts) / sum(x.size for x in parts), rel=1e-6)


def test_one_matrix_at_a_time_reads_the_same_bits(state, weights0, weights1):
    together = measured(state, weights0, weights1)
    for name in weights0:
        alone = measured({name: state[name]}, {name: weights0[name]}, {name: weights1[name]})
        for key, x in alone[name].items():
            np.testing.assert_array_equal(x, together[name][key], err_msg=f"{name} {key}")


def test_the_floor_of_l1_is_the_error_that_one_rounding_makes(state, weights0, weights1):
    """The mean over what lies in the bf16 cell of an entry, drawn; of float32, whose cells are 2^16 times finer, a share."""
    rng, error = np.random.default_rng(4), 0.0
    for w in weights1.values():
        near = np.spacing(w).astype(np.float64) * 2.0**16 * rng.uniform(-0.5, 0.5, (400, *w.shape)) + on_grid(w)
        error += np.abs(near.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64) - near).sum((1, 2)).mean()
    rows = rows_of(state, measured(state, weights0, weights1))
    for dtype, share in (("bf16", 1.0), ("fp32", 2.0**-16)):
        assert one(rows, "weight.l1_sum", dtype=dtype)["noise_floor"] == pytest.approx(share * error, rel=0.02)


def test_a_scaled_update_scales_value_null_and_error_but_not_the_floor(weights0, state):
    rng = np.random.default_rng(2)
    step = {n: on_grid(2.0**-9 * rng.integers(-3, 4, size=w.shape)) for n, w in weights0.items()}
    base = {n: on_grid(np.sign(w)) for n, w in weights0.items()}
    readings = [measured(state, base, {n: base[n] + c * step[n] for n in base}) for c in (1, 2)]
    rows = rows_of(state, *readings)
    for metric in PROBE.metrics:
        first, second = (one(rows, metric, seed=s) for s in (0, 1))
        for column in ("value", "null_value", "null_lo", "null_hi", "num_err"):
            assert second[column] == pytest.approx(2 * first[column], rel=1e-6)
        assert second["noise_floor"] == pytest.approx(first["noise_floor"], rel=0.5)


def test_sparse_and_low_rank_updates_leave_their_nulls_on_the_known_side(weights0, state):
    rng = np.random.default_rng(3)
    sparse = {n: w + 0.01 * (rng.random(w.shape) < 0.05).astype(np.float32) for n, w in weights0.items()}
    signs = {n: (w + 0.01 * np.outer(rng.choice([-1, 1], w.shape[0]), rng.choice([-1, 1], w.shape[1]))).astype(np.float32)
             for n, w in weights0.items()}
    rows = rows_of(state, measured(state, weights0, sparse), measured(state, weights0, signs))
    assert one(rows, "weight.l1_mean")["value"] < 0.5 * one(rows, "weight.l1_mean")["null_lo"]
    equal = one(rows, "weight.l1_mean", seed=1)
    assert equal["value"] > equal["null_hi"]  # entries of one size have the largest L1 norm there is
    rank_one = one(rows, "weight.spectral_norm", seed=1)
    assert rank_one["value"] > 1.5 * rank_one["null_hi"]


def test_the_l1_null_is_the_law_of_random_directions():
    rng = np.random.default_rng(4)
    for n in (4, 60):
        u = rng.normal(size=(200_000 // n, n))
        l1 = np.abs(u / np.linalg.norm(u, axis=1, keepdims=True)).sum(1)
        exact = n * np.exp(scipy.special.gammaln(n / 2) - scipy.special.gammaln((n + 1) / 2)) / np.sqrt(np.pi)
        assert forgetting.l1_of_a_direction(n) == pytest.approx(exact, rel=0.1 / n**2)
        assert l1.mean() == pytest.approx(exact, rel=5e-3)
    assert l1.var() == pytest.approx(1 - 3 / np.pi, rel=0.1)


def test_gaussian_updates_lie_near_their_nulls(weights0, state, weights1):
    rows = rows_of(state, measured(state, weights0, weights1))
    row = one(rows, "weight.spectral_norm")
    assert row["value"] == pytest.approx(row["null_value"], rel=0.1)
    row = one(rows, "weight.l1_mean")
    assert row["null_lo"] < row["value"] < row["null_hi"]


def test_krylov_is_within_the_bound_it_carries():
    rng = np.random.default_rng(5)
    a = rng.normal(size=(640, 530)).astype(np.float32) + np.outer(rng.normal(size=640), rng.normal(size=530)).astype(np.float32)
    value, error = jax.jit(forgetting.spectral_norm)(jnp.asarray(a), KEY)
    exact = np.linalg.norm(a.astype(np.float64), 2)
    assert abs(float(value) - exact) <= float(error) < 1e-4 * exact and float(value) == pytest.approx(exact, rel=1e-5)


def test_no_update_reads_zero_and_a_broken_matrix_keeps_its_rows(weights0, state):
    broken = {**weights0, "layers/0/q": weights0["layers/0/q"] * np.float32(np.nan)}
    rows = rows_of(state, measured(state, weights0, weights0), measured(state, weights0, broken))
    for metric in PROBE.metrics:
        still = one(rows, metric)
        assert (still["value"], still["status"], still["null_value"]) == (0.0, "ok", 0.0)
        assert one(rows, metric, seed=1)["status"] == "nan" and one(rows, metric, seed=1)["value"] is None
        assert one(rows, metric, seed=1, granularity="tensor", tensor="layers/1/q")["status"] == "ok"


def test_the_probe_follows_the_contract_and_refuses(weights0, state):
    assert isinstance(PROBE, probes.Probe) and set(PROBE.metrics) <= set(probes.METRICS)
    shapes = {n: jax.ShapeDtypeStruct(w.shape, w.dtype) for n, w in weights0.items()} | {
        "big": jax.ShapeDtypeStruct((4096, 4096), jnp.float32)}
    cost = PROBE.cost(context(shapes, shapes))
    assert 0 < cost.factorisations < 1e10 and 1e9 < cost.products < 1e11 and cost.held == 6 * 4 * 4096**2
    with pytest.raises(ValueError, match="lane sidecar or offline"):
        forgetting.WeightDistances(lane="inline")
    with pytest.raises(ValueError, match="null_draws >= 1"):
        forgetting.WeightDistances(null_draws=0)
    with pytest.raises(ValueError, match="shapes"):
        PROBE.measure(context(weights0, {n: np.zeros((5, 7), np.float32) for n in weights0}), state, KEY)
