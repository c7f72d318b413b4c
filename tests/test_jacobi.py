"""The SVD from rotations against float64 numpy, and where it stands in for the compiler's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import linalg

EPS = 2.0**-23
svd = jax.jit(linalg.svd_by_rotations)


def graded(rng, m, n, decades):
    """Singular values from 1 down by so many powers of ten."""
    (left, _), (right, _) = (np.linalg.qr(rng.normal(size=(size, n))) for size in (m, n))
    return left * 10.0 ** -np.linspace(0, decades, n) @ right.T


@pytest.mark.parametrize("a", [
    np.random.default_rng(0).normal(size=(150, 150)), np.random.default_rng(1).normal(size=(41, 64)),
    graded(np.random.default_rng(2), 60, 41, 7), graded(np.random.default_rng(3), 41, 41, 0), np.ones((1, 1)),
    1e-30 * np.random.default_rng(4).normal(size=(9, 6)), 1e30 * np.random.default_rng(5).normal(size=(6, 9))],
    ids=["square", "wide", "graded", "one value", "number", "small", "large"])
def test_triplets_against_float64(a):
    a = np.asarray(a, np.float32)
    u, s, v = (np.asarray(x, np.float64) for x in svd(jnp.asarray(a)))
    exact = np.linalg.svd(a.astype(np.float64), compute_uv=False)
    assert np.abs(s - exact).max() <= 4 * EPS * exact[0] and (np.diff(s) <= 0).all()
    for frame in (u, v):
        assert np.abs(frame.T @ frame - np.eye(len(s))).max() <= 6 * EPS
    assert np.linalg.norm((u * s) @ v.T - a, 2) <= 32 * EPS * exact[0]


def test_a_deficient_matrix_has_zero_columns_for_zero_values():
    a = np.random.default_rng(0).normal(size=(12, 7)).astype(np.float32)
    a[:, 2] = a[:, 5] = 0
    u, s, v = map(np.asarray, svd(jnp.asarray(a)))
    np.testing.assert_array_equal(s[5:], 0)
    np.testing.assert_array_equal(u[:, 5:], 0)
    np.testing.assert_allclose(v.T @ v, np.eye(7), atol=6 * EPS)
    np.testing.assert_allclose(u[:, :5].T @ u[:, :5], np.eye(5), atol=6 * EPS)
    assert all(np.isnan(x).any() for x in svd(jnp.asarray(a).at[0, 0].set(jnp.nan)))


@pytest.mark.parametrize("platform, size, rotations", [("tpu", linalg.NATIVE + 1, True), ("tpu", linalg.NATIVE, False),
                                                       ("cpu", linalg.NATIVE + 1, False)])
def test_it_is_what_a_tpu_has_of_large_matrices(platform, size, rotations):
    a = jax.ShapeDtypeStruct((size, size + 3), jnp.float32)
    for function in (linalg.svd, linalg.singular_values):
        text = jax.jit(function).trace(a).lower(lowering_platforms=(platform,)).as_text()
        assert ("custom_call" not in text) == rotations
