"""Spectra, subspaces and angles: one implementation for every probe.

Everything is float32 in and out, jit-able, for one matrix; batch with `jax.lax.map` (a `vmap` of iterative solvers runs
every lane to the slowest, and turns the fallback of `top_k` into "always both"). Every product is taken at HIGHEST
precision: an accelerator's default would round the operands to bf16 and report its own error as rotation.
On CPU, start the process with OPENBLAS_NUM_THREADS=1: LAPACK's spinning threads cost up to ten times on small matrices
when anything else runs.

Legend: M rows, N columns, Q = min(M, N), K wanted singular triplets, R = depth * block basis vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST
RESIDUAL_TOLERANCE = 1e-4  # of the gap at k: then the angle error of a computed subspace is below about 1e-4 rad


class SVD(NamedTuple):
    """Thin singular value decomposition a = u diag(s) v', singular values descending."""

    u_MxQ: jax.Array
    s_Q: jax.Array
    v_NxQ: jax.Array


class TopK(NamedTuple):
    """Leading singular triplets and their residuals max(||a'u - s v||, ||a v - s u||), one for each triplet."""

    u_MxK: jax.Array
    s_K: jax.Array
    v_NxK: jax.Array
    residual_K: jax.Array


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """a @ b at full float32 precision on every back end."""
    return jnp.matmul(a, b, precision=HIGHEST)


def svd(a_MxN: jax.Array) -> SVD:
    """Exact thin SVD (LAPACK gesdd on CPU). Returns v, not its transpose. NaN in, NaN out."""
    u, s, vt = jnp.linalg.svd(a_MxN, full_matrices=False)
    return SVD(u, s, vt.T)


def singular_values(a_MxN: jax.Array) -> jax.Array:
    """All min(M, N) singular values, descending; absolute error about eps * ||a||_2 (never through the Gram matrix)."""
    return jnp.linalg.svd(a_MxN, compute_uv=False)


def residuals(a_MxN: jax.Array, u_MxK: jax.Array, s_K: jax.Array, v_NxK: jax.Array) -> jax.Array:
    """max(||a'u_i - s_i v_i||, ||a v_i - s_i u_i||) for each triplet: f32[K], in the unit of s."""
    right = jnp.linalg.norm(matmul(a_MxN.T, u_MxK) - v_NxK * s_K[None, :], axis=0)
    left = jnp.linalg.norm(matmul(a_MxN, v_NxK) - u_MxK * s_K[None, :], axis=0)
    return jnp.maximum(right, left)


def block_krylov(a_MxN: jax.Array, k: int, key: jax.Array, block: int, depth: int) -> TopK:
    """Leading k triplets from the Krylov space span{X, (A'A)X, ..., (A'A)^(depth-1) X}, X an N x block Gaussian.

    Full re-orthogonalisation: each block is projected off the basis and orthonormalised three times, so rank-deficient
    matrices are safe. Only products with `a`, QR of tall blocks and one SVD of the R x R projected factor.

    Args:
      a_MxN: f32 matrix.
      k: triplets wanted.
      key: random key of the sketch; use the same key for the two ends of a comparison.
      block: columns of a block, at least k (k + 8 or more is sound).
      depth: number of blocks, at least 5 (fewer give singular values but not subspaces: methods/numerics.md 5.2).
    Returns: TopK; `residual_K` says whether it converged, nothing here does.
    Raises: ValueError when the basis does not fit the matrix or is too shallow.
    Source: Musco and Musco, arXiv:1504.05477.
    """
    m, n = a_MxN.shape
    if block < k or depth < 5:
        raise ValueError(f"block_krylov needs block >= k and depth >= 5; found block={block}, k={k}, depth={depth}")
    if block * depth > min(m, n):
        raise ValueError(
            f"block_krylov needs block * depth <= min(m, n); found {block} * {depth} > {min(m, n)}: use svd"
        )

    def orthonormal(y_NxB, basis_NxR):
        for _ in range(3):  # twice is enough, once more when the block is numerically dependent on the basis
            y_NxB = y_NxB - matmul(basis_NxR, matmul(basis_NxR.T, y_NxB))
            y_NxB = jnp.linalg.qr(y_NxB)[0]
        return y_NxB

    def grow(i, basis_NxR):
        last = jax.lax.dynamic_slice_in_dim(basis_NxR, (i - 1) * block, block, axis=1)
        y = matmul(a_MxN.T, matmul(a_MxN, last))
        return jax.lax.dynamic_update_slice_in_dim(basis_NxR, orthonormal(y, basis_NxR), i * block, axis=1)

    first = jnp.linalg.qr(jax.random.normal(key, (n, block), a_MxN.dtype))[0]
    basis_NxR = jnp.zeros((n, block * depth), a_MxN.dtype).at[:, :block].set(first)
    basis_NxR = jax.lax.fori_loop(1, depth, grow, basis_NxR)
    q_MxR, r_RxR = jnp.linalg.qr(matmul(a_MxN, basis_NxR))
    small = svd(r_RxR)
    u, s, v = matmul(q_MxR, small.u_MxQ[:, :k]), small.s_Q[:k], matmul(basis_NxR, small.v_NxQ[:, :k])
    return TopK(u, s, v, residuals(a_MxN, u, s, v))


def top_k(a_MxN: jax.Array, k: int, key: jax.Array, *, oversample: int = 8, depth: int = 6) -> TopK:
    """Leading k singular triplets that may be trusted for angles.

    Block Krylov, accepted only if every residual is <= 1e-4 * (s_k - s_{k+1}); otherwise, and whenever the Krylov
    basis would not be smaller than the matrix, the exact SVD. The condition is evaluated on device (`lax.cond`).
    Args: a_MxN f32; k < min(M, N); key of the sketch. Returns: TopK. Raises: ValueError for k out of range.
    """
    m, n = a_MxN.shape
    if not 1 <= k < min(m, n):
        raise ValueError(f"top_k needs 1 <= k < min(m, n) = {min(m, n)}; found k={k}")

    def exact(_):
        full = svd(a_MxN)
        u, s, v = full.u_MxQ[:, :k], full.s_Q[:k], full.v_NxQ[:, :k]
        return TopK(u, s, v, residuals(a_MxN, u, s, v))

    block = k + 1 + oversample
    if block * depth >= min(m, n):
        return exact(None)
    wide = block_krylov(a_MxN, k + 1, key, block, depth)
    gap = wide.s_K[k - 1] - wide.s_K[k]
    found = TopK(wide.u_MxK[:, :k], wide.s_K[:k], wide.v_NxK[:, :k], wide.residual_K[:k])
    converged = jnp.max(found.residual_K) <= RESIDUAL_TOLERANCE * gap  # False for NaN
    return jax.lax.cond(converged, lambda _: found, exact, None)


def complement(u1_MxK: jax.Array, u2_MxK: jax.Array) -> tuple[jax.Array, jax.Array]:
    """C = u1'u2 and S = u2 - u1 C: cosines and sines of the principal angles are their singular values.

    The projection is applied twice, so S does not carry the 1e-6 by which a float32 basis misses orthonormality.
    """
    c_KxK = matmul(u1_MxK.T, u2_MxK)
    s_MxK = u2_MxK - matmul(u1_MxK, c_KxK)
    return c_KxK, s_MxK - matmul(u1_MxK, matmul(u1_MxK.T, s_MxK))


def principal_angles(u1_MxK: jax.Array, u2_MxK: jax.Array) -> jax.Array:
    """Principal angles between two column spaces, radians, descending.

    theta_i = arcsin(s_i) where s_i^2 <= 1/2, else arccos(c_i): s the singular values of S, c those of C (`complement`).
    Never the arccos of a near-one cosine, whose float32 floor is 3.5e-4 rad.
    Args: orthonormal columns. Returns: f32[K]. Source: Bjorck and Golub 1973; Knyazev and Argentati 2002.
    """
    c_KxK, s_MxK = complement(u1_MxK, u2_MxK)
    sine = jnp.minimum(singular_values(s_MxK), 1.0)
    cosine = jnp.minimum(singular_values(c_KxK)[::-1], 1.0)
    return jnp.where(sine**2 <= 0.5, jnp.arcsin(sine), jnp.arccos(cosine))


def mean_sin2(u1_MxK: jax.Array, u2_MxK: jax.Array) -> jax.Array:
    """Mean squared sine of the principal angles, ||S||_F^2 / k, from S itself (1 - ||C||^2/k cancels)."""
    return jnp.sum(complement(u1_MxK, u2_MxK)[1] ** 2) / u1_MxK.shape[1]


def subspace_rotation(u1_MxK: jax.Array, u2_MxK: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean sin^2, largest angle in radians) between the spans of the first k columns; k may be traced, k <= K.

    The same numbers as `mean_sin2` and `principal_angles` on the first k columns, with one program for every k: unused
    columns are zeroed, which adds zero sines, and given cosine one.
    """
    used_K = jnp.arange(u1_MxK.shape[1]) < k
    c_KxK, s_MxK = complement(u1_MxK * used_K[None, :], u2_MxK * used_K[None, :])
    sine = jnp.minimum(singular_values(s_MxK)[0], 1.0)
    cosine = jnp.minimum(singular_values(c_KxK + jnp.diag(1.0 - used_K))[-1], 1.0)
    return jnp.sum(s_MxK**2) / k, jnp.where(sine**2 <= 0.5, jnp.arcsin(sine), jnp.arccos(cosine))


def wedin_bound(norm2_dw: jax.Array, s0_Q: jax.Array, s1_Q: jax.Array, k: int) -> jax.Array:
    """Upper bound of the largest sine of the top-k rotation, both sides: ||dW||_2 / (s_k(W0) - s_{k+1}(W1)).

    Absent (NaN) when the denominator is not positive; vacuous above 1, returned as it comes. The gap of W0 alone is not
    a bound (methods/conventions.md). Args: norm2_dw = ||W1 - W0||_2; full descending spectra; k < Q.
    Source: Wedin 1972.
    """
    separation = s0_Q[k - 1] - s1_Q[k]
    return jnp.where(separation > 0, norm2_dw / jnp.where(separation > 0, separation, 1.0), jnp.nan)


def stable_rank(s_Q: jax.Array) -> jax.Array:
    """||A||_F^2 / ||A||_2^2 from the singular values; NaN for a zero matrix."""
    return jnp.sum((s_Q / s_Q[0]) ** 2)


def energy_rank(s_Q: jax.Array, q: float) -> jax.Array:
    """Smallest r with sum_{i<=r} s_i^2 >= q * sum s_i^2, as f32; NaN for a zero matrix."""
    energy_Q = jnp.cumsum((s_Q / s_Q[0]) ** 2)
    rank = 1 + jnp.sum(energy_Q < q * energy_Q[-1])
    return jnp.where(jnp.isnan(energy_Q[-1]), jnp.nan, jnp.minimum(rank, s_Q.shape[0]).astype(s_Q.dtype))


def entropy_rank(s_Q: jax.Array) -> jax.Array:
    """exp(H(p)), p = s^2 / sum s^2 (Roy and Vetterli 2007 use p = s / sum s: that is `entropy_rank_sigma`)."""
    return _exp_entropy((s_Q / s_Q[0]) ** 2)


def entropy_rank_sigma(s_Q: jax.Array) -> jax.Array:
    """exp(H(p)), p = s / sum s: the variant on sigma instead of sigma^2."""
    return _exp_entropy(s_Q / s_Q[0])


def _exp_entropy(weight_Q: jax.Array) -> jax.Array:
    p_Q = weight_Q / jnp.sum(weight_Q)
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(p_Q, p_Q)))


def hill(s_Q: jax.Array, k: int) -> jax.Array:
    """Hill's tail index on the top k singular values: [sum_{i<k} log(s_i / s_k) / (k - 1)]^-1; needs 2 <= k <= Q."""
    return (k - 1) / jnp.sum(jnp.log(s_Q[: k - 1] / s_Q[k - 1]))


def rounding_edge(q_rms: jax.Array, m: int, n: int) -> jax.Array:
    """Largest singular value to expect of pure rounding noise of standard deviation q_rms: q_rms (sqrt m + sqrt n)."""
    return q_rms * (m**0.5 + n**0.5)


def count_above(s_Q: jax.Array, edge: jax.Array) -> jax.Array:
    """Number of singular values strictly above `edge`, as f32."""
    return jnp.sum(s_Q > edge).astype(s_Q.dtype)
