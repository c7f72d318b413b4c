"""Measuring an update W1 - W0 with the weight panel: every statistic of every matrix, with its numerical error.

Matrices of one shape are stacked and mapped with `lax.map`: one program a shape, and a matrix reads the same bits alone
(offline, streamed) as among its equals (sidecar).

Legend: M masks, C visibility classes, K subspace dimensions; the view axis is `panel.VIEWS`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import linalg
from jaxpost.probes.rows.inventory import shape_groups
from jaxpost.probes.weights import blind, blind_moments, by_matrix, spectra, spectral_errors, visibility
from jaxpost.probes.weights.panel import LEVELS, PREDICTIONS, Panel
from jaxpost.probes.weights.references import mask_stack, stack, swap_sides, wide_of

SIDED = ("mean_sin2", "max_angle", "captured", "mean_sin2_error", "max_angle_error", "captured_error", "blind_energy",
         "blind_energy_variance")


def measure(panel: Panel, refs: Mapping[str, Any], weights1: Mapping[str, jax.Array]) -> dict:
    """Every per-matrix statistic of the update W1 - W0. Jit-pure with fixed shapes; may run under `lax.map` over seeds.

    Args:
      panel: the panel of `prepare`, its `primary()`, or either at a cheaper level.
      refs: from `prepare`, for the same tensors.
      weights1: name -> f32[m, n], the masters.
    Returns: statistic -> array with leading axis T over all sorted names; i32 counts, f32 the rest. Axes over
      `panel.VIEWS`, ks, tolerances and masks follow in that order of the panel. "<statistic>_error" bounds the numerical
      error. "spectra" (level "exact") is name -> f32[views, min(m, n)], the singular values of the update.
    Raises: ValueError when the shapes of weights1 are not those of refs, or refs of a cheaper level than the panel's.
    """
    groups = shape_groups({name: w.shape for name, w in weights1.items()})
    counts = {group: len(names) for group, names in groups.items()}
    expected = {group: ref["w0"].shape[0] for group, ref in refs.items()}
    if counts != expected:
        raise ValueError(f"weights do not match the references: shapes and counts {counts}, expected {expected}")
    _check_level(panel, refs)
    parts = [
        jax.lax.map(lambda x: _measure_tensor(panel, *x), (refs[group], stack(weights1, names)))
        for group, names in groups.items()
    ]
    grouped = [name for names in groups.values() for name in names]
    order = np.argsort(np.asarray(grouped))
    stacks = [part.pop("spectrum", None) for part in parts]
    kept = {name: x[i] for x, names in zip(stacks, groups.values(), strict=True) if x is not None
            for i, name in enumerate(names)}
    flat = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[order], *parts)
    values = flat.pop("values") | jax.lax.map(functools.partial(expected_counts, panel), flat)
    values = swap_sides(wide_of(weights1, sorted(weights1)), values, dict.fromkeys(SIDED, 2))  # [T, views, sides, K]
    return values | ({"spectra": kept} if kept else {})


def _check_level(panel: Panel, refs: Mapping[str, Any]) -> None:
    ref = next(iter(refs.values()))
    if "u" in ref:
        level = "exact" if "spectral_shift" in ref["curves"] else "top"
    else:
        level = "masks" if ref["principal"].shape[1] else "none"
    if LEVELS.index(level) < LEVELS.index(panel.spectra):
        raise ValueError(f"a panel of level {panel.spectra!r} cannot read references of level {level!r}: prepare anew")


def _measure_tensor(panel: Panel, ref: Mapping[str, Any], w1: jax.Array) -> dict:
    """Everything that depends on the shape; the closed-form nulls follow from `histogram` and `class_counts`."""
    codes1 = visibility.bf16_codes(w1)
    finite = jnp.isfinite(w1).all()
    values = _counts(panel, ref, w1, codes1)
    views = jnp.where(finite, jnp.stack([w1, visibility.bf16_values(codes1)]), ref["w0"][None])  # LAPACK: finite only
    q2_bf16 = visibility.rounding_variance(ref["codes"], codes1)
    stored_bf16 = by_matrix.bf16_master(w1)
    q_rms = jnp.sqrt(q2_bf16) * jnp.stack([jnp.where(stored_bf16, 1.0, 2.0**-16), 1.0])  # a float32 ULP is 2^-16 of bf16's
    edge = linalg.rounding_edge(q_rms, *w1.shape)
    reals = jax.lax.map(lambda x: _view(panel, ref, *x), (views, edge))
    spectrum = {name: reals.pop(name) for name in ("spectrum",) if name in reals}
    reals |= {"rounding_energy": q_rms**2 * w1.size}
    dw, visible = views - ref["w0"][None]
    update = blind.describe(dw, visible, ref["class_counts"][0], stored_bf16)
    reals |= {"update_size": jnp.mean(jnp.abs(dw)), "blind_square": blind.visible_square(update, ref["class_counts"][0])}
    reals |= within_relative(panel, ref["w0"], update.sizes_L)
    if panel.reads("top"):
        mean, variance = blind.energies(update, ref, panel.ks)
        reals |= {"blind_energy": mean, "blind_energy_variance": variance}
    if panel.reads("top") and panel.rank_draws:
        reals |= blind.ranks(panel, update, ref, dw, edge)
    values |= {name: jnp.where(finite, x, jnp.nan) for name, x in reals.items()}
    return {
        "values": values,
        "histogram": visibility.update_histogram(dw),
        "class_counts": _panel_class_counts(panel, ref),
        "sigma": update.sigma,
        "visible_size": update.visible_size,
        "density": 1 - values["same_bf16"] / w1.size,
    } | {name: jnp.where(finite, x, jnp.nan) for name, x in spectrum.items()}


def _counts(panel: Panel, ref, w1, codes1) -> dict[str, jax.Array]:
    """Entries that are equal, within tolerance, visible inside each mask, not finite, off the bf16 grid: i32."""
    w0, bits1 = ref["w0"], visibility.fp32_codes(w1)
    size = jnp.abs(w1 - w0)
    scale = jnp.maximum(jnp.abs(w0), jnp.abs(w1))
    visible = ~visibility.same_value(ref["codes"], codes1)
    n_k, n_alpha = len(panel.subspaces), len(panel.alphas)
    masks = mask_stack(ref["low"][:n_alpha], ref["principal"][:n_k, :n_alpha])

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


def within_relative(panel: Panel, w0: jax.Array, sizes_L: jax.Array) -> dict[str, jax.Array]:
    """Expected number of entries with |d| <= eta max(|w0|, |w0 + d|) for d of each law, and its variance: f32[LAWS, etas].

    In closed form given |w0|: with t = eta |w0|, P = 1 - S(t) - S(t / (1 - eta)), S the survival of one side.
    """
    eta = jnp.asarray(panel.rel_etas, jnp.float32)[:, None, None]

    def of_law(law, sigma):
        inward = eta * jnp.abs(w0)[None] / jnp.maximum(sigma, 1e-30)
        outward = inward / (1 - eta)  # |d| <= eta (|w0| + |d|)
        p = jnp.clip(1.0 - visibility.law_survival(law, inward) - visibility.law_survival(law, outward), 0.0, 1.0)
        p = jnp.where(sigma > 0, p, 1.0)
        return jnp.sum(p, axis=(1, 2)), jnp.sum(p * (1 - p), axis=(1, 2))

    laws = [of_law(law, sizes_L[i]) for i, law in enumerate(visibility.LAWS)]
    return {"rel_blind": jnp.stack([mean for mean, _ in laws]), "rel_blind_variance": jnp.stack([v for _, v in laws])}


def _view(panel: Panel, ref, w: jax.Array, edge: jax.Array) -> dict[str, jax.Array]:
    """Statistics of one view of W1 (master or bf16-visible) against W0, with their errors."""
    dw = w - ref["w0"]
    out = {"update_norm": jnp.linalg.norm(dw), "edge": edge}
    if not panel.reads("top"):
        return out
    ks, q = panel.ks, min(w.shape)
    before = spectra.Frame(ref["u"], ref["s"], ref["v"], ref["residual"], ref["fell_back"])
    after = spectra.frame(w, ks, panel.spectra)
    turned = spectra.rotation(before, after, ks)
    captured = spectra.captured_energy(ref["u"], ref["v"], dw, ks)
    error_K = spectral_errors.subspaces(before, ks)
    out |= turned | spectral_errors.rotation(turned, error_K, spectral_errors.subspaces(after, ks), ks)
    out |= {"captured": captured, "captured_error": spectral_errors.captured(captured, error_K)}
    out |= {"fell_back": after.fell_back.astype(jnp.int32)}
    update = _update_spectrum(panel, dw, out["update_norm"], edge)
    norm2, norm2_error = update.pop("norm2"), update.pop("norm2_error")
    bound = spectra.wedin_bounds(norm2, before.s, after.s, ks, q)
    s_error = spectral_errors.value_error(before) + spectral_errors.value_error(after)
    out |= {"wedin_bound": bound,
            "wedin_bound_error": spectral_errors.wedin(bound, norm2, norm2_error, s_error, before.s, after.s, ks, q)}
    if panel.reads("exact"):
        out |= {"spectral_shift": spectra.spectral_shift(before.s, after.s),
                "spectral_shift_error": spectral_errors.shift(before.s, after.s)}
    return out | update


def _update_spectrum(panel: Panel, dw: jax.Array, norm: jax.Array, edge: jax.Array) -> dict[str, jax.Array]:
    """Ranks of dW by the algorithm of the panel's level, and ||dW||_2 with its error."""
    hill_k = panel.ks[0]
    if not panel.reads("exact"):
        s_K, error_K = linalg.leading_values(dw, min(hill_k, min(dw.shape)), jax.random.key(spectra.SKETCH))
        ranks = spectra.leading_ranks(norm, s_K, hill_k)
        return {"ranks": ranks, "ranks_error": spectral_errors.leading_ranks(ranks, s_K, error_K, hill_k),
                "norm2": s_K[0], "norm2_error": error_K[0]}
    s_Q = linalg.singular_values(dw)
    ranks = spectra.ranks(s_Q, hill_k)
    return {"ranks": ranks, "ranks_error": spectral_errors.ranks(ranks, s_Q, hill_k),
            "above_edge": linalg.count_above(s_Q, edge), "above_edge_error": spectral_errors.count_above(s_Q, edge),
            "spectrum": s_Q, "norm2": s_Q[0], "norm2_error": linalg.ALONE * linalg.VALUE_ERROR * s_Q[0]}


def expected_counts(panel: Panel, tensor: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Expected visible counts of blind updates, everywhere and in each mask, and their variances (independent entries).

    One program for every shape: it sees classes, not entries. Returns f32[PREDICTIONS, 1 + M] each, and of calibrated
    updates rounded to bf16 the expected counts within each tolerance, "rounded_within" f32[LAWS, tolerances], and variances.
    """
    counts_CxM = tensor["class_counts"].astype(jnp.float32).T
    n, once = jnp.sum(counts_CxM[:, 0]), tensor["class_counts"][0]
    tables = {
        "permuted": visibility.visibility_empirical(tensor["histogram"], n),
        "permuted_fp32": visibility.visibility_empirical(tensor["histogram"], n, "fp32"),
        "gaussian": visibility.visibility_law("gaussian", tensor["sigma"]),
    }
    fitted = visibility.calibrate(once, tensor["density"])
    sized_LxC, sized_variance_L = blind_moments.density_at_size(once, blind_moments.calibrate(once, tensor["visible_size"]))
    for i, law in enumerate(visibility.LAWS):
        tables[f"calibrated_{law}"] = visibility.visibility_law(law, fitted[i])
        tables[f"sized_{law}"] = sized_LxC[i]
    matched = blind_moments.calibrate_norm(once, tensor["sigma"] ** 2)
    tables["rounded_gaussian"] = visibility.visibility_law("gaussian", matched)
    moved = tensor["sigma"] > 0  # without an update nothing is visible, not even of weights that are zero
    p_PxC = jnp.where(moved, jnp.stack([tables[name] for name in PREDICTIONS]), 0.0)
    variance = linalg.matmul(p_PxC * (1 - p_PxC), counts_CxM)
    place = np.asarray([PREDICTIONS.index(f"sized_{law}") for law in visibility.LAWS])
    variance = variance.at[place, 0].set(jnp.where(moved, sized_variance_L, 0.0))
    within = jnp.stack([visibility.rounded_within(law, fitted[i], panel.abs_tols) for i, law in enumerate(visibility.LAWS)])
    within = jnp.where(moved, within, 1.0)
    return {
        "rounded_within": linalg.matmul(within, counts_CxM[:, 0]),
        "rounded_within_variance": linalg.matmul(within * (1 - within), counts_CxM[:, 0]),
        "visible_mean": linalg.matmul(p_PxC, counts_CxM),
        "visible_variance": variance,
    }


def _panel_class_counts(panel: Panel, ref) -> jax.Array:
    """Class counts for everything and for this panel's masks, out of those of the full panel: i32[1 + M, C]."""
    n_alpha, n_k = ref["low"].shape[0], ref["principal"].shape[0]
    a, k = len(panel.alphas), len(panel.subspaces)
    everywhere, low, subspaces = jnp.split(ref["class_counts"], [1, 1 + n_alpha])
    subspaces = subspaces.reshape(2, n_k, n_alpha, visibility.CLASSES)[:, :k, :a].reshape(2 * k * a, visibility.CLASSES)
    return jnp.concatenate([everywhere, low[:a], subspaces])
