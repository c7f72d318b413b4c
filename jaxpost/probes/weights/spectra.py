"""Statistics of one matrix and its update: spectrum, rotation, captured energy, rank, as f32 arrays.

Axes over k follow the `ks` given; entries whose k exceeds Q - 1 are NaN.

Legend: M rows, N columns, Q = min(M, N), R columns kept of the reference, K the number of `ks`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import linalg

RANKS = ("stable", "energy/q=0.9", "energy/q=0.99", "entropy", "entropy_sigma", "hill")
LEADING_RANKS = ("stable", "hill")  # those that need the leading singular values only
REGIONS = ("both", "left", "right")
SKETCH = 0  # seed of every sketch: both ends of a comparison start alike, and a matrix reads the same anywhere


class Frame(NamedTuple):
    """Leading singular triplets of a matrix with their residuals; `s` goes at least one value further, or is all of them."""

    u_MxR: jax.Array
    s: jax.Array
    v_NxR: jax.Array
    residual: jax.Array  # of R triplets or one more
    fell_back: jax.Array  # bool: see `linalg.TopK`


def frame(w: jax.Array, ks: tuple[int, ...], level: str) -> Frame:
    """Decomposition of `w` for subspaces of dimensions `ks`: level "top" (certified), or LAPACK, all values."""
    q = min(w.shape)
    if level != "top":
        u, s, v = linalg.svd(w)
        kept = min(max(ks), q)
        u, v = u[:, :kept], v[:, :kept]
        return Frame(u, s, v, linalg.residuals(w, u, s[:kept], v), jnp.bool_(False))
    kept = min(max(ks), q - 1)
    top = linalg.top_k(w, kept, jax.random.key(SKETCH), at=tuple(k for k in ks if k <= kept))
    s, residual = jnp.append(top.s_K, top.next_s), jnp.append(top.residual_K, top.next_residual)
    return Frame(top.u_MxK, s, top.v_NxK, residual, top.fell_back)


def _where_fits(x: jax.Array, ks: tuple[int, ...], q: int) -> jax.Array:
    """NaN on the last axis (over ks) where k > q - 1."""
    return jnp.where(jnp.asarray(np.asarray(ks) <= q - 1), x, jnp.nan)


def rotation(before: Frame, after: Frame, ks: tuple[int, ...]) -> dict[str, jax.Array]:
    """mean_sin2 and max_angle (radians) of the principal angles between top-k subspaces, [2 sides, K]."""
    sizes = before.u_MxR.shape[0], before.v_NxR.shape[0]
    q, rows, kept = min(sizes), max(sizes), after.u_MxR.shape[1]

    def both_sides(u, v):  # zero rows change no inner product
        pad = [jnp.pad(x[:, :kept], ((0, rows - x.shape[0]), (0, 0))) for x in (u, v)]
        return jnp.stack(pad)

    frames = both_sides(before.u_MxR, before.v_NxR), both_sides(after.u_MxR, after.v_NxR)
    k_K = jnp.asarray(np.minimum(ks, kept), jnp.int32)

    def at(i):
        side, k = i // len(ks), k_K[i % len(ks)]
        return linalg.subspace_rotation(frames[0][side], frames[1][side], k)

    sin2, angle = (x.reshape(2, len(ks)) for x in jax.lax.map(at, jnp.arange(2 * len(ks))))
    return {"mean_sin2": _where_fits(sin2, ks, q), "max_angle": _where_fits(angle, ks, q)}


def spectral_shift(s0_Q: jax.Array, s1_Q: jax.Array) -> jax.Array:
    """||s1 - s0||_2 / ||s0||_2 on full descending spectra."""
    return jnp.linalg.norm(s1_Q - s0_Q) / jnp.linalg.norm(s0_Q)


def gaps(s: jax.Array, ks: tuple[int, ...], q: int) -> jax.Array:
    """(s_k - s_{k+1}) / s_1: f32[K], NaN where k does not fit."""
    at_K = np.minimum(ks, q - 1)
    return _where_fits((s[at_K - 1] - s[at_K]) / s[0], ks, q)


def captured_energy(u0_MxR, v0_NxR, dw_MxN: jax.Array, ks: tuple[int, ...]) -> jax.Array:
    """Share of ||dW||_F^2 inside the reference's top-k block, [3 REGIONS, K]; NaN for dW = 0.

    both = ||U'dWV||^2, left = ||U'dW||^2, right = ||dWV||^2, each over ||dW||^2.
    """
    q = min(dw_MxN.shape)
    kept = min(max(ks), q)
    u, v = u0_MxR[:, :kept], v0_NxR[:, :kept]
    left_RxN, right_MxR = linalg.matmul(u.T, dw_MxN), linalg.matmul(dw_MxN, v)
    both_RxR = linalg.matmul(left_RxN, v)
    at_K = np.minimum(ks, kept) - 1
    both = jnp.cumsum(jnp.cumsum(both_RxR**2, axis=0), axis=1)[at_K, at_K]
    left = jnp.cumsum(jnp.sum(left_RxN**2, axis=1))[at_K]
    right = jnp.cumsum(jnp.sum(right_MxR**2, axis=0))[at_K]
    return _where_fits(jnp.stack([both, left, right]) / jnp.sum(dw_MxN**2), ks, q)


def wedin_bounds(norm2_dw: jax.Array, s0: jax.Array, s1: jax.Array, ks: tuple[int, ...], q: int) -> jax.Array:
    """`linalg.wedin_bound` for each k: f32[K], NaN where it is absent."""
    bounds = [linalg.wedin_bound(norm2_dw, s0, s1, min(k, q - 1)) for k in ks]
    return _where_fits(jnp.stack(bounds), ks, q)


def ranks(s_Q: jax.Array, hill_k: int) -> jax.Array:
    """Scale-free ranks of a spectrum in the order of `RANKS`; Hill on the top hill_k values (NaN if fewer)."""
    hill = linalg.hill(s_Q, hill_k) if hill_k <= s_Q.shape[0] else jnp.float32(jnp.nan)
    return jnp.stack(
        [
            linalg.stable_rank(s_Q),
            linalg.energy_rank(s_Q, 0.9),
            linalg.energy_rank(s_Q, 0.99),
            linalg.entropy_rank(s_Q),
            linalg.entropy_rank_sigma(s_Q),
            hill,
        ]
    )


def leading_ranks(norm: jax.Array, s_K: jax.Array, hill_k: int) -> jax.Array:
    """`LEADING_RANKS` from ||A||_F and at least the first min(hill_k, Q) singular values; NaN for a zero matrix."""
    hill = linalg.hill(s_K, hill_k) if hill_k <= s_K.shape[0] else jnp.float32(jnp.nan)
    return jnp.stack([(norm / s_K[0]) ** 2, hill])
