"""Spectra and subspaces of one matrix of two checkpoints from float64 Gram matrices: the spectral rows at the price of GEMM.

`WeightGeometry` certifies its subspaces by block Krylov iteration, falls back to the dense SVD where spectra are flat (most
pretrained matrices at k = 64), and draws its nulls with a decomposition each: minutes a matrix on two cores; here
(`compare.gram`) it is seconds. Values are those of `weight_measurement.measure` (agreement: tests), each with its error.

Nulls of the rotation come from first-order perturbation theory, drawn in the base's own spectrum:
  du_i . u_j = (s_i e_ji + s_j e_ij) / (s_i^2 - s_j^2), dv_i . v_j = (s_i e_ij + s_j e_ji) / (s_i^2 - s_j^2), e = U'EV Gaussian,
and (m - q) further directions e / s_i on the longer side. Level "exact" draws updates of the same norm and decomposes them.
Ranks of Gaussian matrices are those of their bidiagonal form (`probes.gaussian_spectra`).

Legend: M rows >= N columns (wide matrices transposed, sides swapped back), K dimensions `ks`, R leading vectors, D draws.
"""

from __future__ import annotations

import functools
import zlib
from typing import Any, NamedTuple

import numpy as np
import scipy.special

from jaxpost.compare import matrices
from jaxpost.compare.gram import (
    Frame,
    angles,
    frame,
    gram,
    left,
    right,
    rotation,
    rows_of,
    subspace_error,
    value_errors,
    values_of,
)
from jaxpost.probes import gaussian_spectra
from jaxpost.probes.panel import VIEWS, Panel

LINEAR = 0.05  # mean sin^2 above which first order says nothing


def captured(before: Frame, dw: Any, norm: float, ks: tuple[int, ...], q: int) -> dict[str, np.ndarray]:
    """Shares of ||dW||^2 in the base's top-k block (both, left, right) with errors: [3, K]."""
    on_left, on_right = left(dw, before.u_MxR).T, right(dw, before.v_NxR)
    both = on_left @ before.v_NxR
    out = {"captured": np.full((3, len(ks)), np.nan), "captured_error": np.full((3, len(ks)), np.nan)}
    for i, k in enumerate(ks):
        if k > q - 1 or not norm:
            continue
        share = np.asarray([np.sum(both[:k, :k] ** 2), np.sum(on_left[:k] ** 2), np.sum(on_right[:, :k] ** 2)]) / norm**2
        e = subspace_error(before, k) * np.asarray([2, 1, 1])
        out["captured"][:, i] = share
        out["captured_error"][:, i] = np.minimum(2 * e * np.sqrt(np.clip(share * (1 - share), 0, 1)) + e**2, 1.0) + 1e-13
    return out


def ranks(s: np.ndarray, norm: float, hill_k: int, exact: bool) -> np.ndarray:
    """Ranks in the order of `spectra.RANKS` (exact) or `LEADING_RANKS`; NaN for a zero matrix."""
    with np.errstate(divide="ignore", invalid="ignore"):
        hill = (hill_k - 1) / np.sum(np.log(s[:hill_k - 1] / s[hill_k - 1])) if hill_k <= len(s) else np.nan
        stable = (norm / s[0]) ** 2
        if not exact:
            return np.asarray([stable, hill])
        energy = np.cumsum((s / s[0]) ** 2)
        rank = [np.nan if np.isnan(energy[-1]) else min(1 + np.sum(energy < share * energy[-1]), len(s))
                for share in (0.9, 0.99)]
        return np.asarray([stable, *rank, _exp_entropy(s**2), _exp_entropy(s), hill])


def _exp_entropy(weight: np.ndarray) -> float:
    p = weight / weight.sum()
    return float(np.exp(-np.sum(scipy.special.xlogy(p, p))))


@functools.lru_cache(maxsize=64)
def gaussian(shape: tuple[int, int], draws: int) -> np.ndarray:
    """Singular values of Gaussian matrices of a shape at Frobenius norm 1, the same for every matrix of it: f64[D, q]."""
    return gaussian_spectra.draw(shape, draws, np.random.default_rng([max(shape), min(shape), draws]))


def first_order(s: np.ndarray, shape: tuple[int, int], ks: tuple[int, ...], draws: int, rng) -> dict[str, np.ndarray]:
    """Rotation by isotropic updates of Frobenius norm 1, to first order: mean_sin2, max_angle f64[D, 2 sides, K]."""
    (m, n), out = shape, {name: np.full((draws, 2, len(ks)), np.nan) for name in ("mean_sin2", "max_angle")}
    entry = 1 / np.sqrt(m * n)
    for i, k in enumerate(ks):
        if k > n - 1 or not s[k - 1] > s[k]:
            continue
        top, rest = s[:k, None], s[None, k:n]
        denominator = top**2 - rest**2
        for d in range(draws):
            a, b = rng.standard_normal((2, k, n - k)) * entry
            tangents = [(top * b + rest * a) / denominator, (top * a + rest * b) / denominator]
            for side, x in enumerate(tangents):
                second = x @ x.T
                if side == 0 and m > n:
                    second = second + _wishart(k, m - n, rng) * entry**2 / (top * top.T)
                out["mean_sin2"][d, side, i] = np.trace(second) / k
                out["max_angle"][d, side, i] = np.sqrt(np.linalg.eigvalsh(second)[-1])
    return out


def _wishart(k: int, degrees: int, rng) -> np.ndarray:
    """G G' of a k x degrees Gaussian G, by Bartlett's decomposition where it is cheaper."""
    if degrees <= k:
        g = rng.standard_normal((k, degrees))
        return g @ g.T
    lower = np.tril(rng.standard_normal((k, k)), -1) + np.diag(np.sqrt(rng.chisquare(degrees - np.arange(k))))
    return lower @ lower.T


class Measured(NamedTuple):
    """What one matrix adds to element-wise values and references; the frame of the base (tall); arrays worth keeping:
    singular values of base, tuned and update, the rounding edge, all angles at the primary k [2 sides, k]."""

    values: dict
    references: dict
    frame: Frame
    arrays: dict


def measure(panel: Panel, name: str, w0_MxN: Any, w1_MxN: Any, swap: bool, refs: dict, q_rms: np.ndarray) -> Measured:
    """Spectral values and references of one matrix.

    Args:
      w0_MxN, w1_MxN: tall, finite, by rows (`matrices`); w0 on the bf16 grid. swap: ours is the transpose.
      refs: element-wise references (norm0, relative norms of the null and the floor); q_rms: rounding of an entry, [views].
    """
    m, n = w0_MxN.shape
    kept, exact = min(max(panel.ks), n - 1), panel.reads("exact")
    rng = np.random.default_rng(zlib.crc32(name.encode()) + 1)
    before = frame(w0_MxN, kept)
    ends = [w1_MxN] if matrices.on_grid(w1_MxN) else [w1_MxN, matrices.rounded(w1_MxN)]
    read = [_view(panel, before, w0_MxN, w, exact) for w in ends]
    read = read * (len(VIEWS) // len(read))
    arrays = {key: read[0][key] for key in ("spectrum", "tuned", "angles")} | {"base": before.s_Q}
    spectrum, norm = [view["spectrum"] for view in read], float(read[0]["norm"])
    vals = {key: np.stack([view[key] for view in read]) for key in read[0] if key not in (*arrays, "norm")}
    vals["edge"] = edge = q_rms * (np.sqrt(m) + np.sqrt(n))
    if exact:
        above = [[np.sum(s + sign * value_errors(s) > e) for sign in (-1, 0, 1)] for s, e in zip(spectrum, edge)]
        low, at, high = np.asarray(above).T
        vals |= {"above_edge": at, "above_edge_error": np.maximum(high - at, at - low)}
    found = _references(panel, before, w0_MxN, norm, refs, q_rms, exact, rng)
    if swap:
        vals = _swapped(vals, 1)
        found["curves"], found["floor"] = _swapped(found["curves"], 3), _swapped(found["floor"], 1)
        arrays["angles"] = arrays["angles"][::-1]
    return Measured(vals, found, before, arrays | {"edge": edge})


def _swapped(x: dict, axis: int) -> dict:
    sided = {"mean_sin2": [1, 0], "max_angle": [1, 0], "captured": [0, 2, 1]}
    return {key: np.take(v, sided[key.removesuffix("_error")], axis=axis) if key.removesuffix("_error") in sided else v
            for key, v in x.items()}


def _view(panel: Panel, before: Frame, w0, w1, exact: bool) -> dict[str, np.ndarray]:
    """Values of one view, without the edge."""
    ks, q = panel.ks, w0.shape[1]
    dw = matrices.difference(w1, w0)
    norm = float(np.sqrt(sum(np.vdot(block, block) for block in rows_of(dw))))
    after = frame(w1, min(max(ks), q - 1))
    out = rotation(before, after, ks, q) | captured(before, dw, norm, ks, q)
    hill_k, k = ks[0], min(ks[0], q - 1)
    s = values_of(gram(dw))
    off = value_errors(s)
    here = ranks(s, norm, hill_k, exact)
    moved = [ranks(np.maximum(s + sign * off, 1e-300), norm, hill_k, exact) for sign in (-1, 1)]
    turned = [angles(a[:, :k], b[:, :k])[0] for a, b in ((before.u_MxR, after.u_MxR), (before.v_NxR, after.v_NxR))]
    out |= {"ranks": here, "ranks_error": np.max(np.abs(np.stack(moved) - here), axis=0) + 1e-13 * np.abs(here)}
    at = np.minimum(ks, q - 1)
    separation = before.s_Q[at - 1] - after.s_Q[at]
    error = value_errors(before.s_Q)[at - 1] + value_errors(after.s_Q)[at]
    good = (separation > 0) & (np.asarray(ks) <= q - 1)
    bound = np.where(good, s[0] / np.where(good, separation, 1.0), np.nan)
    left = separation - error
    out |= {"wedin_bound": bound, "norm": norm, "fell_back": 0, "spectrum": s, "tuned": after.s_Q, "angles": np.stack(turned),
            "wedin_bound_error": np.where(good & (left > 0), (off[0] + bound * error) / np.where(left > 0, left, 1), np.nan)}
    if exact:
        size = np.linalg.norm(before.s_Q)
        drift = np.linalg.norm(value_errors(before.s_Q)) + np.linalg.norm(value_errors(after.s_Q))
        out |= {"spectral_shift": np.linalg.norm(after.s_Q - before.s_Q) / size, "spectral_shift_error": drift / size}
    return {key: np.asarray(x) for key, x in out.items()}


def _references(panel: Panel, before: Frame, w0, norm: float, refs: dict, q_rms, exact: bool, rng) -> dict:
    """Nulls and floors of the rows about spectra (curves on the panel's norms; one law a matrix)."""
    (m, n), ks, draws = w0.shape, panel.ks, panel.null_draws
    norm0, seen = refs["norm0"], refs["curves"]["relative_norm"]
    unit = first_order(before.s_Q, w0.shape, ks, draws, rng)
    curves = {"relative_norm": seen}
    drawn = _drawn(panel, before, w0, norm, rng) if exact and norm else None
    usable = np.where(unit["mean_sin2"] * norm**2 > LINEAR, np.nan, 1.0)
    for key, power in (("mean_sin2", 2), ("max_angle", 1)):
        one = unit[key] * usable if drawn is None else drawn[key] / norm**power
        curves[key] = one[None, :, None] * (seen * norm0)[..., None, None] ** power
    noise = q_rms * np.sqrt(m * n)
    floor = {"relative_norm": refs["floor"]["relative_norm"]}
    with np.errstate(invalid="ignore"):
        floor |= {key: np.mean(unit[key], axis=0)[None] * noise[:, None, None] ** power
                  for key, power in (("mean_sin2", 2), ("max_angle", 1))}
    floor["mean_sin2"] = np.minimum(floor["mean_sin2"], 1.0)
    floor["max_angle"] = np.minimum(floor["max_angle"], np.pi / 2)
    place = np.minimum(ks, n - 1)
    gap = before.s_Q[place - 1] - before.s_Q[place]
    floor["gap"] = np.repeat((np.sqrt(2) * q_rms / before.s_Q[0])[:, None], len(ks), 1)
    floor["wedin_bound"] = np.where(gap > 0, q_rms[:, None] * (np.sqrt(m) + np.sqrt(n)) / np.where(gap > 0, gap, 1), np.nan)
    spectra = gaussian((m, n), draws)
    blind = np.stack([ranks(s, 1.0, ks[0], exact) for s in spectra])
    floor["ranks"] = np.repeat(blind.mean(0)[None], len(VIEWS), 0)
    if exact:
        shift = drawn["spectral_shift"] / norm if drawn is not None else np.full(draws, np.nan)
        curves["spectral_shift"] = shift[None, :, None] * seen * norm0
        floor["spectral_shift"] = q_rms * np.sqrt(n) / np.linalg.norm(before.s_Q)
    return {"s": before.s_Q if exact else before.s_Q[:place.max() + 1], "residual": before.residual_R,
            "fell_back": np.asarray(0), "curves": curves, "floor": floor,
            "gaussian": {"ranks": blind} | ({"spectrum": spectra} if exact else {})}


def _drawn(panel: Panel, before: Frame, w0, norm: float, rng) -> dict[str, np.ndarray]:
    """Isotropic updates of the update's own norm, decomposed: mean_sin2, max_angle [D, 2, K], spectral_shift [D]."""
    found = []
    for _ in range(panel.null_draws):
        g = matrices.gaussian(w0.shape, int(rng.integers(2**63)))
        size = np.sqrt(sum(np.vdot(block, block) for block in rows_of(g)))
        after = frame(matrices.shifted(w0, g, norm / size), before.residual_R.size)
        turned = rotation(before, after, panel.ks, w0.shape[1])
        shift = np.linalg.norm(after.s_Q - before.s_Q) / np.linalg.norm(before.s_Q)
        found.append({"mean_sin2": turned["mean_sin2"], "max_angle": turned["max_angle"], "spectral_shift": shift})
    return {key: np.stack([x[key] for x in found]) for key in found[0]}
