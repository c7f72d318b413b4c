"""Statistics of one matrix and its update: spectrum, rotation, captured energy, rank, as f32 arrays.

Axes over k follow the `ks` given; entries whose k exceeds Q - 1 are NaN.

Legend: M rows, N columns, Q = min(M, N), R columns kept of the reference, K the number of `ks`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import linalg

RANKS = ("stable", "energy/q=0.9", "energy/q=0.99", "entropy", "entropy_sigma", "hill")
REGIONS = ("both", "left", "right")


def _where_fits(x: jax.Array, ks: tuple[int, ...], q: int) -> jax.Array:
    """NaN on the last axis (over ks) where k > q - 1."""
    return jnp.where(jnp.asarray(np.asarray(ks) <= q - 1), x, jnp.nan)


def rotation(u0_MxR, s0_Q, v0_NxR, w: jax.Array, ks: tuple[int, ...]) -> tuple[dict[str, jax.Array], jax.Array]:
    """Spectral shift and subspace rotation of `w` against a reference decomposition, and the spectrum of `w`.

    spectral_shift = ||s(w) - s0||_2 / ||s0||_2 on full descending spectra; mean_sin2 and max_angle (radians) of the
    principal angles between top-k subspaces, [2 sides, K].
    """
    q, rows = min(w.shape), max(w.shape)
    kept = min(max(ks), q)
    u1, s1_Q, v1 = linalg.svd(w)

    def both_sides(u, v):  # zero rows change no inner product
        pad = [jnp.pad(x[:, :kept], ((0, rows - x.shape[0]), (0, 0))) for x in (u, v)]
        return jnp.stack(pad)

    before, after = both_sides(u0_MxR, v0_NxR), both_sides(u1, v1)
    k_K = jnp.asarray(np.minimum(ks, kept), jnp.int32)

    def at(i):
        side, k = i // len(ks), k_K[i % len(ks)]
        return linalg.subspace_rotation(before[side], after[side], k)

    sin2, angle = (x.reshape(2, len(ks)) for x in jax.lax.map(at, jnp.arange(2 * len(ks))))
    shift = jnp.linalg.norm(s1_Q - s0_Q) / jnp.linalg.norm(s0_Q)
    angles = {"mean_sin2": _where_fits(sin2, ks, q), "max_angle": _where_fits(angle, ks, q)}
    return {"spectral_shift": shift, **angles}, s1_Q


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


def wedin_bounds(s_dw_Q: jax.Array, s0_Q: jax.Array, s1_Q: jax.Array, ks: tuple[int, ...]) -> jax.Array:
    """`linalg.wedin_bound` for each k: f32[K], NaN where it is absent."""
    q = s0_Q.shape[0]
    bounds = [linalg.wedin_bound(s_dw_Q[0], s0_Q, s1_Q, min(k, q - 1)) for k in ks]
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
