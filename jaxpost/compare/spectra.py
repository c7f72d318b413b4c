"""Spectra and subspaces of one matrix of two checkpoints from float64 Gram matrices: the spectral rows at the price of GEMM.

`WeightGeometry` certifies its subspaces by block Krylov iteration, falls back to the dense SVD where spectra are flat (most
pretrained matrices at k = 64), and draws its nulls with a decomposition each: minutes a matrix on two cores; here
(`compare.gram`) it is seconds. Values are those of `weights.measurement.measure` (agreement: tests), each with its error.

Nulls are drawn by `compare.blind`; floors are those of a Gaussian rounding error, its ranks from the bidiagonal form of a
Gaussian matrix (`probes.weights.gaussian_spectra`).

Legend: M rows >= N columns (wide matrices transposed, sides swapped back), K dimensions `ks`, R leading vectors, D draws.
"""

from __future__ import annotations

import functools
import zlib
from typing import Any, NamedTuple

import numpy as np

from jaxpost.compare import blind, matrices
from jaxpost.compare.elementwise import Blind
from jaxpost.compare.gram import (
    Frame,
    angles,
    frame,
    gram,
    left,
    ranks,
    right,
    rotation,
    rows_of,
    subspace_error,
    value_errors,
    values_of,
)
from jaxpost.probes.weights import gaussian_spectra
from jaxpost.probes.weights.panel import VIEWS, Panel


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


@functools.lru_cache(maxsize=64)
def gaussian(shape: tuple[int, int], draws: int) -> np.ndarray:
    """Singular values of Gaussian matrices of a shape at Frobenius norm 1, the same for every matrix of it: f64[D, q]."""
    return gaussian_spectra.draw(shape, draws, np.random.default_rng([max(shape), min(shape), draws]))


class View(NamedTuple):
    """A matrix as one dtype shows it: the base's decomposition, the base, the tuned side (tall, by rows)."""

    before: Frame
    w0_MxN: Any
    w1_MxN: Any


class Measured(NamedTuple):
    """What one matrix adds to element-wise values and references; the frame of the base as bf16 shows it (tall); arrays worth
    keeping: singular values of base, tuned and update, the rounding edge, all angles at the primary k [2 sides, k]."""

    values: dict
    references: dict
    frame: Frame
    arrays: dict


def measure(panel: Panel, name: str, w0_MxN: Any, w1_MxN: Any, swap: bool, refs: dict, law: Blind,
            q_rms: np.ndarray) -> Measured:
    """Spectral values and references of one matrix.

    Args:
      w0_MxN, w1_MxN: tall, finite, by rows (`matrices`). swap: ours is the transpose.
      refs: element-wise references (norm0, the floor of the norm); law: of the blind updates; q_rms: rounding of an entry,
        [views].
    """
    m, n = w0_MxN.shape
    kept, exact = min(max(panel.ks), n - 1), panel.reads("exact")
    views = [View(frame(w0_MxN, kept), w0_MxN, w1_MxN)]
    if not law.stored_bf16:
        cast = views[0].before, w0_MxN
        if not matrices.on_grid(w0_MxN):
            cast = frame(matrices.rounded(w0_MxN), kept), matrices.rounded(w0_MxN)
        views.append(View(*cast, matrices.rounded(w1_MxN)))
    read = [_view(panel, *view, exact) for view in views]
    norms, edge = [float(view["norm"]) for view in read], q_rms * (np.sqrt(m) + np.sqrt(n))
    nulls = blind.read(panel, views, norms, law, exact, zlib.crc32(name.encode()) + 1, edge, functools.partial(_view, panel))
    read, before = read * (len(VIEWS) // len(read)), views[-1].before
    arrays = {key: read[0][key] for key in ("spectrum", "tuned", "angles")} | {"base": views[0].before.s_Q}
    spectrum = [view["spectrum"] for view in read]
    vals = {key: np.stack([view[key] for view in read]) for key in read[0] if key not in (*arrays, "norm")}
    vals["edge"] = edge
    if exact:
        above = [[np.sum(s + sign * value_errors(s) > e) for sign in (-1, 0, 1)] for s, e in zip(spectrum, edge)]
        low, at, high = np.asarray(above).T
        vals |= {"above_edge": at, "above_edge_error": np.maximum(high - at, at - low)}
    references = _references(panel, views[0].before, w0_MxN.shape, refs, q_rms, exact)
    if swap:
        vals, nulls, references["floor"] = _swapped(vals), _swapped(nulls), _swapped(references["floor"])
        arrays["angles"] = arrays["angles"][::-1]
    return Measured(vals | nulls, references, before, arrays | {"edge": edge})


_SIDES = {"mean_sin2": (1, [1, 0]), "max_angle": (1, [1, 0]), "captured": (1, [0, 2, 1]),  # statistic -> axis, order
          "blind_mean_sin2": (2, [1, 0]), "blind_max_angle": (2, [1, 0]), **dict.fromkeys(blind.ENERGIES, (1, [0, 2, 1, 3]))}


def _swapped(x: dict) -> dict:
    """Left and right exchanged."""
    def swap(name, value):
        axis, order = _SIDES.get(name.removesuffix("_error"), (None, None))
        return value if axis is None else np.take(value, order, axis=axis)

    return {name: swap(name, value) for name, value in x.items()}


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


def _references(panel: Panel, before: Frame, shape: tuple[int, int], refs: dict, q_rms, exact: bool) -> dict:
    """Floors of the rows about spectra, to first order in the rounding error."""
    (m, n), ks = shape, panel.ks
    rng = np.random.default_rng([m, n])
    unit = _rounding_rotation(before.s_Q, shape, ks, rng)
    noise = q_rms * np.sqrt(m * n)
    floor = {"relative_norm": refs["floor"]["relative_norm"]}
    with np.errstate(invalid="ignore"):
        floor |= {key: unit[key][None] * noise[:, None, None] ** power for key, power in (("mean_sin2", 2), ("max_angle", 1))}
    floor["mean_sin2"] = np.minimum(floor["mean_sin2"], 1.0)
    floor["max_angle"] = np.minimum(floor["max_angle"], np.pi / 2)
    place = np.minimum(ks, n - 1)
    gap = before.s_Q[place - 1] - before.s_Q[place]
    floor["gap"] = np.repeat((np.sqrt(2) * q_rms / before.s_Q[0])[:, None], len(ks), 1)
    floor["wedin_bound"] = np.where(gap > 0, q_rms[:, None] * (np.sqrt(m) + np.sqrt(n)) / np.where(gap > 0, gap, 1), np.nan)
    noisy = np.stack([ranks(s, 1.0, ks[0], exact) for s in gaussian((m, n), panel.null_draws)])
    floor["ranks"] = np.repeat(noisy.mean(0)[None], len(VIEWS), 0)
    curves = refs["curves"]
    if exact:
        floor["spectral_shift"] = q_rms * np.sqrt(n) / np.linalg.norm(before.s_Q)
        curves = curves | {"spectral_shift": np.zeros_like(curves["relative_norm"])}
    return {"s": before.s_Q if exact else before.s_Q[:place.max() + 1], "residual": before.residual_R,
            "fell_back": np.asarray(0), "curves": curves, "floor": floor}


def _rounding_rotation(s: np.ndarray, shape: tuple[int, int], ks: tuple[int, ...], rng) -> dict[str, np.ndarray]:
    """Mean rotation by isotropic noise of Frobenius norm 1, to first order: mean_sin2, max_angle f64[2 sides, K]."""
    (m, n), out = shape, {name: np.full((2, len(ks)), np.nan) for name in ("mean_sin2", "max_angle")}
    entry = 1 / np.sqrt(m * n)
    for i, k in enumerate(ks):
        if k > n - 1 or not s[k - 1] > s[k]:
            continue
        top, rest = s[:k, None], s[None, k:n]
        for side in range(2):
            x = blind.tangent(top, rest, *(rng.standard_normal((2, k, n - k)) * entry), side)
            second = x @ x.T
            if side == 0 and m > n:
                second = second + (m - n) * entry**2 * np.diag(s[:k] ** -2.0)
            out["mean_sin2"][side, i] = np.trace(second) / k
            out["max_angle"][side, i] = np.sqrt(np.linalg.eigvalsh(second)[-1])
    return out
