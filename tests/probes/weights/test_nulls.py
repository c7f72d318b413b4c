"""Null models against Monte Carlo draws that share no code with them."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import scipy.stats

from jaxpost.probes.weights import blind_energy, nulls, spectra, visibility
from jaxpost.probes.weights.panel import Panel

PANEL = Panel(ks=(3,), null_norms=(1e-6, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1), null_draws=3)


@pytest.fixture(scope="module")
def reference():
    w0 = jnp.asarray(np.random.default_rng(0).normal(size=(40, 24)).astype(ml_dtypes.bfloat16).astype(np.float32))
    frame = spectra.frame(w0, PANEL.ks, "exact")
    curves, floor = jax.jit(nulls.isotropic, static_argnums=0)(PANEL, frame, w0, jax.random.key(0))
    return np.asarray(w0, np.float64), jax.device_get(curves), jax.device_get(floor)


def drawn(w0, c, bf16, seed, n=40):
    """(spectral shift, mean sin^2 left at k = 3, relative norm read), mean over n isotropic draws in float64."""
    rng = np.random.default_rng(seed)
    u0, s0, _ = np.linalg.svd(w0)
    rows = []
    for _ in range(n):
        g = rng.normal(size=w0.shape)
        w1 = w0 + c * np.linalg.norm(w0) * g / np.linalg.norm(g)
        w1 = w1.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64) if bf16 else w1
        u1, s1, _ = np.linalg.svd(w1)
        sin2 = 1 - np.linalg.norm(u0[:, :3].T @ u1[:, :3]) ** 2 / 3
        norm = np.linalg.norm(w0)
        rows.append((np.linalg.norm(s1 - s0) / norm, sin2, np.linalg.norm(w1 - w0) / norm))
    return np.mean(rows, axis=0)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("c", [2e-3, 2e-2])
def test_interpolated_null_is_what_draws_at_that_norm_read(reference, c, bf16):
    w0, curves, _ = reference
    expected = drawn(w0, c, bf16, seed=1)
    found = []
    for curve in (curves["spectral_shift"], curves["mean_sin2"][..., 0, 0], curves["relative_norm"]):
        at = nulls.interpolate(PANEL.null_norms, curve[None, :, :, int(bf16)], np.array([[c]]))
        found.append(at.mean())
    np.testing.assert_allclose(found[0], expected[0], rtol=0.1)
    np.testing.assert_allclose(found[1], expected[1], rtol=0.5)  # heavy-tailed over draws
    np.testing.assert_allclose(found[2], expected[2], rtol=0.05)


def test_kappa_of_an_isotropic_update_is_near_one_but_not_one(reference):
    _, curves, _ = reference
    kappa = (curves["spectral_shift"][2:5, :, 0] / curves["relative_norm"][2:5, :, 0]) ** 2 * 40
    assert 0.5 < kappa.min() < kappa.max() < 1.6


def test_nothing_is_visible_below_half_an_ulp(reference):
    _, curves, _ = reference
    assert (curves["relative_norm"][0, :, 1] < 1e-6).all()
    np.testing.assert_allclose(
        curves["relative_norm"][:, :, 0], np.asarray(PANEL.null_norms)[:, None].repeat(3, 1), rtol=0.05
    )


def test_rounding_floor_is_the_rounding_of_an_off_grid_matrix(reference):
    w0, _, floor = reference
    rng = np.random.default_rng(2)
    codes = visibility.bf16_codes(jnp.asarray(w0, jnp.float32))
    off = w0 + rng.uniform(-0.5, 0.5, size=w0.shape) * np.asarray(visibility.ulp(codes), np.float64)
    relative = np.linalg.norm(off - w0) / np.linalg.norm(w0)
    np.testing.assert_allclose(floor["relative_norm"][1], relative, rtol=0.05)
    assert 1.4e-3 < relative < 1.9e-3  # methods/numerics.md 5.5
    np.testing.assert_allclose(floor["relative_norm"][0], relative / 65536, rtol=0.1)
    assert floor["max_angle"][1, 0, 0] > 1e-3 > 1e-4 > floor["max_angle"][0, 0, 0] > 0


@pytest.mark.parametrize("region", blind_energy.REGIONS)
def test_energy_moments_against_draws(region):
    m, n, k = 40, 30, 4
    rng = np.random.default_rng(3)
    scale = np.exp(0.5 * rng.normal(size=(m, 1))) * np.exp(0.3 * rng.normal(size=(1, n)))  # rows and columns that differ
    u, v = (np.linalg.qr(rng.normal(size=(size, k)))[0] for size in (m, n))
    g = scale * rng.laplace(size=(4000, m, n))  # heavier than Gaussian: E d^4 = 6 (E d^2)^2
    left, right = np.einsum("mk,dmn->dkn", u, g), g @ v
    both = left @ v
    energy, parts = (g**2).sum((1, 2)), {"both": both, "left": left, "right": right}
    share = {name: (x**2).sum((1, 2)) / energy for name, x in parts.items()}
    share["doubly_off"] = 1 - share["left"] - share["right"] + share["both"]
    variance = 2 * scale**2
    blocks = [(slice(0, 5), variance[:5], 6 * variance[:5] ** 2), (slice(5, m), variance[5:], 6 * variance[5:] ** 2)]
    found = blind_energy.shares(blocks, u, v, (k,), np, np.matmul)
    mean, spread = (x[blind_energy.REGIONS.index(region), 0] for x in found)
    np.testing.assert_allclose(mean, share[region].mean(), rtol=0.02)  # a ratio of means, O(1 / mn)
    np.testing.assert_allclose(np.sqrt(spread), share[region].std(), rtol=0.1)


def test_energies_of_equal_gaussian_entries_have_the_beta_law():
    m, n, k = 60, 40, 5
    rng = np.random.default_rng(4)
    u, v = (np.linalg.qr(rng.normal(size=(size, k)))[0] for size in (m, n))
    one = np.ones((m, n))
    mean, variance = blind_energy.shares([(slice(None), one, 3 * one)], u, v, (k,), np, np.matmul)
    for i, dimension in enumerate((k * k, k * n, m * k, (m - k) * (n - k))):
        law = scipy.stats.beta(dimension / 2, (m * n - dimension) / 2)
        np.testing.assert_allclose([mean[i, 0], variance[i, 0]], [law.mean(), law.var()], rtol=2e-3)
        np.testing.assert_allclose(nulls.beta_quantiles(mean[i], variance[i]), np.asarray(law.ppf([0.025, 0.975]))[:, None],
                                   rtol=1e-3)


def test_interpolation_is_exact_on_power_laws_and_absent_outside():
    norms = (1e-4, 1e-2, 1.0)
    curve = 3 * np.asarray(norms)[None, :, None] ** 2 * np.ones((1, 1, 2))
    found = nulls.interpolate(norms, curve, np.array([[1e-4], [1e-3], [0.5], [2.0], [0.0], [1e-5], [np.nan]]))
    np.testing.assert_allclose(found[:3, 0, 0], [3e-8, 3e-6, 0.75])
    assert np.isnan(found[3:]).all()
    through_zero = nulls.interpolate(norms, np.array([0.0, 1.0, 2.0])[None, :, None], np.array([[1e-3]]))
    np.testing.assert_allclose(through_zero, 0.5)


def test_invert_norm_undoes_the_visible_curve():
    norms = (1e-4, 1e-3, 1e-2, 0.1)
    seen = np.array([[0.0, 5e-4, 9e-3, 0.1]])
    found = nulls.invert_norm(norms, seen, np.array([[5e-4], [9e-3], [1e-4], [0.2]]))
    np.testing.assert_allclose(found[:2, 0], [1e-3, 1e-2])
    assert np.isnan(found[2:]).all()
