"""Geometry of a weight update: sparsity, spectrum, rotation, overlap with masks, energy and rank, each with its null.

    refs = prepare(panel, weights0, key)        once a base: decompositions, masks, null curves, rounding floors
    vals = measure(panel, refs, weights1)       jit-pure, for float32 masters and what bf16 sees of them
    rows = finalize(panel, infos, refs, vals_S, arm=..., step=..., seeds=..., conditional_on=..., row_ids=...)
    rows = finalize_jaccard(infos, jaccard(weights0, weights1_S), arm=..., step=..., conditional_on=..., row_ids=...)

Matrices of one shape are stacked and mapped with `lax.map`: one program a shape, and a matrix reads the same bits alone
(offline, streamed) as among its equals (sidecar).

Legend: M masks, C visibility classes, L tensors of one shape, S seeds; the view axis is `panel.VIEWS`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import linalg
from jaxpost.probes import base, nulls, schedules, spectra, visibility
from jaxpost.probes.cross_seed import finalize_jaccard, jaccard
from jaxpost.probes.panel import PREDICTIONS, Panel, TensorInfo, is_wide, shape_groups
from jaxpost.probes.weight_rows import finalize

__all__ = [
    "Panel", "TensorInfo", "WeightGeometry", "finalize", "finalize_jaccard", "jaccard", "measure", "prepare",
]


def prepare(panel: Panel, weights0: Mapping[str, Any], key: jax.Array) -> dict:
    """References of a base: everything about W0 and its nulls that no update changes.

    Args:
      weights0: name -> f32[m, n], finite and on the bf16 grid (a base is rounded once); concrete arrays.
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
        refs[group] = _prepare_group(panel, _stack(weights0, names), _wide(weights0, names), keys)
    return refs


def _wide(weights: Mapping[str, Any], names: Sequence[str]) -> np.ndarray:
    return np.asarray([is_wide(np.shape(weights[name])) for name in names])


def _stack(weights: Mapping[str, Any], names: Sequence[str]) -> jax.Array:
    """Matrices of one group, all tall: f32[L, M, N] with M >= N."""
    arrays = [jnp.asarray(weights[name]) for name in names]
    return jnp.stack([w.T if is_wide(w.shape) else w for w in arrays])


def _swap_sides(wide: jax.Array, x: dict, axes: Mapping[str, int]) -> dict:
    """Undo the transposition: exchange left and right of statistics that have sides, where `wide`.

    `axes` gives the axis of (..., left, right); whatever precedes the two sides stays. `wide` broadcasts over axis 0.
    """

    def swap(name, leaf):
        order = {"captured": [0, 2, 1]}.get(name, [1, 0])  # both, left, right
        flipped = jnp.take(leaf, np.asarray(order), axis=axes[name])
        return jnp.where(jnp.reshape(wide, jnp.shape(wide) + (1,) * (leaf.ndim - jnp.ndim(wide))), flipped, leaf)

    return {name: swap(name, leaf) if name in axes else leaf for name, leaf in x.items()}


def _check_base(name: str, w: jax.Array) -> None:
    if w.dtype != jnp.float32:
        raise ValueError(f"base tensor {name!r} is {w.dtype}; expected float32 holding bf16 values (upcast first)")
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
    u, s, v = linalg.svd(w0)
    kept = min(max(panel.ks), min(w0.shape))
    u, v = u[:, :kept], v[:, :kept]
    low, principal = _reference_masks(panel, w0, u, s, v, wide)
    everywhere = jnp.ones((1, *w0.shape), bool)
    masks = jnp.concatenate([everywhere, _mask_stack(low, principal)])
    curves, floor = nulls.isotropic(panel, u, s, v, w0, jax.random.fold_in(key, 0))
    return {
        "w0": w0,
        "codes": codes,
        "u": u,
        "s": s,
        "v": v,
        "low": low,
        "principal": principal,
        "class_counts": jax.lax.map(lambda mask: visibility.class_counts(codes, mask), masks),
        "curves": _swap_sides(wide, curves, {"mean_sin2": 3, "max_angle": 3}),  # [P, D, views, sides, K]
        "floor": _swap_sides(wide, floor, {"mean_sin2": 1, "max_angle": 1}),
        "gaussian": nulls.gaussian_ranks(w0.shape, panel.ks[0], panel.null_draws, jax.random.fold_in(key, 1)),
    }


def _reference_masks(panel: Panel, w0, u, s, v, wide) -> tuple[jax.Array, jax.Array]:
    """Bottom ceil(alpha N) of |w0|, bool[A, m, n]; top ceil(alpha N) of |rank-k w0|, bool[K, A, m, n]."""
    scores = [jnp.abs(w0)]
    for k in panel.ks:
        u_k, v_k = u[:, :k], v[:, :k]
        scores.append(-jnp.abs(linalg.matmul(u_k * s[None, : u_k.shape[1]], v_k.T)))
    order = jax.lax.map(lambda score: _ranks(score, wide), jnp.stack(scores))
    kept_A = jnp.asarray([_kept(alpha, w0.size) for alpha in panel.alphas], jnp.int32)
    masks = order[:, None] < kept_A[None, :, None, None]
    return masks[0], masks[1:]


def _mask_stack(low: jax.Array, principal: jax.Array) -> jax.Array:
    """Masks in the order of `panel.masks_of`: bool[M, m, n]."""
    not_low = principal & ~low[None]
    return jnp.concatenate([low, principal.reshape(-1, *low.shape[1:]), not_low.reshape(-1, *low.shape[1:])])


def _kept(alpha: float, n: int) -> int:
    return int(np.ceil(round(alpha * n, 6)))  # the rounding undoes 0.3 * 10 = 3.0000000000000004


def _ranks(score: jax.Array, wide: jax.Array) -> jax.Array:
    """Ascending rank of every entry; ties in row-major order of the matrix as it was before `_stack`."""
    m, n = score.shape
    flat = jnp.where(wide, score.T.ravel(), score.ravel())
    order = jnp.argsort(flat, stable=True)
    ranks = jnp.zeros(score.size, jnp.int32).at[order].set(jnp.arange(score.size, dtype=jnp.int32))
    return jnp.where(wide, ranks.reshape(n, m).T, ranks.reshape(m, n))


def measure(panel: Panel, refs: Mapping[str, Any], weights1: Mapping[str, jax.Array]) -> dict:
    """Every per-matrix statistic of the update W1 - W0. Jit-pure with fixed shapes; may run under `lax.map` over seeds.

    Args:
      panel: the panel of `prepare`, or its `primary()`.
      refs: from `prepare`, for the same tensors.
      weights1: name -> f32[m, n], the masters.
    Returns: statistic -> array with leading axis T over all sorted names; i32 counts, f32 the rest. Axes over
      `panel.VIEWS`, ks, tolerances and masks follow in that order of the panel.
    Raises: ValueError when the shapes of weights1 are not those of refs.
    """
    groups = shape_groups({name: w.shape for name, w in weights1.items()})
    found = {group: len(names) for group, names in groups.items()}
    expected = {group: ref["w0"].shape[0] for group, ref in refs.items()}
    if found != expected:
        raise ValueError(f"weights do not match the references: shapes and counts {found}, expected {expected}")
    parts = [
        jax.lax.map(lambda x: _measure_tensor(panel, *x), (refs[group], _stack(weights1, names)))
        for group, names in groups.items()
    ]
    grouped = [name for names in groups.values() for name in names]
    order = np.argsort(np.asarray(grouped))
    flat = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[order], *parts)
    values = flat.pop("values") | jax.lax.map(_expected, flat)
    axes = {"mean_sin2": 2, "max_angle": 2, "captured": 2}  # [T, views, sides or regions, K]
    return _swap_sides(_wide(weights1, sorted(weights1)), values, axes)


def _measure_tensor(panel: Panel, ref: Mapping[str, Any], w1: jax.Array) -> dict:
    """Everything that depends on the shape; the closed-form nulls follow from `histogram` and `class_counts`."""
    codes1 = visibility.bf16_codes(w1)
    finite = jnp.isfinite(w1).all()
    values = _counts(panel, ref, w1, codes1)
    views = jnp.where(finite, jnp.stack([w1, visibility.bf16_values(codes1)]), ref["w0"][None])  # LAPACK: finite only
    q2_bf16 = jnp.mean((visibility.ulp(ref["codes"]) ** 2 + visibility.ulp(codes1) ** 2) / 2) / 12
    q_rms = jnp.sqrt(q2_bf16) * jnp.asarray([2.0**-16, 1.0], jnp.float32)  # float32 ULPs are 2^-16 of bf16's
    reals = jax.lax.map(lambda x: _view(panel, ref, *x), (views, linalg.rounding_edge(q_rms, *w1.shape)))
    reals |= {"rounding_energy": q_rms**2 * w1.size}
    dw = w1 - ref["w0"]
    sigma = jnp.maximum(jnp.sqrt(jnp.mean(dw**2)), 1e-30)
    reals |= {"rel_gaussian": _within_relative(panel, ref["w0"], sigma)}
    values |= {name: jnp.where(finite, x, jnp.nan) for name, x in reals.items()}
    return {
        "values": values,
        "histogram": visibility.update_histogram(dw),
        "class_counts": _panel_class_counts(panel, ref),
        "sigma": sigma,
        "density": 1 - values["same_bf16"] / w1.size,
    }


def _counts(panel: Panel, ref, w1, codes1) -> dict[str, jax.Array]:
    """Entries that are equal, within tolerance, visible inside each mask, not finite, off the bf16 grid: i32."""
    w0, bits1 = ref["w0"], visibility.fp32_codes(w1)
    size = jnp.abs(w1 - w0)
    scale = jnp.maximum(jnp.abs(w0), jnp.abs(w1))
    visible = ~visibility.same_value(ref["codes"], codes1)
    n_k, n_alpha = len(panel.ks), len(panel.alphas)
    masks = _mask_stack(ref["low"][:n_alpha], ref["principal"][:n_k, :n_alpha])

    def count(mask):
        return jnp.sum(mask, axis=(-2, -1), dtype=jnp.int32)

    tolerances = jnp.asarray(panel.abs_tols, jnp.float32)[:, None, None]
    etas = jnp.asarray(panel.rel_etas, jnp.float32)[:, None, None]
    return {
        "n_nonfinite": count(~jnp.isfinite(w1)),
        "n_off_grid": count(bits1 & 0xFFFF != 0),
        "same_bf16": count(~visible),
        "same_fp32": count(visibility.same_value(visibility.fp32_codes(w0), bits1)),
        "same_abs": count(size[None] <= tolerances),
        "same_rel": count(size[None] <= etas * scale[None]),
        "overlap": count(visible[None] & masks),
        "mask_size": count(masks),
    }


def _within_relative(panel: Panel, w0: jax.Array, sigma: jax.Array) -> jax.Array:
    """Expected number of entries with |d| <= eta max(|w0|, |w0 + d|) for Gaussian d, in closed form: f32[etas]."""
    eta = jnp.asarray(panel.rel_etas, jnp.float32)[:, None, None]
    inward = eta * jnp.abs(w0)[None] / sigma
    outward = inward / (1 - eta)  # |d| <= eta (|w0| + |d|)
    within = 1.0 - visibility.law_survival("gaussian", inward) - visibility.law_survival("gaussian", outward)
    return jnp.sum(within, axis=(1, 2))


def _view(panel: Panel, ref, w: jax.Array, edge: jax.Array) -> dict[str, jax.Array]:
    """Spectral statistics of one view of W1 (master or bf16-visible) against W0."""
    dw = w - ref["w0"]
    out, s1 = spectra.rotation(ref["u"], ref["s"], ref["v"], w, panel.ks)
    s_dw = linalg.singular_values(dw)
    return out | {
        "update_norm": jnp.linalg.norm(dw),
        "captured": spectra.captured_energy(ref["u"], ref["v"], dw, panel.ks),
        "wedin_bound": spectra.wedin_bounds(s_dw, ref["s"], s1, panel.ks),
        "ranks": spectra.ranks(s_dw, panel.ks[0]),
        "above_edge": linalg.count_above(s_dw, edge),
        "edge": edge,
    }


def _expected(tensor: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Expected visible counts of blind updates, everywhere and in each mask, and their variances (independent entries).

    One program for every shape: it sees classes, not entries. Returns f32[PREDICTIONS, 1 + M] each.
    """
    counts_CxM = tensor["class_counts"].astype(jnp.float32).T
    n = jnp.sum(counts_CxM[:, 0])
    tables = {
        "permuted": visibility.visibility_empirical(tensor["histogram"], n),
        "permuted_fp32": visibility.visibility_empirical(tensor["histogram"], n, "fp32"),
        "gaussian_fp32": visibility.visibility_law("gaussian", tensor["sigma"], "fp32"),
    }
    fitted = visibility.calibrate(tensor["class_counts"][0], tensor["density"])
    for i, law in enumerate(visibility.LAWS):
        tables[law] = visibility.visibility_law(law, tensor["sigma"])
        tables[f"calibrated_{law}"] = visibility.visibility_law(law, fitted[i])
    p_PxC = jnp.stack([tables[name] for name in PREDICTIONS])
    return {
        "visible_mean": linalg.matmul(p_PxC, counts_CxM),
        "visible_variance": linalg.matmul(p_PxC * (1 - p_PxC), counts_CxM),
    }


def _panel_class_counts(panel: Panel, ref) -> jax.Array:
    """Class counts for everything and for this panel's masks, out of those of the full panel: i32[1 + M, C]."""
    n_alpha, n_k = ref["low"].shape[0], ref["principal"].shape[0]
    a, k = len(panel.alphas), len(panel.ks)
    everywhere, low, subspaces = jnp.split(ref["class_counts"], [1, 1 + n_alpha])
    subspaces = subspaces.reshape(2, n_k, n_alpha, -1)[:, :k, :a].reshape(2 * k * a, -1)
    return jnp.concatenate([everywhere, low[:a], subspaces])


@dataclass(frozen=True)
class WeightGeometry:
    """The weight panel as a probe: state is the references, values are those of `measure`.

    Unmodified in the sidecar lane (all matrices of a run) and offline (streamed, one matrix or shard at a time).
    """

    panel: Panel = Panel()
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "weight"
    version: str = "1"
    definition: str = "arXiv:2511.08567 sections 2 and 4, with the nulls of jaxpost.probes.nulls and .visibility"
    needs: frozenset[base.Need] = frozenset({base.WEIGHTS0, base.WEIGHTS})

    def __post_init__(self):
        if self.lane not in ("sidecar", "offline"):
            raise ValueError(f"WeightGeometry runs in lane sidecar or offline; found {self.lane!r}")

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """References of ctx[base.WEIGHTS0]; see `prepare`."""
        return prepare(self.panel, ctx[base.WEIGHTS0], key)

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values) of ctx[base.WEIGHTS]; deterministic, so `key` is not read."""
        return state, measure(self.panel, state, ctx[base.WEIGHTS])

    def finalize(self, values: dict, state: dict, **meta: Any) -> dict[str, Any]:
        """Rows; see `weight_rows.finalize` for the fields of `meta` (values with a leading axis over seeds)."""
        return finalize(self.panel, refs=state, vals=values, **meta)
