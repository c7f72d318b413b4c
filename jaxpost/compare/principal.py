"""The principal mask, the top ceil(alpha MN) entries of |rank-k W0|, found and counted block by block, never held.

The bit pattern of a positive float32 grows with it: two histograms, of its upper and of its lower 15 bits, give the exact
threshold. Ties at it are taken in row-major order of our orientation.

Legend: M rows >= N columns (wide matrices transposed: `turned`), K dimensions, A mask fractions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxpost.compare import elementwise, matrices
from jaxpost.compare.elementwise import MAGNITUDE, Masks, Threshold
from jaxpost.compare.gram import Frame
from jaxpost.compare.matrices import ROWS
from jaxpost.probes.weights.panel import Panel

_LOWER = 15


class Selection(NamedTuple):
    """A mask: all entries above `limit`, and those at `ties`, flat positions in the tall orientation, ascending."""

    limit: np.float32
    ties: np.ndarray


def scores(w0_MxN: Any, v_NxK: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, |W0 V V'| of a block of rows), float32."""
    v = v_NxK.astype(np.float32)
    for first in range(0, len(w0_MxN), ROWS):
        yield first, np.abs((w0_MxN[first:first + ROWS] @ v) @ v.T)


def turn(flat: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Flat positions in a matrix of a shape -> those in its transpose."""
    return flat % shape[1] * shape[0] + flat // shape[1]


def select(w0_MxN: Any, v_NxK: np.ndarray, alphas: Sequence[float], turned: bool) -> list[Selection]:
    """The mask of every fraction."""
    m, n = w0_MxN.shape
    wanted = [elementwise.kept(alpha, m * n) for alpha in alphas]
    upper = sum(np.bincount(score.view(np.uint32).ravel() >> _LOWER, minlength=1 << 16) for _, score in scores(w0_MxN, v_NxK))
    high = [_from_above(upper, count) for count in wanted]
    lower = np.zeros((len(alphas), 1 << _LOWER), np.int64)
    for _, score in scores(w0_MxN, v_NxK):
        bits = score.view(np.uint32).ravel()
        for row, (code, _) in zip(lower, high):
            inside = bits[(bits >> _LOWER) == code] & ((1 << _LOWER) - 1)
            row += np.bincount(inside, minlength=1 << _LOWER)
    low = [_from_above(row, left) for row, (_, left) in zip(lower, high)]
    limits = [np.uint32(a << _LOWER | b).view(np.float32) for (a, _), (b, _) in zip(high, low)]
    at = _positions(w0_MxN, v_NxK, limits)
    return [Selection(limit, _first(flat, left, (m, n), turned)) for limit, flat, (_, left) in zip(limits, at, low)]


def _from_above(count: np.ndarray, wanted: int) -> tuple[int, int]:
    """(the bin in which the `wanted`-th largest lies, how many of that bin are wanted)."""
    above = np.cumsum(count[::-1])
    place = int(np.searchsorted(above, wanted))
    return len(count) - 1 - place, int(wanted - (above[place] - count[::-1][place]))


def _positions(w0_MxN, v_NxK, limits) -> list[np.ndarray]:
    by_limit: list[list] = [[] for _ in limits]
    for first, score in scores(w0_MxN, v_NxK):
        for parts, limit in zip(by_limit, limits):
            parts.append(np.flatnonzero(score == limit) + first * score.shape[1])
    return [np.concatenate(parts) for parts in by_limit]


def _first(flat: np.ndarray, wanted: int, shape: tuple[int, int], turned: bool) -> np.ndarray:
    if not turned:
        return flat[:wanted]
    return np.sort(flat[np.argsort(turn(flat, shape))[:wanted]])


def masks(w0_MxN: Any, v_NxK: np.ndarray,
          selections: Sequence[Selection]) -> Iterator[tuple[int, list[np.ndarray], np.ndarray]]:
    """(first row, the mask of every selection, scores) of a block of rows."""
    for first, score in scores(w0_MxN, v_NxK):
        yield first, [_with(score > s.limit, s.ties, first) for s in selections], score


def _with(mask: np.ndarray, positions: np.ndarray, first: int) -> np.ndarray:
    """The mask with the entries at some of the ascending flat positions set."""
    low, high = np.searchsorted(positions, [first * mask.shape[1], (first + len(mask)) * mask.shape[1]])
    mask.flat[positions[low:high] - first * mask.shape[1]] = True
    return mask


def counts(panel: Panel, before: Frame, w0_MxN: Any, w1_MxN: Any, turned: bool, limits: Sequence[Threshold],
           cut: Sequence, low: Masks) -> tuple[Masks, np.ndarray]:
    """(what rows need of all masks in the order of `panel.masks_of`, entries that could lie on the other side f64[K, A]).

    Args:
      limits, cut, low: of `elementwise`: where masks of low magnitude end, their ties in our order, and their own counts.
    """
    shape = w0_MxN.shape
    ties = [np.zeros(0, np.int64) if tie is None else np.sort(turn(tie[0], shape[::-1]) if turned else tie[0]) for tie in cut]
    rows: list[list] = [[], []]
    ambiguous = np.zeros((len(panel.ks), len(panel.alphas)))
    error = np.float32(4 * 2.0**-23 * np.linalg.norm(before.s_Q) / np.sqrt(shape[0] * shape[1]))
    for i, k in enumerate(panel.ks):
        v = before.v_NxR[:, :min(k, before.residual_R.size)]
        selections = select(w0_MxN, v, panel.alphas, turned)
        count, seen = np.zeros((2, len(selections), elementwise.CODES), np.int64), np.zeros((2, len(selections)), np.int64)
        for first, selected, score in masks(w0_MxN, v, selections):
            block = slice(first, first + ROWS)
            codes0, codes1 = matrices.codes_of(w0_MxN, block), matrices.codes_of(w1_MxN, block)
            visible = (codes0 != codes1) & (((codes0 | codes1) & MAGNITUDE) != 0)
            for j, (mask, limit) in enumerate(zip(selected, limits)):
                magnitude = codes0 & MAGNITUDE
                inside = magnitude < limit.code if cut[j] is not None or not limit.taken else magnitude <= limit.code
                for where, part in enumerate((mask, mask & ~_with(inside, ties[j], first))):
                    count[where, j] += np.bincount(codes0[part], minlength=elementwise.CODES)
                    seen[where, j] += np.count_nonzero(part & visible)
                ambiguous[i, j] += np.count_nonzero(np.abs(score - selections[j].limit) <= 4 * error)
        for where in range(2):
            rows[where] += [(elementwise.by_class(count[where, j]), seen[where, j], int(count[where, j].sum()))
                            for j in range(len(selections))]
    return Masks(*(np.concatenate([a, np.asarray(b)]) for a, b in zip(low, zip(*rows[0], *rows[1])))), ambiguous
