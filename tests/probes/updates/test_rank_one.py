"""The leading direction of the update: float64 oracles, planted rotations, and what blind walks and noise read."""

import chex
import jax
import numpy as np
import pytest
import scipy.stats

from jaxpost.probes import base
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.updates import rank_one
from tests.probes.trajectories import check_lanes, context, finalized, grid, make_base, one, over_time

INFOS = (
    TensorInfo("l0/q", "q", 0, (40, 24)), TensorInfo("l0/o", "o", 0, (24, 40)), TensorInfo("embed", "embed", None, (16, 6)),
)
PROBE = rank_one.RankOne(k=4, draws=3)
W0 = make_base(INFOS)


def unit(x):
    return x / np.linalg.norm(x)


def update(seed=1, scale=1e-2, n_seeds=2):
    rng = np.random.default_rng(seed)
    return {n: np.stack([np.float32(w + scale * rng.normal(size=w.shape)) for _ in range(n_seeds)]) for n, w in W0.items()}


def rotating(angles, norm=1.0, noise=1e-3, n_seeds=1):
    """Updates of rank one (plus noise) whose left direction turns by known angles; the right one stays."""
    rng = np.random.default_rng(0)
    out = {}
    for step, angle in angles.items():
        out[step] = {}
        for name, w in W0.items():
            m, n = w.shape
            u = np.cos(angle) * np.eye(m)[0] + np.sin(angle) * np.eye(m)[1]
            v = unit(np.ones(n))
            dw = norm * np.outer(u, v) + noise * rng.normal(size=(n_seeds, m, n)) / np.sqrt(m * n)
            out[step][name] = np.float32(w + dw)
    return out


def test_shares_against_float64():
    w1 = update()
    rows = finalized(PROBE, INFOS, W0, w1)
    s = {i.name: [np.linalg.svd((w - W0[i.name]).astype(np.float64), compute_uv=False) for w in w1[i.name]] for i in INFOS}
    for seed in (0, 1):
        for info in INFOS:
            top = s[info.name][seed]
            energy = one(rows, "weight.rank_one.energy_share", tensor=info.name, seed=seed)
            np.testing.assert_allclose(energy["value"], top[0] ** 2 / (top**2).sum(), rtol=1e-5)
            assert abs(energy["value"] - top[0] ** 2 / (top**2).sum()) <= energy["num_err"]
            row = one(rows, "weight.rank_one.norm_share", tensor=info.name, seed=seed)
            np.testing.assert_allclose(row["value"], top[0] / np.sqrt((top**2).sum()), rtol=1e-5)
        pooled = one(rows, "weight.rank_one.energy_share", granularity="global", seed=seed)
        expected = sum(s[i.name][seed][0] ** 2 for i in INFOS) / sum((s[i.name][seed] ** 2).sum() for i in INFOS)
        np.testing.assert_allclose(pooled["value"], expected, rtol=1e-5)
        assert pooled["null_lo"] < pooled["value"] < pooled["null_hi"] and pooled["dtype"] == "fp32"


@pytest.mark.parametrize("shape", [(40, 24), (12, 60), (30, 30)])
def test_the_null_of_the_share_is_that_of_gaussian_matrices(shape):
    rng = np.random.default_rng(0)
    top = np.array([np.linalg.svd(rng.normal(size=shape), compute_uv=False)[0] ** 2 for _ in range(1500)]) / np.prod(shape)
    centre, spread = rank_one.gaussian_share(shape)
    np.testing.assert_allclose(centre, top.mean(), rtol=0.01)
    np.testing.assert_allclose(spread, top.std(), rtol=0.1)


def test_laws_of_random_directions_and_subspaces():
    rng = np.random.default_rng(0)
    cosine = np.abs(np.array([unit(rng.normal(size=9))[0] for _ in range(20000)]))
    np.testing.assert_allclose(rank_one.random_cosine(9), (cosine.mean(), cosine.std()), rtol=0.02)
    np.testing.assert_allclose(rank_one.random_cosine(9)[0], scipy.stats.beta(0.5, 4).expect(np.sqrt), rtol=1e-6)
    found = [np.linalg.norm(np.linalg.qr(rng.normal(size=(10, 3)))[0][:3]) ** 2 / 3 for _ in range(5000)]
    np.testing.assert_allclose(rank_one.random_similarity(10, 3), (np.mean(found), np.std(found)), rtol=0.03)


def test_planted_rotation_is_read_on_its_side():
    rows = over_time(PROBE, INFOS, W0, rotating({1: 0.0, 10: 0.3, 20: 0.7}))
    for (step, start), angle in {(10, 1): 0.3, (20, 10): 0.4, (20, 1): 0.7}.items():
        for name in W0:
            at = {"tensor": name, "step": step, "params": f"from={start}", "role": "seed"}
            left = one(rows, "weight.rank_one.cosine", side="left", **at)
            assert abs(left["value"] - np.cos(angle)) < 2e-3 and left["status"] == "ok" and left["num_err"] < 1e-3
            right = one(rows, "weight.rank_one.cosine", side="right", **at)
            assert right["value"] > 0.999
            null = one(rows, "weight.rank_one.cosine", side="left", **(at | {"role": "null"}))
            assert null["null_kind"] == "random_directions" and null["null_hi"] < 0.6
    assert {(r["step"], r["params"]) for r in rows} == {(10, "from=1"), (20, "from=10"), (20, "from=1")}


def test_subspace_similarity_against_float64():
    first, second = update(seed=1), update(seed=2)
    rows = over_time(PROBE, INFOS, W0, {1: first, 3: second})
    for info in INFOS:
        v = [np.linalg.svd((w[info.name][1] - W0[info.name]).astype(np.float64))[2][:4] for w in (first, second)]
        row = one(rows, "weight.rank_one.subspace_similarity", tensor=info.name, seed=1, role="seed")
        assert abs(row["value"] - np.linalg.norm(v[0] @ v[1].T) ** 2 / 4) <= row["num_err"] < 1e-3
        assert row["k"] == 4 and row["side"] == "right"


def test_a_blind_walk_keeps_its_direction_as_its_null_says():
    rng = np.random.default_rng(3)
    base0, info = {"l0/q": W0["l0/q"]}, INFOS[:1]
    total = 0.01 * rng.normal(size=(40, 40, 24))
    longer = total + 0.01 * 0.33 * rng.normal(size=total.shape)  # norms in the ratio 0.95
    series = {s: {"l0/q": np.float32(W0["l0/q"] + d)} for s, d in ((1, total), (2, longer))}
    rows = over_time(rank_one.RankOne(k=4, draws=40), info, base0, series)
    for metric, side in (("cosine", "left"), ("cosine", "right"), ("subspace_similarity", "right")):
        found = [r for r in rows if r["metric"].endswith(metric) and r["side"] == side and r["tensor"] and r["role"] == "seed"]
        value, null = np.mean([r["value"] for r in found]), np.mean([r["null_value"] for r in found])
        assert abs(value - null) < 0.15 and found[0]["null_kind"] == "isotropic_walk"
        at_random = np.mean([r["value"] for r in rows if r["role"] == "null" and r["tensor"] and r["side"] == side
                             and r["metric"].endswith(metric)])
        assert value > at_random + 0.3  # random directions are the wrong baseline


def test_orthogonal_changes_of_frame_move_nothing():
    rng = np.random.default_rng(0)
    q, p = np.linalg.qr(rng.normal(size=(40, 40)))[0], np.linalg.qr(rng.normal(size=(24, 24)))[0]
    a, b = (rotating({1: x})[1]["l0/q"] - W0["l0/q"] for x in (0.0, 0.5))
    w0 = {"l0/q": grid(q @ W0["l0/q"] @ p)}
    series = {s: {"l0/q": np.float32(w0["l0/q"] + q @ d @ p)} for s, d in ((1, a), (2, b))}
    row = one(over_time(PROBE, INFOS[:1], w0, series), "weight.rank_one.cosine", tensor="l0/q", side="left", role="seed")
    assert abs(row["value"] - np.cos(0.5)) < 2e-3


def test_low_rank_weights_keep_the_norm_and_the_direction():
    w1 = {n: w[0] for n, w in update().items()}
    for k in (1, 3):
        found = rank_one.low_rank_weights(W0, w1, k=k, scale=0.5)
        for name in W0:
            dw = (w1[name] - W0[name]).astype(np.float64)
            u, s, vt = np.linalg.svd(dw, full_matrices=False)
            kept = (u[:, :k] * s[:k]) @ vt[:k]
            expected = W0[name] + 0.5 * np.linalg.norm(dw) / np.linalg.norm(kept) * kept
            np.testing.assert_allclose(found[name], expected, atol=2e-6)
    same = rank_one.low_rank_weights(W0, W0)
    chex.assert_trees_all_equal(same, W0)
    with pytest.raises(ValueError, match="largest possible is 24"):
        rank_one.low_rank_weights({"a": W0["l0/q"]}, {"a": W0["l0/q"]}, k=25)


def test_sidecar_and_offline_give_the_same_bits():
    check_lanes(PROBE, INFOS, W0, update())


def test_rounding_of_bf16_masters_hides_a_direction():
    rng = np.random.default_rng(9)
    tiny = {n: np.stack([grid(w + 1e-3 * rng.normal(size=w.shape))]) for n, w in W0.items()}
    rows = over_time(PROBE, INFOS, W0, {1: tiny, 2: tiny})
    row = one(rows, "weight.rank_one.cosine", tensor="l0/q", side="left", role="seed")
    assert row["status"] == "unresolved" and row["dtype"] == "bf16" and row["value"] > 0.999


def test_no_update_small_matrices_and_broken_weights_are_said():
    w1 = update()
    w1["l0/o"][:] = W0["l0/o"]
    w1["embed"][1, 0, 0] = np.nan
    rows = finalized(rank_one.RankOne(k=8, draws=1), INFOS, W0, w1)
    assert one(rows, "weight.rank_one.energy_share", tensor="l0/o", seed=0)["status"] == "degenerate"
    broken = one(rows, "weight.rank_one.energy_share", granularity="global", seed=1)
    assert broken["status"] == "nan" and np.isnan(broken["value"])
    rows = over_time(rank_one.RankOne(k=8, draws=1), INFOS, W0, {1: w1, 2: update()})
    small = one(rows, "weight.rank_one.subspace_similarity", tensor="embed", seed=0, role="seed")
    assert small["status"] == "absent" and "k=8" in small["status_reason"]
    still = one(rows, "weight.rank_one.cosine", tensor="l0/o", seed=0, side="left", role="seed")
    assert still["status"] == "degenerate" and "at one of the steps" in still["status_reason"]
    with pytest.raises(ValueError, match="largest possible is 23"):
        rank_one.RankOne(k=30).init(base.Context({base.WEIGHTS0: W0}), jax.random.key(0))


def test_contract():
    shapes = {i.name: jax.ShapeDtypeStruct(i.shape, "float32") for i in INFOS}
    assert isinstance(PROBE, base.Probe) and set(PROBE.metrics) <= set(base.METRICS)
    assert PROBE.cost(context(shapes, shapes)).factorisations > 0
