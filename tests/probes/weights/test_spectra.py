"""Per-matrix statistics against float64 numpy and scipy, and their invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxpost.probes.weights import spectra

KS = (4, 2, 30)  # the last does not fit
FRAME = jax.jit(spectra.frame, static_argnums=(1, 2))
SHAPES = [(40, 24), (24, 24), (20, 36)]


def orthogonal(rng, n):
    return np.linalg.qr(rng.normal(size=(n, n)))[0]


def case(shape, scale=0.02, seed=0):
    rng = np.random.default_rng(seed)
    w0 = np.float32(rng.normal(size=shape))
    return w0, np.float32(w0 + scale * rng.normal(size=shape))


def read(w0, w1, ks=KS):
    w0, w1 = (jnp.asarray(w, jnp.float32) for w in (w0, w1))
    before, after = (FRAME(w, ks, "exact") for w in (w0, w1))
    out = jax.jit(spectra.rotation, static_argnums=2)(before, after, ks)
    captured = spectra.captured_energy(before.u_MxR, before.v_NxR, w1 - w0, ks)
    return out | {"captured": captured, "s1": after.s, "spectral_shift": spectra.spectral_shift(before.s, after.s)}


@pytest.mark.parametrize("shape", SHAPES)
def test_rotation_and_shift_against_float64(shape):
    w0, w1 = case(shape)
    found = read(w0, w1)
    (u0, s0, v0), (u1, s1, v1) = (np.linalg.svd(w.astype(np.float64), full_matrices=False) for w in (w0, w1))
    np.testing.assert_allclose(found["spectral_shift"], np.linalg.norm(s1 - s0) / np.linalg.norm(s0), rtol=1e-4)
    backward = max(shape) * np.finfo(np.float32).eps * s1[0]  # of a backward stable SVD: absolute, whatever the singular value
    np.testing.assert_allclose(found["s1"], s1, rtol=0, atol=backward)
    for i, k in enumerate(KS[:2]):
        for side, (a, b) in enumerate(((u0, u1), (v0.T, v1.T))):
            angles = scipy.linalg.subspace_angles(a[:, :k], b[:, :k])
            np.testing.assert_allclose(found["max_angle"][side, i], angles.max(), rtol=1e-3)
            np.testing.assert_allclose(found["mean_sin2"][side, i], np.mean(np.sin(angles) ** 2), rtol=1e-3)
    assert np.isnan(found["mean_sin2"][:, 2]).all() and np.isnan(found["max_angle"][:, 2]).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_captured_energy_against_float64(shape):
    w0, w1 = case(shape)
    found = read(w0, w1)["captured"]
    u, _, vt = np.linalg.svd(w0.astype(np.float64), full_matrices=False)
    dw = w1.astype(np.float64) - w0
    total = np.linalg.norm(dw) ** 2
    for i, k in enumerate(KS[:2]):
        left, right = u[:, :k].T @ dw, dw @ vt[:k].T
        expected = [np.linalg.norm(x) ** 2 / total for x in (left @ vt[:k].T, left, right)]
        np.testing.assert_allclose(found[:, i], expected, rtol=1e-3)
        doubly = (
            np.linalg.norm(dw - u[:, :k] @ left - right @ vt[:k] + u[:, :k] @ left @ vt[:k].T @ vt[:k]) ** 2 / total
        )
        np.testing.assert_allclose(1 - found[1, i] - found[2, i] + found[0, i], doubly, rtol=1e-3)
    assert np.isnan(found[:, 2]).all()


def test_planted_rotation_moves_one_side_only():
    rng = np.random.default_rng(1)
    u, v = orthogonal(rng, 30), orthogonal(rng, 20)
    s = np.r_[np.full(4, 5.0), np.full(16, 1.0)]
    theta = 1e-3
    turned = u.copy()
    turned[:, 0], turned[:, 10] = (
        np.cos(theta) * u[:, 0] + np.sin(theta) * u[:, 10],
        (np.cos(theta) * u[:, 10] - np.sin(theta) * u[:, 0]),
    )
    found = read(u[:, :20] * s @ v.T, turned[:, :20] * s @ v.T, (4,))
    np.testing.assert_allclose(found["max_angle"][0, 0], theta, rtol=1e-2)
    np.testing.assert_allclose(found["mean_sin2"][0, 0], np.sin(theta) ** 2 / 4, rtol=1e-2)
    assert found["max_angle"][1, 0] < 1e-5
    assert found["spectral_shift"] < 1e-6


def test_statistics_do_not_depend_on_coordinates_or_scale():
    w0, w1 = case((40, 24))
    rng = np.random.default_rng(2)
    a, b = orthogonal(rng, 40), orthogonal(rng, 24)
    reference = read(w0, w1)
    for changed in (
        read(a @ w0 @ b, a @ w1 @ b),
        read(w0[::-1, ::-1], w1[::-1, ::-1]),
        read(2.0**-10 * w0, 2.0**-10 * w1),
    ):
        for name in ("spectral_shift", "mean_sin2", "max_angle", "captured"):
            np.testing.assert_allclose(changed[name], reference[name], rtol=2e-3)


@pytest.mark.parametrize("scale", [1e-5, 1e-3, 0.1, 10.0])
def test_mirsky_the_shift_never_exceeds_the_update(scale):
    w0, w1 = case((24, 24), scale)
    assert read(w0, w1)["spectral_shift"] <= np.linalg.norm(w1 - w0) / np.linalg.norm(w0) * (1 + 1e-5) + 1e-6


def test_wedin_bounds_are_absent_where_k_does_not_fit():
    s0, s1 = jnp.asarray([4.0, 3.0, 1.0]), jnp.asarray([4.0, 2.9, 1.5])
    np.testing.assert_allclose(
        spectra.wedin_bounds(jnp.float32(0.3), s0, s1, (2, 1, 3), 3), [0.2, 0.3 / 1.1, np.nan], rtol=1e-6
    )


def test_rank_table_has_one_value_for_each_name():
    s = jnp.asarray([3.0, 2.0, 1.0])
    found = spectra.ranks(s, 2)
    assert len(spectra.RANKS) == len(found)
    np.testing.assert_allclose(found[0], 14 / 9, rtol=1e-6)
    np.testing.assert_allclose(found[5], 1 / np.log(1.5), rtol=1e-5)
    assert np.isnan(spectra.ranks(s, 4)[5])
