"""Eigenvalues and spectral densities of a matrix that is known by its products with parameter trees.

Block Lanczos with full re-orthogonalisation: the basis Q of span{X, HX, ..., H^(depth-1) X} and its image HQ are kept, so that
the Rayleigh quotient T = Q'HQ and the residuals |Hy - theta y| of all Ritz pairs need no further product. Only products,
inner products of trees and one eigenproblem of size R; every eigenvalue theta of T has an eigenvalue of H within its residual
(H symmetric), and theta_1 <= lambda_max(H).

Leaves keep their shapes: inner products contract whole leaves, so that sharded trees are summed where they lie. Held: 2 R
trees like the parameters.

Legend: B block, R = depth * B basis vectors, K pairs wanted.
Sources: Musco and Musco, arXiv:1504.05477; Golub and Meurant 2010 (quadrature); Ghorbani et al., arXiv:1901.10159 (density).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpost import linalg

Product = Callable[[Any], Any]  # leaves [B, ...] -> leaves [B, ...]


class Ritz(NamedTuple):
    """The Rayleigh-Ritz problem of a Krylov space, eigenvalues descending; directions that do not exist are NaN."""

    values_R: jax.Array
    coefficients_RxR: jax.Array  # column i: the Ritz vector i in the basis
    basis: Any  # Q, leaves [R, ...]; what breakdown leaves over is zero
    image: Any  # HQ


class Eigenpairs(NamedTuple):
    """Leading eigenpairs, eigenvalues descending."""

    values_K: jax.Array
    vectors: Any  # leaves [K, ...], orthonormal
    residual_K: jax.Array  # |H y - theta y|: a true eigenvalue lies within it


def inner(a: Any, b: Any) -> jax.Array:
    """<a_k, b_l> of two trees with leading axes K and L: [K, L]."""
    def of_leaf(x, y):
        axes = tuple(range(1, x.ndim))
        return jnp.tensordot(x, y, axes=(axes, axes), precision=linalg.HIGHEST)

    return sum(jax.tree.leaves(jax.tree.map(of_leaf, a, b)))


def combine(c_KxR: jax.Array, basis: Any) -> Any:
    """sum_r c_kr q_r: leaves [K, ...]."""
    return jax.tree.map(lambda q: jnp.tensordot(c_KxR, q, axes=1, precision=linalg.HIGHEST), basis)


def _normalised(w_1: Any, smallest: jax.Array) -> Any:
    """w / |w|, zero where |w| <= smallest; leaves [1, ...]."""
    size = jnp.sqrt(inner(w_1, w_1)[0, 0])
    return jax.tree.map(lambda x: jnp.where(size > smallest, x / jnp.where(size > smallest, size, 1.0), 0.0), w_1)


def _append(basis: Any, new_B: Any, at: jax.Array) -> Any:
    """The basis with a block orthonormalised against it and within itself, in rows at .. at + B - 1.

    Vector by vector, projected three times; one that lies in the span up to rounding becomes zero.
    """
    def one(i, basis):
        w = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i, 1), new_B)
        tiny = 64 * jnp.finfo(jax.tree.leaves(w)[0].dtype).eps * jnp.sqrt(inner(w, w)[0, 0])
        for smallest in (tiny, 0.5, 0.5):
            w = jax.tree.map(jnp.subtract, w, combine(inner(w, basis), basis))
            w = _normalised(w, smallest)
        return jax.tree.map(lambda q, x: jax.lax.dynamic_update_slice_in_dim(q, x, at + i, 0), basis, w)

    return jax.lax.fori_loop(0, len(jax.tree.leaves(new_B)[0]), one, basis)


def rayleigh_ritz(product: Product, start_B: Any, depth: int) -> Ritz:
    """The Ritz problem of the block Krylov space of a start; depth * B products."""
    block = len(jax.tree.leaves(start_B)[0])

    def zeros():
        return jax.tree.map(lambda x: jnp.zeros((block * depth, *x.shape[1:]), x.dtype), start_B)

    def turn(j, basis, image):
        newest = jax.tree.map(lambda q: jax.lax.dynamic_slice_in_dim(q, j * block, block), basis)
        new_B = product(newest)
        put = jax.tree.map(lambda h, x: jax.lax.dynamic_update_slice_in_dim(h, x.astype(h.dtype), j * block, 0), image, new_B)
        return put, jax.tree.map(lambda x, q: x.astype(q.dtype), new_B, basis)

    def grow(j, carry):
        image, new_B = turn(j, *carry)
        return _append(carry[0], new_B, (j + 1) * block), image

    basis, image = jax.lax.fori_loop(0, depth - 1, grow, (_append(zeros(), start_B, 0), zeros()))
    image, _ = turn(depth - 1, basis, image)
    t = inner(basis, image)
    t = (t + t.T) / 2
    alive_R = jnp.diagonal(inner(basis, basis)) > 0.5
    beyond = -1.0 - 2.0 * jnp.abs(t).sum()  # below every eigenvalue of T: what does not exist comes last
    values, vectors = jnp.linalg.eigh(t + jnp.diag(jnp.where(alive_R, 0.0, beyond)))
    exists_R = jnp.arange(len(values)) < alive_R.sum()
    return Ritz(jnp.where(exists_R, values[::-1], jnp.nan), vectors[:, ::-1], basis, image)


def gaussian(like: Any, count: int, key: jax.Array) -> Any:
    """Standard normal trees, leaves [count, ...] in at least float32."""
    return _drawn(jax.random.normal, like, count, key)


def rademacher(like: Any, count: int, key: jax.Array) -> Any:
    """Trees of independent signs, leaves [count, ...] in at least float32."""
    return _drawn(jax.random.rademacher, like, count, key)


def _drawn(law, like, count, key):
    leaves, tree = jax.tree.flatten(like)
    return jax.tree.unflatten(tree, [
        law(jax.random.fold_in(key, i), (count, *x.shape), jnp.promote_types(x.dtype, jnp.float32))
        for i, x in enumerate(leaves)])


def top_eigenpairs(product: Product, start_B: Any, k: int, depth: int) -> Eigenpairs:
    """The K algebraically largest eigenpairs; `residual_K` says whether they converged, nothing here does.

    Args: start_B: leaves [B, ...], random; a matrix zero outside a block keeps to the start's part in it after one product.
    Raises: ValueError when the space has fewer than K dimensions or the parameters fewer than R.
    """
    leaves = jax.tree.leaves(start_B)
    basis_size, entries = depth * len(leaves[0]), sum(x[0].size for x in leaves)
    if not 1 <= k <= basis_size <= entries:
        raise ValueError(f"top_eigenpairs needs 1 <= k <= block * depth <= parameters; found k={k}, block * depth="
                         f"{basis_size}, {entries} parameters")
    ritz = rayleigh_ritz(product, start_B, depth)
    c_KxR = ritz.coefficients_RxR[:, :k].T
    vectors, image = combine(c_KxR, ritz.basis), combine(c_KxR, ritz.image)
    values = ritz.values_R[:k]
    gap = jax.tree.map(lambda h, y: h - y * values.reshape(-1, *[1] * (y.ndim - 1)).astype(y.dtype), image, vectors)
    return Eigenpairs(values, vectors, jnp.sqrt(jnp.diagonal(inner(gap, gap))))


class Quadrature(NamedTuple):
    """Gauss quadrature of the spectral measure of one start: nodes with weights that add up to 1. NaN nodes have weight 0."""

    nodes_R: jax.Array
    weights_R: jax.Array


def quadrature(product: Product, start_1: Any, depth: int) -> Quadrature:
    """The Gauss rule of the measure sum_i <start, v_i>^2 delta(lambda_i) / |start|^2; its mean over signs is the density.

    Stochastic Lanczos quadrature averages it over starts. Exact for polynomials of degree 2 depth - 1.
    """
    ritz = rayleigh_ritz(product, start_1, depth)
    return Quadrature(ritz.values_R, ritz.coefficients_RxR[0] ** 2)


def share_above(rule: Quadrature, threshold: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(share of the measure at or above a threshold, how far the true share may lie from it).

    By Chebyshev, Markov and Stieltjes the true share of the start's own measure lies between the sums without and with the
    weights of the two nodes next to the threshold: the larger of the two is the bound.
    """
    above_R = rule.nodes_R >= threshold  # False for NaN
    upper = jnp.where(above_R, rule.weights_R, 0.0)
    nearest_above = jnp.argmin(jnp.where(above_R, rule.nodes_R, jnp.inf))
    below_R = rule.nodes_R < threshold
    nearest_below = jnp.argmax(jnp.where(below_R, rule.nodes_R, -jnp.inf))
    return upper.sum(), jnp.maximum(jnp.where(above_R.any(), rule.weights_R[nearest_above], 0.0),
                                    jnp.where(below_R.any(), rule.weights_R[nearest_below], 0.0))


def trace_draws(product: Product, like: Any, draws: int, key: jax.Array, of: Callable[[Any, Any], jax.Array]) -> jax.Array:
    """v'(Hv) of D sign vectors, each split by `of(v, Hv)` (Hutchinson): [D, ...]; the mean of each part is unbiased.

    `of` sums v (Hv) over the entries of every block: E v_b'(Hv)_b = tr H_bb, whatever couples the blocks.
    """
    v_D = rademacher(like, draws, key)
    return jax.vmap(of)(v_D, product(v_D))
