"""Bases that bf16 does not hold: where their entries lie inside their bf16 cells, and what a permuted update then shows.

An entry of a base on the bf16 grid sits in the middle of its cell, half a ULP from either boundary; one stored in float32 sits
anywhere. Entries are counted by code and by one of BINS places in the cell. An update with the tail S(t) = P(|d| > t), sign and
size independent, leaves a cell of width u from the place o above its centre with probability [S(u/2 - o) + S(u/2 + o)] / 2;
over a bin that is a difference of I(t) = int_0^t S, which follows from a fine histogram of |d|. Sides of powers of two, where a
cell is a quarter shorter, are taken as they are.

Legend: C 65,536 bf16 codes, V visibility classes, B places in a cell, F intervals of |d|, X exponents.
"""

from __future__ import annotations

import numpy as np

from jaxpost.compare.reading import bf16_values
from jaxpost.probes.weights import visibility

BINS = 16
_SUB = 16  # intervals an octave of |d|
FINE = 256 * _SUB
_EDGES = (2.0 ** (np.arange(256) - 127)[:, None] * (1 + np.arange(_SUB) / _SUB)).ravel()


def place(w0: np.ndarray, codes0: np.ndarray) -> np.ndarray:
    """Code times BINS plus the place in the cell, 0 at its lower end: i64[N]."""
    exponent = np.maximum((codes0 >> 7) & 0xFF, 1).astype(np.int32)
    with np.errstate(invalid="ignore", over="ignore"):
        offset = np.ldexp((w0 - bf16_values(codes0)).astype(np.float64), 134 - exponent) + 0.5  # in ULPs
    offset = np.where(np.isfinite(offset), offset, 0.5)
    return codes0.astype(np.int64) * BINS + np.clip(offset * BINS, 0, BINS - 1).astype(np.int64)


def fine(d: np.ndarray) -> np.ndarray:
    """Counts of |d| by interval, `_SUB` an octave, zeros and subnormals nowhere: i64[F]."""
    bits = np.abs(d).view(np.uint32)
    return np.bincount(bits[bits >= 0x00800000] >> 19, minlength=FINE)[:FINE]


def visible(sizes_F: np.ndarray, n: int) -> np.ndarray:
    """Probability that a permuted update leaves its cell, by exponent of the code and place in the cell: f64[X, B]."""
    above = np.append(np.cumsum(sizes_F[::-1])[::-1], 0) / n  # P(|d| >= edge)
    integral = np.concatenate([[0.0], np.cumsum(0.5 * (above[:-2] + above[1:-1]) * np.diff(_EDGES))]) + above[0] * _EDGES[0]

    def integrated(t):  # S is nearly straight within an interval
        return np.interp(t, np.concatenate([[0.0], _EDGES]), np.concatenate([[0.0], integral]))

    ulp = 2.0 ** (np.maximum(np.arange(256), 1) - 134.0)[:, None]
    cut = np.arange(BINS + 1) / BINS * ulp  # distances of bin edges from the lower boundary
    below = np.diff(integrated(cut), axis=1) * BINS / ulp  # mean of S(distance) over the bin
    return np.clip(0.5 * (below + below[:, ::-1]), 0.0, 1.0)


def by_class(offset_CxB: np.ndarray, sizes_F: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Probability that a permuted update shows an entry, (mean, mean square) over the places of a class: f64[V] twice."""
    p_XxB = visible(sizes_F, n)
    count_XxB = offset_CxB.reshape(2, 256, 128, BINS).sum((0, 2))
    whole = np.maximum(count_XxB.sum(1), 1)
    exponent = np.arange(visibility.CLASSES) % 768 // 3
    return tuple(np.where(count_XxB.sum(1) > 0, (count_XxB * x).sum(1) / whole, 0.0)[exponent] for x in (p_XxB, p_XxB**2))


def moments(sizes_F: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(E visible^2, E visible^4) of each class under a permuted update, places even in their cells: f64[V] twice.

    |d| = (k + f) ULPs shows k + 1 ULPs with probability f, else k.
    """
    middle = np.append(_EDGES, 2 * _EDGES[-1])
    middle = 0.5 * (middle[:-1] + middle[1:])
    used = np.flatnonzero(sizes_F)
    ulp = 2.0 ** (np.maximum(np.arange(256), 1) - 134.0)[:, None]
    k, f = np.divmod(middle[used] / ulp, 1.0)
    with np.errstate(over="ignore", invalid="ignore"):  # entries that are not finite leave no moment, and the rows say so
        powers = [((k**p * (1 - f) + (k + 1) ** p * f) * ulp**p) @ sizes_F[used] / n for p in (2, 4)]
    exponent = np.arange(visibility.CLASSES) % 768 // 3
    return powers[0][exponent], powers[1][exponent]
