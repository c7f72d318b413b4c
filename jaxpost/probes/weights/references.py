"""References of the weight panel: everything about a base and its nulls that no update changes, made once.

Matrices of one shape are stacked, wide ones transposed, and mapped with `lax.map`: one program a shape.

Legend: M masks, A alphas, K subspace dimensions, L tensors of one shape.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import linalg
from jaxpost.probes.rows.inventory import is_wide, shape_groups
from jaxpost.probes.weights import nulls, spectra, spectral_errors, visibility
from jaxpost.probes.weights.panel import Panel


def prepare(panel: Panel, weights0: Mapping[str, Any], key: jax.Array) -> dict:
    """References of a base: everything about W0 and its nulls that no update changes.

    Args:
      weights0: name -> f32[m, n], finite and on the bf16 grid (a base is rounded once): checked where they are concrete.
      key: random key of the null draws; a tensor's own key depends on it and on the tensor's name only.
    Returns: group ("128x64") -> pytree with leading axis L over the sorted names of that shape (`panel.shape_groups`).
    Raises: ValueError for a tensor that is no matrix, not finite, all zero, or off the bf16 grid.
    """
    groups = shape_groups({name: np.shape(w) for name, w in weights0.items()})
    for name, w in weights0.items():
        _check_base(name, jnp.asarray(w))
    refs = {}
    for group, names in groups.items():
        keys = jnp.stack([jax.random.fold_in(key, zlib.crc32(name.encode())) for name in names])
        refs[group] = _prepare_group(panel, stack(weights0, names), wide_of(weights0, names), keys)
    return refs


def _check_base(name: str, w: jax.Array) -> None:
    if w.dtype != jnp.float32:
        raise ValueError(f"base tensor {name!r} is {w.dtype}; expected float32 holding bf16 values (upcast first)")
    if isinstance(w, jax.core.Tracer):  # compiled ahead of its base
        return
    if not bool(jnp.isfinite(w).all()) or not bool(jnp.any(w)):
        raise ValueError(f"base tensor {name!r} is not finite or is all zero")
    off = float(jnp.mean(visibility.bf16_values(visibility.bf16_codes(w)) != w))
    if off:
        raise ValueError(f"base tensor {name!r}: {off:.1%} of its entries are off the bf16 grid; round the base once")


@partial(jax.jit, static_argnums=0)
def _prepare_group(panel: Panel, w0_LxMxN: jax.Array, wide_L: jax.Array, keys_L: jax.Array) -> dict:
    return jax.lax.map(lambda x: _prepare_tensor(panel, *x), (w0_LxMxN, wide_L, keys_L))


def _prepare_tensor(panel: Panel, w0: jax.Array, wide: jax.Array, key: jax.Array) -> dict:
    codes = visibility.bf16_codes(w0)
    frame = spectra.frame(w0, panel.ks, panel.spectra) if panel.subspaces else None
    low, principal, ambiguous = reference_masks(panel, w0, frame, wide)
    everywhere = jnp.ones((1, *w0.shape), bool)
    masks = jnp.concatenate([everywhere, mask_stack(low, principal)])
    out = {
        "w0": w0,
        "codes": codes,
        "norm0": jnp.linalg.norm(w0),
        "low": low,
        "principal": principal,
        "ambiguous": ambiguous,
        "class_counts": jax.lax.map(lambda mask: visibility.class_counts(codes, mask), masks),
    }
    if panel.reads("top"):
        return out | _spectral_references(panel, frame, w0, wide, key)
    return out | _elementwise_nulls(panel, w0, key)


def _elementwise_nulls(panel: Panel, w0: jax.Array, key: jax.Array) -> dict:
    """The part of `_spectral_references` that needs no decomposition."""
    null_key = jax.random.fold_in(key, 0)
    noisy = nulls.rounded(w0, jax.random.fold_in(null_key, panel.null_draws))
    floor = jax.lax.map(lambda w: jnp.linalg.norm(w - w0) / jnp.linalg.norm(w0), noisy)
    return {"curves": {"relative_norm": nulls.relative_norms(panel, w0, null_key)}, "floor": {"relative_norm": floor}}


def _spectral_references(panel: Panel, frame: spectra.Frame, w0: jax.Array, wide: jax.Array, key: jax.Array) -> dict:
    exact = panel.spectra == "exact"
    null_key = jax.random.fold_in(key, 0)
    curves, floor = (nulls.isotropic if exact else nulls.first_order)(panel, frame, w0, null_key)
    noise_key = jax.random.fold_in(null_key, panel.null_draws)
    floor |= nulls.rounding_ranks(frame, w0, floor, panel.ks, panel.spectra, noise_key)
    return {
        "u": frame.u_MxR,
        "s": frame.s,
        "v": frame.v_NxR,
        "residual": frame.residual,
        "fell_back": frame.fell_back,
        "curves": swap_sides(wide, curves, {"mean_sin2": 3, "max_angle": 3}),  # [P, D, views, sides, K]
        "floor": swap_sides(wide, floor, {"mean_sin2": 1, "max_angle": 1}),
        "blind_key": jax.random.key_data(jax.random.fold_in(key, 1)),
    }


def reference_masks(panel: Panel, w0, frame: spectra.Frame | None, wide) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Bottom ceil(alpha N) of |w0|, bool[A, m, n]; top ceil(alpha N) of |rank-k w0|, bool[K, A, m, n]; and how many
    entries of the latter could lie on the other side, i32[K, A]."""
    scores = [jnp.abs(w0)]
    for k in panel.subspaces:
        u_k, v_k = frame.u_MxR[:, :k], frame.v_NxR[:, :k]
        scores.append(-jnp.abs(linalg.matmul(u_k * frame.s[None, : u_k.shape[1]], v_k.T)))
    order = jax.lax.map(lambda score: _ranks(score, wide), jnp.stack(scores))
    kept_A = jnp.asarray([_kept(alpha, w0.size) for alpha in panel.alphas], jnp.int32)
    masks = order[:, None] < kept_A[None, :, None, None]
    principal = masks[1:]
    if not panel.subspaces:
        return masks[0], principal, jnp.zeros((0, len(panel.alphas)), jnp.int32)
    score_K = -jnp.stack(scores[1:])[:, None]
    threshold = jnp.min(jnp.where(principal, score_K, jnp.inf), axis=(-2, -1), keepdims=True)
    near = jnp.abs(score_K - threshold) <= 4 * _score_error(panel, w0, frame).reshape(-1, 1, 1, 1)
    return masks[0], principal, jnp.sum(near, axis=(-2, -1), dtype=jnp.int32)


def _score_error(panel: Panel, w0: jax.Array, frame: spectra.Frame) -> jax.Array:
    """Root mean square over entries of the error of the rank-k reconstruction of w0: f32[K].

    ||error||_F <= r + 2 e s_k + 2 EPS ||w0||_F, r the residuals of k triplets and e the error of their subspaces. An
    entry within four of it of its mask's threshold is counted as ambiguous.
    """
    e_K = spectral_errors.subspaces(frame, panel.ks)
    at_K = np.minimum(panel.ks, frame.residual.shape[0]) - 1
    residual_K = jnp.sqrt(jnp.cumsum(frame.residual**2)[at_K])
    total_K = residual_K + 2 * e_K * frame.s[at_K] + 2 * linalg.EPS * jnp.linalg.norm(w0)
    return total_K / w0.size**0.5


def mask_stack(low: jax.Array, principal: jax.Array) -> jax.Array:
    """Masks in the order of `panel.masks_of`: bool[M, m, n]."""
    not_low = principal & ~low[None]
    flat = principal.shape[0] * low.shape[0], *low.shape[1:]
    return jnp.concatenate([low, principal.reshape(flat), not_low.reshape(flat)])


def _kept(alpha: float, n: int) -> int:
    return int(np.ceil(round(alpha * n, 6)))  # the rounding undoes 0.3 * 10 = 3.0000000000000004


def _ranks(score: jax.Array, wide: jax.Array) -> jax.Array:
    """Ascending rank of every entry; ties in row-major order of the matrix as it was before `_stack`."""
    m, n = score.shape
    flat = jnp.where(wide, score.T.ravel(), score.ravel())
    order = jnp.argsort(flat, stable=True)
    ranks = jnp.zeros(score.size, jnp.int32).at[order].set(jnp.arange(score.size, dtype=jnp.int32))
    return jnp.where(wide, ranks.reshape(n, m).T, ranks.reshape(m, n))


def wide_of(weights: Mapping[str, Any], names: Sequence[str]) -> np.ndarray:
    """bool[L]: which matrices of a group `stack` transposes."""
    return np.asarray([is_wide(np.shape(weights[name])) for name in names])


def stack(weights: Mapping[str, Any], names: Sequence[str]) -> jax.Array:
    """Matrices of one group, all tall: f32[L, M, N] with M >= N."""
    arrays = [jnp.asarray(weights[name]) for name in names]
    return jnp.stack([w.T if is_wide(w.shape) else w for w in arrays])


def swap_sides(wide: jax.Array, x: dict, axes: Mapping[str, int]) -> dict:
    """Undo the transposition: exchange left and right of statistics that have sides, where `wide`.

    `axes` gives the axis of (..., left, right); whatever precedes the two sides stays. `wide` broadcasts over axis 0.
    """

    def swap(name, leaf):
        order = {"captured": [0, 2, 1], "blind_energy": [0, 2, 1, 3]}.get(name.removesuffix("_error").removesuffix("_variance"),
                                                                          [1, 0])  # both, left, right, doubly off
        flipped = jnp.take(leaf, np.asarray(order), axis=axes[name])
        return jnp.where(jnp.reshape(wide, jnp.shape(wide) + (1,) * (leaf.ndim - jnp.ndim(wide))), flipped, leaf)

    return {name: swap(name, leaf) if name in axes else leaf for name, leaf in x.items()}
