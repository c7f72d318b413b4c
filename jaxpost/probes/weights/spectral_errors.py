"""Numerical error of the statistics in `spectra`: how far float32 and the iteration can have moved each number.

A computed top-k subspace is within e = `linalg.subspace_error` of the true one (Frobenius norm of the sines, from the
residuals), a singular value computed with vectors within `value_error` (Weyl), one without within ALONE * VALUE_ERROR * s_1.
Everything else is propagated: the sine distance and the largest angle are metrics of subspaces, so errors of two ends add.

Legend: K the number of `ks`, Q singular values.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import linalg
from jaxpost.probes.weights.spectra import Frame


def subspaces(frame: Frame, ks: tuple[int, ...]) -> jax.Array:
    """`linalg.subspace_error` of a decomposition at each k: f32[K]; 1 where k does not fit."""
    fit = [k if k < min(len(frame.s), frame.residual.shape[0] + 1) else None for k in ks]
    return jnp.stack([jnp.float32(1) if k is None else linalg.subspace_error(frame.residual, frame.s, k) for k in fit])


def value_error(frame: Frame) -> jax.Array:
    """Bound of the error of every singular value in the frame."""
    return jnp.maximum(linalg.VALUE_ERROR * frame.s[0], jnp.max(frame.residual))


def rotation(out: dict[str, jax.Array], before_K: jax.Array, after_K: jax.Array, ks: tuple[int, ...]) -> dict:
    """Errors of `spectra.rotation`, [2 sides, K], from those of the two subspaces.

    d = ||sin Theta||_F = sqrt(k mean_sin2) is off by at most e = e0 + e1 + FRAME_ERROR sqrt(k), hence mean_sin2 by
    (2 d e + e^2) / k and the largest angle by arcsin e0 + arcsin e1 + FRAME_ERROR sqrt(k).
    """
    k_K = jnp.asarray(ks, jnp.float32)
    rounding_K = linalg.FRAME_ERROR * jnp.sqrt(k_K)
    e_K = (before_K + after_K + rounding_K)[None]
    distance = jnp.sqrt(k_K[None] * out["mean_sin2"])
    sin2 = jnp.minimum((2 * distance * e_K + e_K**2) / k_K[None], 1.0)
    angle_K = jnp.minimum(jnp.arcsin(before_K) + jnp.arcsin(after_K) + rounding_K, jnp.pi / 2)
    return {"mean_sin2_error": sin2, "max_angle_error": jnp.broadcast_to(angle_K[None], sin2.shape)}


def captured(share_3xK: jax.Array, before_K: jax.Array) -> jax.Array:
    """Errors of `spectra.captured_energy`: a share c read through a subspace that is off by e is off by at most
    2 e sqrt(c (1 - c)) + e^2, with 2 e for the two-sided share; and 2 FRAME_ERROR c + EPS for the products."""
    e_3xK = jnp.stack([2 * before_K, before_K, before_K])
    c = jnp.clip(share_3xK, 0.0, 1.0)
    return jnp.minimum(2 * e_3xK * jnp.sqrt(c * (1 - c)) + e_3xK**2, 1.0) + 2 * linalg.FRAME_ERROR * c + linalg.EPS


def wedin(bound_K, norm2_dw, norm2_error, s_error, s0, s1, ks: tuple[int, ...], q: int) -> jax.Array:
    """Error of the Wedin bound N / separation: (dN + bound ds) / (separation - ds); NaN where ds reaches the separation."""
    at_K = np.minimum(ks, q - 1)
    left = s0[at_K - 1] - s1[at_K] - s_error
    return jnp.where(left > 0, (norm2_error + bound_K * s_error) / jnp.where(left > 0, left, 1.0), jnp.nan)


def shift(s0_Q: jax.Array, s1_Q: jax.Array) -> jax.Array:
    """Error of the spectral shift: SPECTRUM_ERROR of either spectrum (Mirsky: ||ds||_2 <= ||dA||_F)."""
    return linalg.SPECTRUM_ERROR * (1 + jnp.linalg.norm(s1_Q) / jnp.linalg.norm(s0_Q))


def stable_rank(rank: jax.Array, s_1: jax.Array, s_1_error: jax.Array, norm_error: float) -> jax.Array:
    """Error of ||A||_F^2 / s_1^2 from that of s_1 and the relative one of the norm."""
    return rank * ((1 + s_1_error / s_1) ** 2 * (1 + 2 * norm_error) - 1)


def hill(index: jax.Array, s_Q: jax.Array, error: jax.Array, k: int) -> jax.Array:
    """Error of Hill's index from an error (scalar or [Q]) of every singular value, by way of the sum of logarithms."""
    if k > s_Q.shape[0]:
        return jnp.float32(jnp.nan)
    relative_K = jnp.broadcast_to(error, s_Q.shape)[:k] / s_Q[:k]
    change = (jnp.sum(relative_K[: k - 1]) + (k - 1) * relative_K[k - 1]) * index / (k - 1)
    return jnp.where(change < 1, index * change / (1 - jnp.minimum(change, 0.999)), jnp.inf)


def ranks(values: jax.Array, s_Q: jax.Array, hill_k: int) -> jax.Array:
    """Errors of `spectra.ranks`; of the energy ranks, by how many the rank moves within the error of the energies."""
    error, spectrum_error = linalg.ALONE * linalg.VALUE_ERROR * s_Q[0], linalg.ALONE * linalg.SPECTRUM_ERROR
    stable, energy90, energy99, entropy, entropy_sigma, hill_index = values
    p_Q = s_Q**2 / jnp.sum(s_Q**2)
    off = 2 * spectrum_error
    return jnp.stack([
        stable_rank(stable, s_Q[0], error, spectrum_error),
        _energy_rank(s_Q, 0.9, off),
        _energy_rank(s_Q, 0.99, off),
        _entropy_rank(entropy, p_Q, 2 * jnp.sqrt(p_Q) * spectrum_error),
        _entropy_rank(entropy_sigma, s_Q / jnp.sum(s_Q), error / jnp.sum(s_Q)),
        hill(hill_index, s_Q, error, hill_k),
    ])


def leading_ranks(values: jax.Array, s_K: jax.Array, error_K: jax.Array, hill_k: int) -> jax.Array:
    """Errors of `spectra.leading_ranks` from those of the leading singular values."""
    return jnp.stack([stable_rank(values[0], s_K[0], error_K[0], linalg.SPECTRUM_ERROR), hill(values[1], s_K, error_K, hill_k)])


def count_above(s_Q: jax.Array, edge: jax.Array) -> jax.Array:
    """By how many the count above an edge moves when every singular value may be off by its error."""
    error = linalg.ALONE * linalg.VALUE_ERROR * s_Q[0]
    count = linalg.count_above(s_Q, edge)
    return jnp.maximum(linalg.count_above(s_Q + error, edge) - count, count - linalg.count_above(s_Q - error, edge))


def _energy_rank(s_Q: jax.Array, q: float, off: float) -> jax.Array:
    rank = linalg.energy_rank(s_Q, q)
    return jnp.maximum(linalg.energy_rank(s_Q, q + off) - rank, rank - linalg.energy_rank(s_Q, q - off))


def _entropy_rank(rank: jax.Array, p_Q: jax.Array, dp_Q: jax.Array) -> jax.Array:
    """exp(H) moves by the factor exp(dH), dH <= sum |dp| |log p + H|; a value that may be zero counts with its error."""
    entropy = jnp.log(rank)
    floor_Q = jnp.maximum(jnp.maximum(p_Q, dp_Q), 1e-30)
    return rank * jnp.expm1(jnp.sum((dp_Q + linalg.EPS * p_Q) * (jnp.abs(jnp.log(floor_Q) + entropy) + 1)))
