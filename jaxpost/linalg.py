"""Spectra, subspaces and angles: one implementation for every probe.

Everything is float32 in and out, jit-able, for one matrix; batch with `jax.lax.map` (a `vmap` of iterative solvers runs
every lane to the slowest, and turns the fallback of `top_k` into "always both"). Every product is taken at HIGHEST
precision: an accelerator's default would round the operands to bf16 and report its own error as rotation.
The error constants bound what was seen against float64 on flat, linear, power-law and Gaussian spectra of 16 to 2048 values.
On CPU, start the process with OPENBLAS_NUM_THREADS=1: LAPACK's spinning threads cost up to ten times on small matrices
when anything else runs.

Legend: M rows, N columns, Q = min(M, N), K wanted singular triplets, R = depth * block basis vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpost import gram_schmidt, jacobi

HIGHEST = jax.lax.Precision.HIGHEST
EPS = 2.0**-23  # of float32
VALUE_ERROR = 32 * EPS  # of s_1: bounds the error of every singular value of `svd` (seen: 22 EPS)
SPECTRUM_ERROR = 8 * EPS  # of ||s||_2: the same for the whole spectrum, and for norms (seen: 5.7 EPS)
ALONE = 4.0  # times these for `singular_values`: without vectors LAPACK is less accurate (seen: 52 and 10 EPS)
FRAME_ERROR = 32 * EPS  # by which float32 columns miss orthonormality (seen: 28 EPS)
RESIDUAL_FLOOR = 32 * EPS  # of s_1: float32 triplets have no smaller residuals, LAPACK's included (seen: 7 to 45 EPS)
NATIVE = 256  # rows or columns up to which a TPU's compiler has its own SVD in seconds: 4 s for 225 x 225, 112 for 896 x 896
ANGLE_TOLERANCE = 1e-4  # rad: the certified angle error at which `top_k` stops


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
    next_s: jax.Array  # s_{k+1}, from below
    next_residual: jax.Array  # of the triplet k + 1: bounds the error of next_s
    fell_back: jax.Array  # bool: the iteration did not certify them and the exact SVD took its place


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """a @ b at full float32 precision on every back end."""
    return jnp.matmul(a, b, precision=HIGHEST)


def svd(a_MxN: jax.Array) -> SVD:
    """Exact thin SVD. Returns v, not its transpose. NaN in, NaN out.

    That of `jnp.linalg` (LAPACK gesdd on CPU), but `svd_by_rotations` on a TPU for more than NATIVE rows and columns.
    """
    def native(a_MxN):
        u, s, vt = jnp.linalg.svd(a_MxN, full_matrices=False)
        return SVD(u, s, vt.T)

    return _exact(a_MxN, native, svd_by_rotations)


def svd_by_rotations(a_MxN: jax.Array) -> SVD:
    """As `svd`, by `jacobi.svd`: columns of a zero singular value are zero on the longer side."""
    a_MxN, unit = _to_unit(a_MxN)
    u, s, v = jacobi.svd(a_MxN)
    return SVD(u, s * unit, v)


def singular_values(a_MxN: jax.Array) -> jax.Array:
    """All min(M, N) singular values, descending, never through the Gram matrix.

    Each within ALONE * VALUE_ERROR * s_1 of the true one.
    """
    return _exact(a_MxN, lambda a_MxN: jnp.linalg.svd(a_MxN, compute_uv=False), lambda a_MxN: svd_by_rotations(a_MxN).s_Q)


def _exact(a_MxN: jax.Array, native: Callable, by_rotations: Callable):
    """What both compute, by rotations where a TPU's compiler would take minutes over its own."""
    if min(a_MxN.shape) <= NATIVE:
        return native(a_MxN)
    return jax.lax.platform_dependent(a_MxN, tpu=by_rotations, default=native)


def qr(y_NxB: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Thin QR of a tall block: that of `jnp.linalg`, but `gram_schmidt.qr` on a TPU."""
    return jax.lax.platform_dependent(y_NxB, tpu=gram_schmidt.qr, default=lambda y_NxB: tuple(jnp.linalg.qr(y_NxB)))


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
      block: columns of a block, at least k + 1 (k + 8 or more is sound).
      depth: number of blocks, at least 5 (fewer give singular values but not subspaces: methods/numerics.md 5.2).
    Returns: TopK; `residual_K` says whether it converged, nothing here does.
    Raises: ValueError when the basis does not fit the matrix or is too shallow.
    Source: Musco and Musco, arXiv:1504.05477.
    """
    m, n = a_MxN.shape
    if block <= k or depth < 5:
        raise ValueError(f"block_krylov needs block > k and depth >= 5; found block={block}, k={k}, depth={depth}")
    if block * depth > min(m, n):
        raise ValueError(
            f"block_krylov needs block * depth <= min(m, n); found {block} * {depth} > {min(m, n)}: use svd"
        )
    a_MxN, unit = _to_unit(a_MxN)
    u, s, v = _krylov_triplets(a_MxN, block, depth, jax.random.normal(key, (n, block), a_MxN.dtype))
    return _from_unit(_leading(a_MxN, k, u, s, v, jnp.bool_(False)), unit)


def _to_unit(a_MxN: jax.Array) -> tuple[jax.Array, jax.Array]:
    """a over a power of two near its largest entry, and that power: products and squared residuals neither vanish nor
    overflow, and nothing else changes (exact)."""
    unit = jax.lax.reduce_precision(jnp.max(jnp.abs(a_MxN)), exponent_bits=8, mantissa_bits=0)
    unit = jnp.where(unit > 0, unit, 1.0)
    return a_MxN / unit, unit


def _from_unit(scaled: TopK, unit: jax.Array) -> TopK:
    in_units = ("s_K", "residual_K", "next_s", "next_residual")
    return scaled._replace(**{name: getattr(scaled, name) * unit for name in in_units})


def _leading(a_MxN, k, u, s, v, fell_back) -> TopK:
    """The first k of at least k + 1 triplets, with residuals."""
    residual = residuals(a_MxN, u[:, : k + 1], s[: k + 1], v[:, : k + 1])
    return TopK(u[:, :k], s[:k], v[:, :k], residual[:k], s[k], residual[k], fell_back)


def _krylov_triplets(a_MxN, block, depth, start_NxB) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The leading `block` Ritz triplets of the Krylov space of a start."""

    def orthonormal(y_NxB, basis_NxR):
        for _ in range(3):  # twice is enough, once more when the block is numerically dependent on the basis
            y_NxB = y_NxB - matmul(basis_NxR, matmul(basis_NxR.T, y_NxB))
            y_NxB = qr(y_NxB)[0]
        return y_NxB

    def grow(i, carry):
        basis_NxR, image_MxR, newest_NxB = carry
        newest_MxB = matmul(a_MxN, newest_NxB)
        following_NxB = orthonormal(matmul(a_MxN.T, newest_MxB), basis_NxR)
        image_MxR = jax.lax.dynamic_update_slice_in_dim(image_MxR, newest_MxB, (i - 1) * block, axis=1)
        basis_NxR = jax.lax.dynamic_update_slice_in_dim(basis_NxR, following_NxB, i * block, axis=1)
        return basis_NxR, image_MxR, following_NxB

    m, n = a_MxN.shape
    first_NxB = qr(start_NxB)[0]
    basis_NxR = jnp.zeros((n, block * depth), a_MxN.dtype).at[:, :block].set(first_NxB)
    carry = basis_NxR, jnp.zeros((m, block * depth), a_MxN.dtype), first_NxB
    basis_NxR, image_MxR, last_NxB = jax.lax.fori_loop(1, depth, grow, carry)
    q_MxR, r_RxR = qr(image_MxR.at[:, (depth - 1) * block :].set(matmul(a_MxN, last_NxB)))
    small = svd(r_RxR)
    return matmul(q_MxR, small.u_MxQ[:, :block]), small.s_Q[:block], matmul(basis_NxR, small.v_NxQ[:, :block])


def krylov_fits(shape: tuple[int, int], k: int, oversample: int = 8, depth: int = 5) -> bool:
    """Whether `top_k` iterates at this size: its basis is smaller than the matrix. Otherwise it is the exact SVD."""
    return (k + 1 + oversample) * depth < min(shape)


def krylov_depth(shape: tuple[int, int], k: int, oversample: int = 8) -> int:
    """Blocks of a start of `top_k`: as many as a quarter of the matrix holds, 5 to 12 (a deep space needs fewer starts)."""
    return max(5, min(12, min(shape) // (4 * (k + 1 + oversample))))


def top_k(
    a_MxN: jax.Array, k: int, key: jax.Array, *, at: tuple[int, ...] = (), oversample: int = 8, cycles: int = 4
) -> TopK:
    """Leading k singular triplets that may be trusted for angles.

    Block Krylov, restarted from its own Ritz vectors until the `subspace_error` at every wanted dimension is at most
    `ANGLE_TOLERANCE`, or the residuals are as small as float32 allows (then the exact SVD would be no better). After
    `cycles` starts without that (a spectrum too flat at k), and whenever the Krylov basis would not be smaller than the
    matrix, the exact SVD. Everything is decided on device; `fell_back` tells the first case.
    Args: a_MxN f32; k < min(M, N); key of the sketch; at: the dimensions <= k to certify, default k alone.
    Returns: TopK. Raises: ValueError for k out of range.
    """
    m, n = a_MxN.shape
    if not 1 <= k < min(m, n):
        raise ValueError(f"top_k needs 1 <= k < min(m, n) = {min(m, n)}; found k={k}")

    a_MxN, unit = _to_unit(a_MxN)

    def exact(fell_back):
        return _leading(a_MxN, k, *svd(a_MxN), fell_back)

    if not krylov_fits((m, n), k, oversample):
        return _from_unit(exact(jnp.bool_(False)), unit)
    block, depth = k + 1 + oversample, krylov_depth((m, n), k, oversample)

    def certified(u, s, v):
        residual = residuals(a_MxN, u[:, : k + 1], s[: k + 1], v[:, : k + 1])
        error = jnp.stack([subspace_error(residual, s, dimension) for dimension in at or (k,)])
        return (jnp.max(error) <= ANGLE_TOLERANCE) | (jnp.max(residual) <= RESIDUAL_FLOOR * s[0])  # False for NaN

    def cycle(carry):
        count, _, (_, _, start_NxB) = carry
        triplets = _krylov_triplets(a_MxN, block, depth, start_NxB)
        return count + 1, certified(*triplets), triplets

    nothing = jnp.zeros((m, block), a_MxN.dtype), jnp.zeros(block, a_MxN.dtype)
    first = (jnp.int32(0), jnp.bool_(False), (*nothing, jax.random.normal(key, (n, block), a_MxN.dtype)))
    _, done, (u, s, v) = jax.lax.while_loop(lambda carry: ~carry[1] & (carry[0] < cycles), cycle, first)
    result = jax.lax.cond(done, lambda: _leading(a_MxN, k, u, s, v, jnp.bool_(False)), lambda: exact(jnp.bool_(True)))
    return _from_unit(result, unit)


def leading_values(
    a_MxN: jax.Array, k: int, key: jax.Array, *, oversample: int = 8, depth: int = 8
) -> tuple[jax.Array, jax.Array]:
    """Leading k singular values and the error of each, without a demand on the vectors: f32[K] twice.

    One Krylov space (exact where it would not be smaller than the matrix). Ritz values lie below the true ones, by at
    most about their residual (Weyl) and mostly by residual^2 / gap: that is why a flat spectrum needs no fallback here.
    """
    if not krylov_fits(a_MxN.shape, k, oversample, depth):
        s_K = singular_values(a_MxN)[:k]
        return s_K, jnp.full_like(s_K, ALONE * VALUE_ERROR * s_K[0])
    leading = block_krylov(a_MxN, k, key, k + 1 + oversample, depth)
    return leading.s_K, jnp.maximum(leading.residual_K, VALUE_ERROR * leading.s_K[0])


def subspace_error(residual: jax.Array, s_Q: jax.Array, k: int) -> jax.Array:
    """Bound of ||sin Theta||_F, on either side, between the span of the first k computed triplets and the true one.

    sqrt(2 sum_{i<=k} (residual_i / gap_i)^2), gap_i = s_i - s_{k+1} - residual_{k+1} - 2 VALUE_ERROR s_1: the residual of
    triplet i has the component (s_j - s_i, s_j + s_i) (a_j -+ b_j) along the true pair j > k, a_j and b_j being those of the
    triplet. At most 1: and exactly 1, no information, where the gap at k does not exceed the error of the singular values.
    That no triplet was missed holds with probability one over the sketch.
    Args: residuals of at least k triplets (of k + 1 from an iteration); at least k + 1 leading values.
    """
    gap_K = s_Q[:k] - s_Q[k] - 2 * VALUE_ERROR * s_Q[0] - (residual[k] if len(residual) > k else 0.0)
    size = jnp.sqrt(2 * jnp.sum((residual[:k] / jnp.where(gap_K > 0, gap_K, 1.0)) ** 2))
    return jnp.where(gap_K[k - 1] > 0, jnp.minimum(size, 1.0), 1.0)


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
