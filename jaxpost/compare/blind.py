"""Blind updates of one pair, read as its update is read: in the same views, after the same rounding.

The tuned side's own entries in another order (`matrices.permuted`), or, where both sides hold bf16 values, a law of
`probes.weights.blind.DRAWN` at the visible size. Level "exact" decomposes each; level "top" takes the rotation to first order
from the products of the drawn update E with the base's singular vectors, e = U'EV:

    du_i . u_j = (s_i e_ji + s_j e_ij) / (s_i^2 - s_j^2),   dv_i . v_j = (s_i e_ij + s_j e_ji) / (s_i^2 - s_j^2),

and what of E v_i / s_i lies outside the span of U on the longer side. Energies are in closed form
(`probes.weights.blind_energy`).

Legend: M rows >= N columns, K dimensions `ks`, D draws, V views.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxpost.compare import matrices
from jaxpost.compare.elementwise import Blind, classes
from jaxpost.compare.gram import Frame, ranks, rows_of, values_of
from jaxpost.compare.matrices import ROWS
from jaxpost.probes.weights import blind_energy, visibility
from jaxpost.probes.weights.blind import DRAWN
from jaxpost.probes.weights.panel import VIEWS, Panel
from jaxpost.probes.weights.spectra import LEADING_RANKS, RANKS

LINEAR = 0.05  # mean sin^2 above which first order says nothing
ENERGIES = ("blind_energy", "blind_energy_variance")
_POWER = {"mean_sin2": 2, "max_angle": 1, "spectral_shift": 1, "ranks": 0, "above_edge": 0}


def read(panel: Panel, views: Sequence[Any], norms: Sequence[float], law: Blind, exact: bool, seed: int, edge_V: np.ndarray,
         decomposed: Callable) -> dict[str, np.ndarray]:
    """Null draws of one matrix: "blind_<statistic>" f64[V, D, ...], and moments of energies f64[2 + laws, 4, K].

    Args:
      views: as stored, and as bf16 shows it where that is another; of each the base's frame, the base and the tuned side.
      norms: of the update in each of them.
      decomposed: `spectra._view` of a frame, a base, an end and whether it is exact.
    """
    by_view = [[] for _ in views]
    stored = views[0]
    own = matrices.difference(stored.w1_MxN, stored.w0_MxN)
    for number in range(panel.rank_draws):
        place = [seed, number]
        if law.stored_bf16:
            name = DRAWN[number % len(DRAWN)]
            drawn = matrices.of_law(name, law.visible_L[visibility.LAWS.index(name)], own.shape, place)
        else:
            drawn = matrices.permuted(own, place)
        end = matrices.added(stored.w0_MxN, drawn)
        for v, view in enumerate(views):
            rounded = matrices.rounded(end) if v or law.stored_bf16 else end
            if not norms[v]:
                by_view[v].append(_nothing(panel, exact))
                continue
            one = decomposed(view.before, view.w0_MxN, rounded, True) if exact else _first_order(panel, view, rounded)
            if exact:
                one["above_edge"] = np.sum(one["spectrum"] > edge_V[-1 if law.stored_bf16 else v])
            # where only its visible size is known, a law is read at the visible norm
            scale = norms[v] / one["norm"] if law.stored_bf16 and one["norm"] else 1.0
            by_view[v].append({key: one[key] * scale**power for key, power in _POWER.items() if key in one})
    by_view = by_view * (len(VIEWS) // len(by_view))
    out = {f"blind_{key}": np.stack([np.stack([one[key] for one in view]) for view in by_view]) for key in by_view[0][0]}
    out["blind_mean_sin2"] = np.minimum(out["blind_mean_sin2"], 1.0)
    out["blind_max_angle"] = np.minimum(out["blind_max_angle"], np.pi / 2)
    return out | energies(panel, views, law)


def _nothing(panel: Panel, exact: bool) -> dict[str, np.ndarray]:
    """No update: no rotation, no shift, no rank."""
    still = {"mean_sin2": np.zeros((2, len(panel.ks))), "max_angle": np.zeros((2, len(panel.ks)))}
    still["ranks"] = np.full(len(RANKS if exact else LEADING_RANKS), np.nan)
    return still | ({"spectral_shift": np.zeros(()), "above_edge": np.zeros(())} if exact else {})


def tangent(top_K: np.ndarray, rest: np.ndarray, e_top: np.ndarray, e_rest: np.ndarray, side: int) -> np.ndarray:
    """Components of the first-order motion of the leading vectors along the others: [K, rest].

    Args: top_K [K, 1] and rest [1, rest] singular values; e_top = u_i'E v_j, e_rest = u_j'E v_i, [K, rest]; side 0 left.
    """
    a, b = (e_rest, e_top) if side == 0 else (e_top, e_rest)
    return (top_K * a + rest * b) / (top_K**2 - rest**2)


def _first_order(panel: Panel, view: Any, rounded: Any) -> dict[str, np.ndarray]:
    """Rotation to first order and leading ranks of a drawn update, in one pass over its rows."""
    before: Frame = view.before
    u, v, s = before.u_MxR, before.v_NxR, before.s_Q
    left, through, square, images = 0.0, 0.0, 0.0, []
    drawn, base = matrices.difference(rounded, view.w0_MxN), view.w0_MxN
    for i, block in enumerate(rows_of(drawn)):
        rows = slice(i * ROWS, i * ROWS + len(block))
        image = block @ v
        left = left + u[rows].T @ block
        through = through + np.asarray(base[rows.start:rows.stop], np.float64).T @ image
        square = square + block.T @ block
        images.append(image)
    image_MxR, norm = np.concatenate(images), float(np.sqrt(np.trace(square)))
    m, n = drawn.shape
    inverse = np.where(s > 1e-12 * s[0], 1 / np.maximum(s, 1e-300), 0.0)  # what the base does not span has no left vector
    e_top, e_rest = left @ before.v_NxQ, (before.v_NxQ.T @ through * inverse[:, None]).T  # [R, Q] both
    out = {name: np.full((2, len(panel.ks)), np.nan) for name in ("mean_sin2", "max_angle")}
    for i, k in enumerate(panel.ks):
        if k > n - 1 or not s[k - 1] > s[k]:
            continue
        for side in range(2):
            x = tangent(s[:k, None], s[None, k:], e_top[:k, k:], e_rest[:k, k:], side)
            second = x @ x.T
            if side == 0 and m > n:
                outside = image_MxR[:, :k].T @ image_MxR[:, :k] - e_rest[:k] @ e_rest[:k].T
                second = second + outside * (inverse[:k, None] * inverse[None, :k])
            out["mean_sin2"][side, i] = np.trace(second) / k
            out["max_angle"][side, i] = np.sqrt(max(np.linalg.eigvalsh(second)[-1], 0.0))
    lost = out["mean_sin2"] > LINEAR
    out = {name: np.where(lost, np.nan, x) for name, x in out.items()}
    spectrum = values_of(square)
    return out | {"norm": norm, "ranks": ranks(spectrum, norm, panel.ks[0], exact=False)}


def energies(panel: Panel, views: Sequence[Any], law: Blind) -> dict[str, np.ndarray]:
    """Moments of the share of a blind update's energy in every region, as `probes.weights.blind.energies` orders them."""
    laws = len(visibility.LAWS)
    out = np.full((2, 2 + laws, len(blind_energy.REGIONS), len(panel.ks)), np.nan)
    view = views[-1]
    at = list(range(2, 2 + laws)) if law.stored_bf16 else [1]
    for place, (second_V, fourth_V) in zip(at, law.moments):
        out[:, place] = _shares(panel, view, second_V, fourth_V)
    if not law.stored_bf16:
        flat = np.ones(visibility.CLASSES)
        out[:, 0] = _shares(panel, views[0], flat, law.kurtosis * flat)
    return dict(zip(ENERGIES, out))


def _shares(panel: Panel, view: Any, second_V: np.ndarray, fourth_V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    def blocks():
        for first in range(0, len(view.w0_MxN), ROWS):
            rows = slice(first, min(first + ROWS, len(view.w0_MxN)))
            place = classes()[matrices.codes_of(view.w0_MxN, rows)]
            yield rows, second_V[place], fourth_V[place]

    ks = tuple(min(k, view.before.residual_R.size) for k in panel.ks)
    with np.errstate(invalid="ignore", divide="ignore"):
        return blind_energy.shares(blocks(), view.before.u_MxR, view.before.v_NxR, ks, np, np.matmul)
