"""Matrices with the base's spectrum: the distance identity, Procrustes by independent means, planted members of each family."""

import jax
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

from jaxpost.probes import base
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.updates import fixed_spectrum
from tests.probes.trajectories import check_lanes, context, finalized, make_base, one

INFOS = (
    TensorInfo("l0/q", "q", 0, (24, 16)), TensorInfo("l0/o", "o", 0, (16, 24)), TensorInfo("embed", "embed", None, (18, 18)),
)
PROBE = fixed_spectrum.FixedSpectrum()
W0 = make_base(INFOS)
METRIC = "weight.fixed_spectrum.unexplained"


def svd(w):
    return np.linalg.svd(np.asarray(w, np.float64), full_matrices=False)


def turn(n, size, seed=0):
    a = np.random.default_rng(seed).normal(size=(n, n))
    return scipy.linalg.expm(size * (a - a.T))


def update(scale=1e-2, seed=1, n_seeds=2):
    rng = np.random.default_rng(seed)
    return {n: np.stack([np.float32(w + scale * rng.normal(size=w.shape)) for _ in range(n_seeds)]) for n, w in W0.items()}


def ratios(rows, name, seed=0):
    return {f: one(rows, METRIC, tensor=name, seed=seed, params=f"family={f}", role="seed") for f in fixed_spectrum.FAMILIES}


@pytest.fixture(scope="module")
def rows():
    return finalized(PROBE, INFOS, W0, update())


def test_distances_against_float64_procrustes(rows):
    w1 = update()
    for info in INFOS:
        w = w1[info.name][1].astype(np.float64)
        u0, s0, v0t = svd(W0[info.name])
        norm = np.linalg.norm(w - W0[info.name])
        left, _, right = svd(w.T @ (u0 * s0))
        left_b, _, right_b = svd(w @ (v0t.T * s0))
        expected = {
            "iso": np.linalg.norm(svd(w)[1] - s0),
            "keep_left": np.linalg.norm(w - (u0 * s0) @ (left @ right).T),
            "keep_right": np.linalg.norm(w - (left_b @ right_b * s0) @ v0t),
        }
        for family, row in ratios(rows, info.name, seed=1).items():
            assert abs(row["value"] - expected[family] / norm) <= max(row["num_err"], 1e-5), (info.name, family)
            assert row["num_err"] < 1e-3 and row["status"] == "ok"


def test_the_distance_identity_and_that_nothing_is_nearer():
    w = update()["l0/q"][0].astype(np.float64)
    u0, s0, v0t = svd(W0["l0/q"])
    u1, s1, v1t = svd(w)
    nearest = (u1 * s0) @ v1t
    np.testing.assert_allclose(np.linalg.norm(w - nearest), np.linalg.norm(s1 - s0), rtol=1e-10)
    found = fixed_spectrum.spectrum_reset({"a": W0["l0/q"]}, {"a": np.float32(w)})["a"]
    np.testing.assert_allclose(found, nearest, atol=2e-5)

    def at(x):  # skew parameters of both frames around the nearest member
        a, b = np.zeros((24, 24)), np.zeros((16, 16))
        a[np.triu_indices(24, 1)], b[np.triu_indices(16, 1)] = x[:276], x[276:]
        return np.linalg.norm(w - scipy.linalg.expm(a - a.T) @ nearest @ scipy.linalg.expm(b - b.T))

    rng = np.random.default_rng(0)
    assert min(at(scale * rng.normal(size=396)) for scale in (1e-4, 1e-3, 1e-2) for _ in range(20)) >= at(np.zeros(396))


@pytest.mark.parametrize("family", fixed_spectrum.FAMILIES)
def test_planted_members_are_explained_by_their_family_only(family):
    w1 = {}
    for name, w in W0.items():
        left, right = turn(len(w), 0.02), turn(w.shape[1], 0.02, seed=1)
        if family == "keep_left":
            left = np.eye(len(w))  # w V: left frame stays
        if family == "keep_right":
            right = np.eye(w.shape[1])
        w1[name] = np.float32(left @ w @ right)[None]
    rows = finalized(PROBE, INFOS, W0, w1)
    for info in INFOS:
        found = ratios(rows, info.name)
        assert found["iso"]["value"] < 1e-3 and found[family]["value"] < 1e-3
        if family == "iso":
            assert min(found[f]["value"] for f in ("keep_left", "keep_right")) > 0.3
        elif family == "keep_left":
            assert found["keep_right"]["value"] > 0.3
        else:
            assert found["keep_left"]["value"] > 0.3


def test_a_pure_change_of_spectrum_is_explained_by_none():
    w1 = {n: np.float32((svd(w)[0] * (svd(w)[1] * 1.01)) @ svd(w)[2])[None] for n, w in W0.items()}
    rows = finalized(PROBE, INFOS, W0, w1)
    for info in INFOS:
        for row in ratios(rows, info.name).values():
            np.testing.assert_allclose(row["value"], 1.0, rtol=2e-3)
            assert row["value"] > row["null_hi"]


def test_isotropic_updates_read_both_nulls():
    rows = finalized(fixed_spectrum.FixedSpectrum(draws=8), INFOS, W0, update(scale=1e-3, n_seeds=8))
    for info in INFOS:
        for family in fixed_spectrum.FAMILIES:
            found = [r for r in rows if r["tensor"] == info.name and r["params"] == f"family={family}"]
            value = np.mean([r["value"] for r in found if r["role"] == "seed"])
            drawn = np.mean([r["null_value"] for r in found if r["role"] == "seed"])
            closed = next(r for r in found if r["role"] == "null")
            spread = (closed["null_hi"] - closed["null_lo"]) / 3.92
            assert abs(value - drawn) < 4 * spread / np.sqrt(4), (info.name, family)
            assert abs(value - closed["null_value"]) < 3 * spread / np.sqrt(8) + 0.01 * value, (info.name, family)


def test_first_order_dimensions_by_counting_the_rank_of_the_tangent_map():
    for info in INFOS:
        u, s, vt = svd(W0[info.name])
        m, n = info.shape
        entries = [[np.outer(np.eye(k)[i], np.eye(k)[j]) for i in range(k) for j in range(i)] for k in (m, n)]
        skews = [[a - a.T for a in side] for side in entries]
        w = W0[info.name].astype(np.float64)
        moves = {"keep_right": [(a @ w).ravel() for a in skews[0]], "keep_left": [(w @ a).ravel() for a in skews[1]]}
        moves["iso"] = moves["keep_right"] + moves["keep_left"]
        for family, directions in moves.items():
            assert np.linalg.matrix_rank(np.array(directions)) == fixed_spectrum.tangent_dimension(family, info.shape)


def test_iso_is_the_shift_over_update_of_the_weight_panel(rows):
    for info in INFOS:
        w = update()[info.name][0].astype(np.float64)
        rho = np.linalg.norm(svd(w)[1] - svd(W0[info.name])[1]) / np.linalg.norm(w - W0[info.name])
        np.testing.assert_allclose(ratios(rows, info.name)["iso"]["value"], rho, rtol=1e-3)


def test_reset_and_spectrum_only_hold_what_they_say():
    w1 = {n: w[0] for n, w in update(scale=0.3).items()}
    whole, half = fixed_spectrum.spectrum_reset(W0, w1, a=1.0), fixed_spectrum.spectrum_reset(W0, w1, a=0.5)
    other = fixed_spectrum.spectrum_only(W0, w1)
    for name in W0:
        (u0, s0, v0t), (_, s1, _) = svd(W0[name]), svd(w1[name])
        np.testing.assert_allclose(whole[name], w1[name], atol=1e-5)
        np.testing.assert_allclose(svd(half[name])[1], (s0 + s1) / 2, atol=1e-5)
        np.testing.assert_allclose(other[name], (u0 * s1) @ v0t, atol=2e-5)


def test_orthogonal_changes_of_frame_move_nothing(rows):
    q, p = turn(24, 1.0), turn(16, 1.0, seed=1)
    w0, w1 = np.float32(q @ W0["l0/q"] @ p), np.float32(q @ update()["l0/q"][0] @ p)
    found = finalized(PROBE, INFOS[:1], {"l0/q": w0}, {"l0/q": w1[None]})
    for family, row in ratios(rows, "l0/q").items():
        np.testing.assert_allclose(ratios(found, "l0/q")[family]["value"], row["value"], rtol=1e-3)


def test_sidecar_and_offline_give_the_same_bits(users_emitters):
    check_lanes(PROBE, INFOS, W0, update())


def test_no_update_tiny_updates_and_broken_weights_are_said():
    w1 = update()
    w1["l0/q"][:] = W0["l0/q"]
    w1["l0/o"][0] = np.nextafter(W0["l0/o"], np.inf, dtype=np.float32)  # one float32 step: nothing but rounding
    w1["embed"][1, 2, 2] = np.inf
    rows = finalized(PROBE, INFOS, W0, w1)
    assert {r["status"] for r in ratios(rows, "l0/q").values()} == {"degenerate"}
    assert {r["status"] for r in ratios(rows, "embed", seed=1).values()} == {"nan"}
    tiny = ratios(rows, "l0/o")["iso"]
    assert tiny["status"] == "unresolved" and tiny["num_err"] > tiny["value"]


def test_contract():
    shapes = {i.name: jax.ShapeDtypeStruct(i.shape, "float32") for i in INFOS}
    assert isinstance(PROBE, base.Probe) and set(PROBE.metrics) <= set(base.METRICS)
    assert PROBE.cost(context(shapes, shapes)).factorisations > 0
