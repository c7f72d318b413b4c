"""Gram rows: planted geometries, numpy as the oracle, invariances, degenerate gradients, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxpost import probes, records
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.gradients.gram import GradientGram, estimates

KEY = jax.random.key(0)
PARAMS = {"layers": {"w": jnp.zeros((2, 15))}}


def linear(params, example):
    """Gradient = the example itself."""
    return jnp.vdot(params["layers"]["w"], example)


def rows_of(g, m=None):
    examples = jnp.asarray(g.reshape(len(g), 2, 15))
    probe = GradientGram(linear, m or len(g))
    params = jax.tree.map(lambda x: x.astype(examples.dtype), PARAMS)
    ctx = probes.Context({probes.PARAMS: params, probes.PROBE_BATCH: examples})
    values = jax.tree.map(lambda x: np.asarray(x)[None], jax.jit(probe.measure)(ctx, probe.init(ctx, KEY), KEY)[1])
    columns = probe.finalize(values, {}, infos=gradient_sums.inventory(PARAMS), arm="a", step=0, seeds=[0],
                             conditional_on="base", row_ids=records.row_ids, dtype=None)
    assert probe.arrays(values)["gram"].shape == (1, 2, m or len(g), m or len(g))
    return records.measurement_table(columns).to_pylist()


def one(rows, metric, **wanted):
    wanted = {"granularity": "global"} | wanted
    (row,) = [r for r in rows if r["metric"] == f"gradient.gram.{metric}" and all(r[k] == v for k, v in wanted.items())]
    return row


def by_hand(g):
    sigma2 = np.linalg.svd(g, compute_uv=False) ** 2
    p = sigma2 / sigma2.sum()
    unit = g / np.linalg.norm(g, axis=1, keepdims=True)
    cosine = unit @ unit.T
    return {"effective_rank": np.exp(scipy.stats.entropy(p)), "top_share": p[0],
            "mean_cosine": cosine[~np.eye(len(g), dtype=bool)].mean()}


def test_rows_are_those_of_numpy_with_a_brute_force_jackknife():
    with jax.enable_x64(True):
        g = np.random.default_rng(0).normal(size=(7, 30)) + 0.5
        rows = rows_of(g)
    for name, wanted in by_hand(g).items():
        row = one(rows, name)
        assert row["value"] == pytest.approx(wanted, rel=1e-11), name
        left = np.asarray([by_hand(np.delete(g, i, 0))[name] for i in range(7)])
        half = scipy.stats.t.ppf(0.975, 6) * np.sqrt(6 / 7 * np.sum((left - left.mean()) ** 2))
        assert row["ci_hi"] == pytest.approx(wanted + half, rel=1e-9) and (row["unit"], row["n_units"]) == ("example", 7)
        layer = one(rows, name, granularity="layer", layer=1)
        assert layer["value"] == pytest.approx(by_hand(g[:, 15:])[name], rel=1e-10)


def test_planted_geometries_and_their_nulls():
    with jax.enable_x64(True):
        q = np.linalg.qr(np.random.default_rng(1).normal(size=(30, 6)))[0].T
        scale = np.asarray([1.0, 1.0, 2.0, 2.0, 3.0, 3.0])[:, None]
        apart, alike = rows_of(q * scale), rows_of(q[:1] * scale)
    for name in ("effective_rank", "top_share"):
        row = one(apart, name)
        assert row["value"] == pytest.approx(row["null_value"], rel=1e-10) and row["null_kind"] == "orthogonal"
    assert one(apart, "top_share")["value"] == pytest.approx(9 / 28) and abs(one(apart, "mean_cosine")["value"]) < 1e-12
    assert one(alike, "effective_rank")["value"] == pytest.approx(1, rel=1e-9)
    assert one(alike, "mean_cosine")["value"] == pytest.approx(1) and one(alike, "top_share")["value"] == pytest.approx(1)


def test_the_band_of_random_directions_holds_95_percent():
    rng, inside = np.random.default_rng(2), 0
    for _ in range(400):
        g = rng.normal(size=(5, 200))
        inside += abs(estimates(g @ g.T)["mean_cosine"]) < 1.959964 * np.sqrt(2 / (5 * 4 * 200))
    assert 0.92 < inside / 400 < 0.98


def test_scale_rotation_and_order_change_nothing():
    rng = np.random.default_rng(3)
    g, turn = rng.normal(size=(6, 30)) + 0.3, np.linalg.qr(rng.normal(size=(30, 30)))[0]
    plain = estimates(g @ g.T)
    for other in (g * 1e-3, g @ turn, g[rng.permutation(6)]):
        for name, x in estimates(other @ other.T).items():
            assert x == pytest.approx(plain[name], rel=1e-9)


def test_zero_and_broken_gradients_are_rows_with_a_status_and_misfits_are_refused():
    g = np.random.default_rng(4).normal(size=(4, 30)).astype(np.float32)
    broken = g.copy()
    g[1], broken[2, 0] = 0.0, np.nan
    for x, status, reason in ((g, "degenerate", "a gradient is zero"), (broken, "nan", "a gradient is not finite")):
        row = one(rows_of(x), "mean_cosine")
        assert (row["status"], row["status_reason"], row["value"]) == (status, reason, None)
    assert one(rows_of(broken), "mean_cosine", granularity="layer", layer=1)["status"] == "ok"
    with pytest.raises(ValueError, match="examples=9 is more than the 4 of the probe batch"):
        rows_of(g, 9)
    with pytest.raises(ValueError, match="needs examples >= 2"):
        GradientGram(linear, 1)
    probe = GradientGram(linear, 4)
    assert isinstance(probe, probes.Probe) and set(probe.metrics) <= set(probes.METRICS)
    shapes = jax.eval_shape(lambda: probes.Context({probes.PARAMS: PARAMS, probes.PROBE_BATCH: jnp.zeros((4, 2, 15))}))
    assert probe.cost(shapes).held > 0
