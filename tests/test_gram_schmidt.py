"""Orthonormal columns by Gram and Schmidt: their span, what is deficient, and what a TPU compiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import gram_schmidt, linalg

EPS = 2.0**-23
RNG = np.random.default_rng(0)
TALL = RNG.normal(size=(90, 12))


@pytest.mark.parametrize("y", [TALL, RNG.normal(size=(12, 12)), TALL * 10.0 ** -np.arange(12), np.ones((1, 1)),
                               1e-30 * TALL, 1e30 * TALL, TALL[:, :1] + 1e-6 * TALL],
                         ids=["tall", "square", "graded", "number", "small", "large", "nearly dependent"])
def test_columns_are_orthonormal_and_span_the_block(y):
    y = np.asarray(y, np.float32)
    q, r = (np.asarray(x, np.float64) for x in jax.jit(gram_schmidt.qr)(y))
    assert np.abs(q.T @ q - np.eye(y.shape[1])).max() <= 8 * EPS
    length_B = np.linalg.norm(y.astype(np.float64), axis=0)
    assert (np.abs(q @ r - y) <= 8 * EPS * length_B).all() and (np.abs(np.tril(r, -1)) <= 8 * EPS * length_B).all()


def test_a_block_of_lower_rank_has_orthonormal_columns_or_zero_ones():
    y = np.asarray(TALL, np.float32)
    y[:, 3], y[:, 7] = 0, y[:, 1]
    q, r = (np.asarray(x, np.float64) for x in gram_schmidt.qr(jnp.asarray(y)))
    gram = q.T @ q
    assert np.abs(gram - np.diag(gram.diagonal().round())).max() <= 8 * EPS and not q[:, 3].any()
    np.testing.assert_allclose(q @ r, y, atol=32 * EPS)
    assert np.isnan(gram_schmidt.qr(jnp.asarray(y).at[0, 5].set(jnp.nan))[0]).any()


def test_leading_triplets_are_the_same_with_it(monkeypatch):
    left, right = (np.linalg.qr(RNG.normal(size=(n, 120)))[0] for n in (150, 120))
    exact = 0.8 ** np.arange(120)
    a = jnp.asarray(left * exact @ right.T, jnp.float32)
    monkeypatch.setattr(linalg, "qr", gram_schmidt.qr)
    top = jax.jit(lambda a: linalg.top_k(a, 4, jax.random.key(0)))(a)
    np.testing.assert_allclose(top.s_K, exact[:4], atol=4 * EPS)
    assert np.linalg.norm(np.asarray(top.v_NxK).T @ right[:, 4:], 2) < linalg.ANGLE_TOLERANCE and not top.fell_back


@pytest.mark.parametrize(("platform", "own"), [("tpu", True), ("cpu", False)])
def test_it_is_what_a_tpu_has_of_tall_blocks(platform, own):
    text = jax.jit(linalg.qr).trace(jax.ShapeDtypeStruct((40, 8), jnp.float32)).lower(lowering_platforms=(platform,)).as_text()
    assert ("custom_call" not in text) == own
