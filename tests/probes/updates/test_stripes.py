"""Stripes of the visible mask: counts by numpy, the blind law by enumeration and exact convolution, planted stripes."""

import itertools

import jax
import numpy as np
import pytest
import scipy.stats

from jaxpost.probes import base
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.updates import stripes
from tests.probes.trajectories import (
    ROWS,
    as_rows,
    check_lanes,
    context,
    finalized,
    grid,
    ids,
    make_base,
    measured,
    one,
    over_time,
)

INFOS = (
    TensorInfo("l0/q", "q", 0, (48, 32)), TensorInfo("l0/o", "o", 0, (32, 48)), TensorInfo("embed", "embed", None, (24, 40)),
)
PROBE = stripes.Stripes()
W0 = make_base(INFOS)


def update(scale=3e-3, seed=1, n_seeds=2, striped=()):
    rng = np.random.default_rng(seed)
    out = {}
    for name, w in W0.items():
        size = np.full(w.shape, scale)
        if name in striped:
            size[::4] *= 30  # every fourth row moves thirty times as far
        out[name] = np.stack([np.float32(w + size * rng.normal(size=w.shape)) for _ in range(n_seeds)])
    return out


@pytest.fixture(scope="module")
def striped_rows():
    return finalized(PROBE, INFOS, W0, update(striped=("l0/q",)))


def tensor(rows, metric, name, side, seed=0, role="seed"):
    return one(rows, f"weight.stripes.{metric}", tensor=name, side=side, seed=seed, role=role)


def test_profiles_and_statistics_against_numpy(striped_rows):
    w1 = update(striped=("l0/q",))
    for info in INFOS:
        mask = grid(w1[info.name][1]) != W0[info.name]
        for side, axis in (("left", 1), ("right", 0)):
            ratio = mask.mean(axis)
            row = tensor(striped_rows, "cv", info.name, side, seed=1)
            np.testing.assert_allclose(row["value"], ratio.std() / ratio.mean(), rtol=1e-12)
            row = tensor(striped_rows, "max_over_mean", info.name, side, seed=1)
            np.testing.assert_allclose(row["value"], ratio.max() / ratio.mean(), rtol=1e-12)
    values = measured(PROBE, W0, w1)[1]
    mask = grid(w1["l0/q"][1]) != W0["l0/q"]
    np.testing.assert_array_equal(PROBE.arrays(values)["row_ratio/l0/q"][1], np.float32(mask.mean(1)))


def test_dispersion_moments_by_enumeration_of_every_mask():
    p = np.array([[0.2, 0.9, 0.5], [0.1, 0.1, 0.3]])
    masks = np.array(list(itertools.product((0, 1), repeat=p.size))).reshape(-1, *p.shape)
    chance = np.where(masks, p, 1 - p).prod((1, 2))
    v = masks.mean(2).var(1)
    expected, variance = (chance * v).sum(), (chance * v**2).sum() - (chance * v).sum() ** 2
    q = p * (1 - p)
    blind = np.stack([p, q, q * (1 - 2 * p), q * (1 - 6 * q)]).sum(2)
    found = stripes.dispersion(masks[5].sum(1)[None], blind[None], 3)
    np.testing.assert_allclose(found.cv_blind[0], np.sqrt(expected) / p.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.excess_spread[0], np.sqrt(variance) / p.mean() ** 2, rtol=1e-12)


@pytest.mark.parametrize("law", ["uniform", "beta"])
@pytest.mark.parametrize("scale", [0.05, 0.2, 0.5, 0.95])
def test_law_of_the_largest_count_by_exact_convolution(scale, law):
    rng = np.random.default_rng(0)
    p = scale * rng.uniform(0.5, 1.0, size=(30, 60)) if law == "uniform" else rng.beta(scale, 1 - scale, size=(30, 60))
    cdf = []
    for row in p:
        pmf = np.ones(1)
        for x in row:
            pmf = np.convolve(pmf, [1 - x, x])
        cdf.append(np.cumsum(pmf))
    pmf = np.diff(np.prod(cdf, 0), prepend=0.0)
    mean = (pmf * np.arange(61)).sum()
    sd = np.sqrt((pmf * np.arange(61) ** 2).sum() - mean**2)
    q = p * (1 - p)
    found = stripes.largest(np.stack([p, q, q * (1 - 2 * p), q * (1 - 6 * q)]).sum(2), 60)
    assert abs(found[0] - mean) < 0.1 * sd  # the bounds that `largest` states
    np.testing.assert_allclose(found[1], sd, rtol=0.05 if p.sum(1).max() > 10 else 0.12)


def test_blind_cumulants_are_sums_over_entries():
    values = measured(PROBE, W0, update())[1]["l0/q"]
    d = update()["l0/q"][0] - W0["l0/q"]
    bits = W0["l0/q"].view(np.uint32) >> 16
    up = ((bits + 1) << 16).astype(np.uint32).view(np.float32).astype(np.float64)
    down = ((bits - 1) << 16).astype(np.uint32).view(np.float32).astype(np.float64)
    outward, inward = np.abs(up - W0["l0/q"]) / 2, np.abs(W0["l0/q"] - down) / 2
    sign = np.sign(W0["l0/q"])
    flat = d.ravel().astype(np.float64)
    p = np.array([[np.mean((s * flat > o) | (-s * flat > i)) for s, o, i in zip(*row)] for row in zip(sign, outward, inward)])
    np.testing.assert_allclose(values["blind_row"][0, 0, 0], p.sum(1), rtol=1e-5)
    np.testing.assert_allclose(values["blind_col"][0, 0, 1], (p * (1 - p)).sum(0), rtol=1e-5)
    q = p * (1 - p)
    np.testing.assert_allclose(values["blind_row"][0, 0, 3], (q * (1 - 6 * q)).sum(1), rtol=1e-4, atol=1e-4)


def test_planted_stripes_stand_out_on_their_side_only(striped_rows):
    for metric in ("cv", "excess", "max_over_mean"):
        planted = tensor(striped_rows, metric, "l0/q", "left")
        assert planted["value"] > planted["null_hi"] and planted["null_kind"] == "magnitude_conditioned"
        other = tensor(striped_rows, metric, "l0/q", "right")
        assert other["value"] < planted["null_hi"]


def test_blind_updates_read_their_null():
    w1 = update(n_seeds=40)
    rows = finalized(PROBE, INFOS, W0, w1)
    for metric in ("cv", "excess", "max_over_mean"):
        found = [r for r in rows if r["metric"] == f"weight.stripes.{metric}" and r["tensor"] and r["role"] == "seed"]
        inside = np.mean([r["null_lo"] <= r["value"] <= r["null_hi"] for r in found])
        assert 0.88 <= inside <= 0.995, (metric, inside)
        gap = np.mean([r["value"] - r["null_value"] for r in found])
        spread = np.mean([r["null_hi"] - r["null_lo"] for r in found])
        assert abs(gap) < 0.1 * spread, (metric, gap, spread)
    plain = [tensor(rows, "cv", "l0/q", "left", role="null", seed=s)["value"] for s in range(40)]
    assert np.mean(plain) < np.mean([tensor(rows, "cv", "l0/q", "left", seed=s)["null_value"] for s in range(40)])


def test_pools_are_means_over_matrices(striped_rows):
    values = [tensor(striped_rows, "cv", info.name, "left")["value"] for info in INFOS]
    pooled = one(striped_rows, "weight.stripes.cv", granularity="global", seed=0, side="left", role="seed")
    np.testing.assert_allclose(pooled["value"], np.mean(values), rtol=1e-12)
    body = one(striped_rows, "weight.stripes.cv", granularity="body", seed=0, side="left", role="seed")
    np.testing.assert_allclose(body["value"], np.mean(values[:2]), rtol=1e-12)


def test_permuting_rows_moves_nothing_and_transposing_swaps_sides(striped_rows):
    order = np.random.default_rng(5).permutation(48)
    w1 = update(striped=("l0/q",))
    name, info = "l0/q", INFOS[0]
    moved = finalized(PROBE, [info], {name: W0[name][order]}, {name: w1[name][:, order]})
    turned = finalized(PROBE, [TensorInfo(name, "q", 0, (32, 48))], {name: W0[name].T.copy()}, {name: w1[name].swapaxes(1, 2)})
    for metric in ("cv", "max_over_mean"):
        for field in ("value", "null_value", "null_hi"):
            expected = tensor(striped_rows, metric, name, "left")[field]
            np.testing.assert_allclose(tensor(moved, metric, name, "left")[field], expected, rtol=1e-5)
            np.testing.assert_allclose(tensor(turned, metric, name, "right")[field], expected, rtol=1e-5)


def test_bf16_masters_use_the_calibrated_law():
    w1 = {name: grid(w) for name, w in update(n_seeds=8).items()}
    rows = finalized(PROBE, INFOS, W0, w1)
    found = [r for r in rows if r["metric"] == "weight.stripes.cv" and r["tensor"] and r["role"] == "seed"]
    assert {r["null_kind"] for r in found} == {"law_range"}
    assert np.mean([r["null_lo"] <= r["value"] <= r["null_hi"] for r in found]) > 0.85


@pytest.mark.slow  # of another probe of updates: test_fixed_spectrum.py
def test_sidecar_and_offline_give_the_same_bits():
    check_lanes(PROBE, INFOS, W0, update())


def test_no_update_and_broken_weights_are_rows_with_a_status():
    w1 = update()
    w1["l0/o"][:] = W0["l0/o"]
    w1["embed"][1, 3, 3] = np.nan
    rows = finalized(PROBE, INFOS, W0, w1)
    assert tensor(rows, "cv", "l0/o", "left")["status"] == "degenerate"
    assert tensor(rows, "excess", "embed", "right", seed=1)["status"] == "nan"
    assert tensor(rows, "cv", "embed", "right", seed=0)["status"] == "ok"
    pool = one(rows, "weight.stripes.cv", granularity="body", seed=0, side="left", role="seed")
    assert pool["status"] == "ok" and "in 1 of 2 matrices" in pool["status_reason"]
    with pytest.raises(ValueError, match="one side only"):
        jax.eval_shape(PROBE.measure, context(W0, {"l0/q": W0["l0/q"]}), {}, jax.random.key(0))


def walk(steps, seed=0, striped=False, n_seeds=6):
    rng = np.random.default_rng(seed)
    weight = np.ones((48, 32)) * 2e-3
    if striped:
        weight *= np.exp(1.5 * rng.normal(size=(48, 1)))
    total, out = np.zeros((n_seeds, 48, 32)), {}
    for step in steps:
        total = total + weight * rng.normal(size=total.shape)
        out[step] = {"l0/q": np.float32(W0["l0/q"] + total)}
    return out


def test_stability_of_planted_stripes_and_of_a_blind_walk():
    info = INFOS[:1]
    base0 = {"l0/q": W0["l0/q"]}
    rows = over_time(PROBE, info, base0, walk((1, 2, 4), striped=True))
    row = one(rows, "weight.stripes.stability", tensor="l0/q", side="left", seed=0, step=4, params="from=1", role="seed")
    assert row["value"] > row["null_hi"]
    assert {(r["step"], r["params"]) for r in rows} == {(2, "from=1"), (4, "from=2"), (4, "from=1")}
    blind = over_time(PROBE, info, base0, walk((1, 2, 4), n_seeds=30))
    found = [r for r in blind if r["role"] == "seed" and r["tensor"]]
    assert np.mean([r["value"] <= r["null_hi"] for r in found]) > 0.95
    independent = [r["value"] for r in blind if r["role"] == "null" and r["tensor"]]
    excess = np.subtract([r["value"] for r in found], independent)
    assert np.mean(excess) > 0.02  # a walk remembers: independent masks are the wrong baseline


def test_stability_statistic_and_its_nulls_by_simulation():
    rng = np.random.default_rng(0)
    m, n = 60, 40
    p0 = np.clip(rng.uniform(0.05, 0.5, size=(m, n)) * (1 + 0.3 * rng.normal(size=(m, 1))), 0.0, 0.6)
    p1 = np.minimum(1.6 * p0, 1.0)
    blind = [np.stack([p.sum(1) / n, (p * (1 - p)).sum(1) / n**2]) for p in (p0, p1)]
    u, fresh = rng.random((400, m, n)), rng.random((400, m, n))
    first, nested, apart = (u < p0).mean(2), (u < p1).mean(2), (fresh < p1).mean(2)
    shared = (p0 * (1 - p1)).sum(1).mean() / n**2
    seen = np.array([stripes.stability(a, blind[0], b, blind[1], shared) for a, b in zip(first, nested)])
    alone = np.array([scipy.stats.spearmanr(a, b).statistic for a, b in zip(first, apart)])
    np.testing.assert_allclose(seen[0, 0], scipy.stats.spearmanr(first[0], nested[0]).statistic, rtol=1e-12)
    assert abs(alone.mean() - seen[0, 1]) < 0.03
    assert abs(seen[:, 0].mean() - seen[0, 2]) < 0.03 < seen[0, 2] - seen[0, 1]


def test_stability_says_when_a_profile_is_constant_or_too_short():
    small = (TensorInfo("s", "q", 0, (3, 40)),)
    w0 = make_base(small)
    rng = np.random.default_rng(0)
    series = {s: {"s": np.float32(w0["s"] + 1e-3 * s * rng.normal(size=(1, 3, 40)))} for s in (1, 2)}
    series[4] = {"s": w0["s"][None]}
    rows = over_time(PROBE, small, w0, series)
    assert one(rows, "weight.stripes.stability", tensor="s", side="left", step=2, role="seed")["status"] == "absent"
    row = one(rows, "weight.stripes.stability", tensor="s", side="right", step=4, params="from=2", role="seed")
    assert row["status"] == "degenerate" and row["status_reason"] == "a profile is constant"


def test_cost_and_contract():
    shapes = {i.name: jax.ShapeDtypeStruct(i.shape, "float32") for i in INFOS}
    cost = PROBE.cost(context(shapes, shapes))
    assert cost.streamed > 0 and cost.factorisations == 0 and isinstance(PROBE, base.Probe)
    assert set(PROBE.metrics) <= set(base.METRICS)
    rows = as_rows(PROBE.across({}, infos=INFOS, seeds=[0], row_ids=ids, **ROWS))
    assert rows == []
