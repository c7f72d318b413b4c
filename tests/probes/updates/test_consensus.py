"""Consensus over runs: histograms by brute force, the blind law by enumeration, planted consensus, the jackknife."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxpost.probes import base
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.updates import consensus
from tests.probes.trajectories import check_lanes, context, grid, ids, make_base, measured, one, over_time

INFOS = (TensorInfo("l0/q", "q", 0, (60, 40)), TensorInfo("embed", "embed", None, (21, 33)))
PROBE = consensus.Consensus()
W0 = make_base(INFOS)
RUNS = 4


def runs(shared=0.0, n=RUNS, seed=1, rows=False):
    rng = np.random.default_rng(seed)
    out = {}
    for name, w in W0.items():
        still = rng.random(w.shape if not rows else (len(w), 1)) < shared  # what no run moves
        out[name] = np.stack([np.float32(np.where(still, w, w + 3e-3 * rng.normal(size=w.shape))) for _ in range(n)])
    return out


@pytest.fixture(scope="module")
def blind():
    return over_time(PROBE, INFOS, W0, {8: runs()})


def share(rows, j, role="estimate", n=RUNS, **scope):
    return one(rows, "weight.consensus.share", role=role, params=f"of={n};runs={j}", **({"granularity": "global"} | scope))


def test_packing_is_undone_for_every_size():
    rng = np.random.default_rng(0)
    for shape in ((3, 5), (8, 4), (7, 33)):
        mask = rng.random((2, *shape)) < 0.4
        words = np.stack([consensus.pack(jnp.asarray(x)) for x in mask])
        assert words.dtype == np.int32 and words.shape[1] == -(-mask[0].size // 32)
        np.testing.assert_array_equal(consensus.unpack(words, shape), mask)


def test_law_of_the_number_of_runs_by_enumeration():
    p = np.array([[0.1, 0.9], [0.4, 0.2], [0.7, 0.5]])
    expected = np.zeros((4, 2))
    for outcome in itertools.product((0, 1), repeat=3):
        expected[sum(outcome)] += np.prod([q if hit else 1 - q for q, hit in zip(p, outcome)], axis=0)
    np.testing.assert_allclose(consensus.run_counts(p), expected, rtol=1e-13)


def test_histogram_with_and_without_each_run():
    masks = np.random.default_rng(0).random((5, 9, 7)) < 0.5
    counts, without = consensus.histogram(masks)
    np.testing.assert_array_equal(counts, [(masks.sum(0) == j).sum() for j in range(6)])
    for r in range(5):
        others = np.delete(masks, r, 0).sum(0)
        np.testing.assert_array_equal(without[r], [(others == j).sum() for j in range(5)])


def test_shares_against_numpy_and_independence_against_binomials(blind):
    w1 = runs()
    seen = {i.name: np.stack([grid(w) != W0[i.name] for w in w1[i.name]]) for i in INFOS}
    together = np.concatenate([m.reshape(RUNS, -1) for m in seen.values()], 1)
    for j in range(RUNS + 1):
        np.testing.assert_allclose(share(blind, j)["value"], (together.sum(0) == j).mean(), rtol=1e-12)
        tensor = share(blind, j, granularity="tensor", tensor="embed")
        np.testing.assert_allclose(tensor["value"], (seen["embed"].sum(0) == j).mean(), rtol=1e-12)
    q = together.mean(1)
    np.testing.assert_allclose(share(blind, RUNS, role="null")["value"], q.prod(), rtol=1e-12)
    np.testing.assert_allclose(share(blind, 0, role="null")["value"], (1 - q).prod(), rtol=1e-12)
    np.testing.assert_allclose(sum(share(blind, j)["value"] for j in range(RUNS + 1)), 1.0, rtol=1e-12)
    np.testing.assert_allclose(sum(share(blind, j)["null_value"] for j in range(RUNS + 1)), 1.0, rtol=1e-5)


def test_blind_runs_read_the_magnitude_conditioned_null_and_not_independence(blind):
    inside = [share(blind, j)["null_lo"] <= share(blind, j)["value"] <= share(blind, j)["null_hi"] for j in range(RUNS + 1)]
    assert np.mean(inside) >= 0.8
    for j in (0, RUNS):
        row, plain = share(blind, j), share(blind, j, role="null")
        assert row["null_kind"] == "magnitude_conditioned" and row["of"] is None and plain["of"].startswith("id")
        assert row["value"] > plain["value"] + 0.05 and abs(row["value"] - row["null_value"]) < 0.02
    for side in ("left", "right"):
        row = one(blind, "weight.consensus.stripes", granularity="tensor", tensor="l0/q", side=side, role="estimate")
        assert row["null_lo"] <= row["value"] <= row["null_hi"]


@pytest.mark.slow  # 30 ensembles; one of them by default, above
def test_the_band_of_a_blind_ensemble_covers():
    inside = []
    for seed in range(30):
        rows = over_time(PROBE, INFOS[:1], {"l0/q": W0["l0/q"]}, {1: {"l0/q": runs(seed=100 + seed)["l0/q"]}})
        for j in range(RUNS + 1):
            row = share(rows, j)
            inside.append(row["null_lo"] <= row["value"] <= row["null_hi"])
    assert 0.88 <= np.mean(inside) <= 0.995


def test_planted_consensus_and_planted_stripes_stand_out():
    rows = over_time(PROBE, INFOS, W0, {8: runs(shared=0.4)})
    assert share(rows, 0)["value"] > share(rows, 0)["null_hi"] + 0.1
    assert share(rows, 0)["ci_lo"] > share(rows, 0)["null_value"]
    rows = over_time(PROBE, INFOS, W0, {8: runs(shared=0.4, rows=True)})
    planted = one(rows, "weight.consensus.stripes", tensor="l0/q", side="left", role="estimate")
    other = one(rows, "weight.consensus.stripes", tensor="l0/q", side="right", role="estimate")
    assert planted["value"] > 5 * planted["null_hi"] and planted["ci_lo"] > planted["null_hi"]
    assert other["value"] < other["null_hi"]


def test_stripes_of_the_consensus_against_numpy():
    rows = over_time(PROBE, INFOS, W0, {8: runs(shared=0.4, rows=True)})
    values = measured(PROBE, W0, runs(shared=0.4, rows=True))[1]["l0/q"]
    ratio = consensus.unpack(values["mask"], (60, 40)).mean(0).mean(1)
    e, s = values["blind_row"][:, 0, 0].mean(0) / 40, values["blind_row"][:, 0, 1].sum(0) / (40 * RUNS) ** 2
    expected = ratio.var() / ratio.mean() ** 2 - (e.var() + (1 - 1 / 60) * s.mean()) / e.mean() ** 2
    row = one(rows, "weight.consensus.stripes", tensor="l0/q", side="left", role="estimate")
    np.testing.assert_allclose(row["value"], expected, rtol=1e-5)


def test_jackknife_is_the_textbook_formula_and_covers_a_mean():
    x = np.random.default_rng(0).normal(size=7)
    without = np.array([np.delete(x, i).mean() for i in range(7)])
    error = np.sqrt(6 / 7 * ((without - without.mean()) ** 2).sum())
    found = consensus.jackknife(np.asarray(x.mean()), without)
    np.testing.assert_allclose(found.hi - found.value, scipy.stats.t.ppf(0.975, 6) * error, rtol=1e-12)
    np.testing.assert_allclose(error, x.std(ddof=1) / np.sqrt(7), rtol=1e-12)


def test_the_order_of_runs_does_not_matter(blind):
    turned = over_time(PROBE, INFOS, W0, {8: {n: w[::-1] for n, w in runs().items()}})
    for a, b in zip(blind, turned, strict=True):
        for name in ("value", "null_value", "ci_lo"):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-6)


@pytest.mark.slow  # of another probe of updates: test_fixed_spectrum.py
def test_sidecar_and_offline_give_the_same_bits():
    check_lanes(PROBE, INFOS, W0, runs(n=2))


def test_few_runs_no_update_and_broken_weights_are_said():
    lone = over_time(PROBE, INFOS, W0, {1: runs(n=1)})
    said = {(r["status"], r["status_reason"]) for r in lone if r["role"] == "estimate"}
    assert said == {("absent", "one run has no consensus")}
    two = over_time(PROBE, INFOS, W0, {1: runs(n=2)})
    assert share(two, 2, n=2)["status"] == "ok" and np.isnan(share(two, 2, n=2)["ci_lo"])
    w1 = runs()
    w1["embed"][2, 0, 0] = np.inf
    w1["l0/q"][:] = W0["l0/q"]
    rows = over_time(PROBE, INFOS, W0, {1: w1})
    assert share(rows, 1, granularity="tensor", tensor="embed")["status"] == "nan"
    assert share(rows, 0, granularity="tensor", tensor="l0/q")["value"] == 1.0
    still = one(rows, "weight.consensus.stripes", tensor="l0/q", side="left", role="estimate")
    assert still["status"] == "degenerate" and np.isnan(still["value"])


def test_contract():
    shapes = {i.name: jax.ShapeDtypeStruct(i.shape, "float32") for i in INFOS}
    assert isinstance(PROBE, base.Probe) and set(PROBE.metrics) <= set(base.METRICS)
    assert PROBE.cost(context(shapes, shapes)).streamed > 0
    assert all(len(column) == 0 for column in PROBE.finalize({}, {}).values())
    series = {1: PROBE.arrays(measured(PROBE, W0, runs(n=2))[1])}
    with pytest.raises(ValueError, match="expected the 3 seeds"):
        PROBE.across(series, infos=INFOS, arm="a", seeds=[0, 1, 2], conditional_on="b", row_ids=ids)
