"""Eigenvalues, densities and traces of planted spectra over parameter trees, against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxpost import linalg
from jaxpost.probes.curvature import krylov
from jaxpost.probes.gradients import sums as gradient_sums

LIKE = {"layers": {"q": jnp.zeros((2, 6, 5))}, "head": jnp.zeros((5, 8))}  # 100 parameters
KEY = jax.random.key(0)


def planted(values, seed=0, dtype=jnp.float32):
    """(product on trees like LIKE, the dense matrix) with these eigenvalues."""
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values),) * 2))[0]
    h = (q * values) @ q.T
    _, unravel = ravel_pytree(LIKE)

    def product(v):
        flat = jax.vmap(lambda x: ravel_pytree(x)[0])(v)
        return jax.vmap(unravel)(linalg.matmul(flat, jnp.asarray(h, flat.dtype)))

    return product, h


def spectrum(kind):
    n = 100
    return {"power law": 1.0 / np.arange(1, n + 1) ** 1.5, "indefinite": np.linspace(-1.0, 2.0, n) ** 3,
            "clusters": np.concatenate([np.full(3, 5.0), np.full(4, 2.0), np.full(n - 7, 1e-3)]),
            "rank 3": np.concatenate([[3.0, 2.0, 1.0], np.zeros(n - 3)])}[kind]


@pytest.mark.parametrize("kind", ["power law", "indefinite", "clusters"])
@pytest.mark.parametrize("block", [1, 4])
def test_leading_eigenvalues_lie_within_their_residuals(kind, block):
    values = np.sort(spectrum(kind))[::-1]
    product, h = planted(spectrum(kind))
    found = jax.jit(lambda s: krylov.top_eigenpairs(product, s, 5, 40 // block))(krylov.gaussian(LIKE, block, KEY))
    v = np.asarray(jax.vmap(lambda x: ravel_pytree(x)[0])(found.vectors), np.float64)
    residual = np.linalg.norm(v @ h - np.asarray(found.values_K)[:, None] * v, axis=1)
    alive = np.isfinite(found.values_K)
    np.testing.assert_allclose(np.asarray(found.residual_K)[alive], residual[alive], atol=4e-6 * values[0])
    if kind == "clusters" and block == 1:  # a single vector sees every eigenvalue once
        np.testing.assert_allclose(found.values_K[:3], [5.0, 2.0, 1e-3], atol=1e-5)
        return
    assert alive.all()
    np.testing.assert_allclose(v @ v.T, np.eye(5), atol=1e-5)
    error = np.abs(values[:5] - np.asarray(found.values_K))
    assert (error <= np.asarray(found.residual_K) + linalg.RESIDUAL_FLOOR * values[0]).all()
    assert error[0] < 1e-4 * values[0]


def test_directions_beyond_the_rank_are_absent_and_the_space_has_to_fit():
    product, _ = planted(spectrum("rank 3"))
    with jax.enable_x64(True):
        like = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float64), LIKE)
        found = krylov.top_eigenpairs(product, krylov.gaussian(like, 4, KEY), 5, 5)
    np.testing.assert_allclose(found.values_K[:3], [3.0, 2.0, 1.0], rtol=1e-12)
    np.testing.assert_allclose(found.values_K[3:], 0.0, atol=1e-12)
    with pytest.raises(ValueError, match="100 parameters"):
        krylov.top_eigenpairs(product, krylov.gaussian(LIKE, 4, KEY), 5, 26)


def test_signs_give_the_trace_of_every_block_without_bias_and_exactly_of_a_diagonal():
    product, h = planted(spectrum("power law"))
    draws = krylov.trace_draws(product, LIKE, 4000, KEY, gradient_sums.dots)
    diagonal = np.diag(h)
    wanted = np.asarray([diagonal[:40].sum(), diagonal[40:70].sum(), diagonal[70:].sum()])
    z = (np.asarray(draws, np.float64).mean(0) - wanted) / (np.asarray(draws).std(0, ddof=1) / np.sqrt(len(draws)))
    assert np.abs(z).max() < 4
    scale = jnp.arange(1.0, 41.0).reshape(5, 8)
    exact = krylov.trace_draws(lambda v: {"head": v["head"] * scale[None]}, {"head": scale}, 3, KEY, gradient_sums.dots)
    np.testing.assert_allclose(exact, 820.0, rtol=1e-6)


def test_the_density_is_bracketed_for_its_own_start_and_right_on_average():
    values = np.sort(spectrum("power law"))[::-1]
    product, h = planted(spectrum("power law"))
    _, basis = np.linalg.eigh(h)
    starts = krylov.rademacher(LIKE, 64, KEY)

    @jax.jit
    def shares(start):
        rule = krylov.quadrature(product, jax.tree.map(lambda x: x[None], start), 12)
        return rule.weights_R.sum(), *jax.vmap(lambda c: krylov.share_above(rule, c))(jnp.asarray([0.3, 0.02]))

    total, share, bound = jax.lax.map(shares, starts)
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)
    flat = np.asarray(jax.vmap(lambda x: ravel_pytree(x)[0])(starts), np.float64)
    own = (flat @ basis[:, ::-1]) ** 2 / 100
    for i, threshold in enumerate((0.3, 0.02)):
        true = own[:, values >= threshold].sum(1)
        assert (np.abs(true - np.asarray(share[:, i])) <= np.asarray(bound[:, i]) + 1e-5).all()
        expected = (values >= threshold).mean()
        assert abs(float(share[:, i].mean()) - expected) < 4 * own[:, values >= threshold].sum(1).std() / 8 + 0.1 * expected
    top = krylov.Quadrature(jnp.asarray([2.0, 1.0]), jnp.asarray([0.9, 0.1 - 6e-8]))  # weights of sum 1 but for rounding
    for threshold, share, bound in ((0.5, 1.0, 0.1), (1.5, 0.9, 0.9), (3.0, 0.0, 0.9)):
        assert krylov.share_above(top, threshold) == pytest.approx((share, bound), abs=1e-6)
