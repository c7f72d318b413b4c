"""Everything that the element-wise rows need of one matrix of two checkpoints, counted in one pass over both files.

`WeightGeometry` answers the same questions with a program that sorts the matrix, keeps every mask and draws its null: 300
bytes an entry. Here a matrix becomes a few histograms over bf16 bit patterns (65,536 of them), from which masks of low
magnitude, half-ULP classes and closed-form nulls follow exactly: the same counts (tested), in one pass.
Subnormal differences are not flushed to zero here as XLA does; entries below 1e-34 could tell the two apart.

Legend: C 65,536 bf16 codes; A tolerances, E relative tolerances.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from jaxpost.compare import kernel, offsets
from jaxpost.compare.reading import BF16, as_float32, bf16_codes, bf16_values
from jaxpost.probes.weights.panel import Panel

CODES = 65536
LOWEST = -24  # as `visibility.update_histogram`
EXPONENTS = 255 - LOWEST + 1


@dataclass
class Tally:
    """Sums over the entries of one matrix. `seen` counts entries whose bf16 values differ, by the base's code."""

    panel: Panel
    count_C: np.ndarray = field(default_factory=lambda: np.zeros(CODES, np.int64))
    seen_C: np.ndarray = field(default_factory=lambda: np.zeros(CODES, np.int64))
    within_abs_A: np.ndarray = None
    within_rel_E: np.ndarray = None
    same_fp32: int = 0
    nonfinite: int = 0  # of the tuned side
    nonfinite_base: int = 0
    off_grid: int = 0  # entries of the tuned side that bf16 does not hold
    off_grid_base: int = 0  # entries of the base that bf16 does not hold, compared as stored
    rounded_base: int = 0  # such entries that were rounded, the tuned side being stored in bf16
    base2: float = 0.0  # sum of squares of the base as stored
    update1: float = 0.0  # sum of absolute values of the update as stored
    update2: float = 0.0  # of squares
    update4: float = 0.0  # of fourth powers; where the tuned side is stored in more than bf16
    visible1: float = 0.0  # of absolute values of what bf16 shows of it
    visible2: float = 0.0
    tuned2: float = 0.0
    largest: float = 0.0  # |w1|
    ulp2: float = 0.0  # sum of squared bf16 ULPs of the tuned side
    histogram: np.ndarray = None  # as `visibility.update_histogram`; where the tuned side is stored in more than bf16
    sizes: np.ndarray = None  # as `blind_moments.sizes`; likewise
    offset_CxB: np.ndarray = None  # entries by code and place in their bf16 cell, of a base that bf16 does not hold
    sizes_F: np.ndarray = None  # |update| by `offsets.fine` interval, with such a base

    def __post_init__(self):
        self.within_abs_A = np.zeros(len(self.panel.abs_tols), np.int64)
        self.within_rel_E = np.zeros(len(self.panel.rel_etas), np.int64)
        self.histogram = np.zeros((2, EXPONENTS, 2), np.int64)
        self.sizes = np.zeros((256, 8), np.int64)

    @property
    def size(self) -> int:
        """Entries counted."""
        return int(self.count_C.sum())

    def add(self, w0: np.ndarray, w1: np.ndarray) -> None:
        """Count a piece of both sides, flat, in stored dtypes: the update is that of the stored values, masks, cells and
        visibility are those of the bf16 casts."""
        tolerances = np.asarray(self.panel.abs_tols, np.float32), np.asarray(self.panel.rel_etas, np.float32)
        if w0.dtype == w1.dtype == BF16:
            codes = w0.view(np.uint16), w1.view(np.uint16)
            if kernel.compiled() is None:
                self._bf16(*codes, *tolerances)
            else:
                self._take(kernel.compiled()(*codes, *tolerances, self.count_C, self.seen_C, self.within_abs_A,
                                             self.within_rel_E))
            return
        full = as_float32(w0)
        codes0 = w0.view(np.uint16) if w0.dtype == BF16 else bf16_codes(full)
        off_grid = 0 if w0.dtype == BF16 else int(np.count_nonzero(full.view(np.uint32) & 0xFFFF))
        if w1.dtype == BF16:  # only the casts can be compared
            self.rounded_base, full = self.rounded_base + off_grid, bf16_values(codes0)
        else:
            self.off_grid_base += off_grid
        tuned = as_float32(w1)
        self._general(full, codes0, tuned, *tolerances)
        if w1.dtype != BF16:
            with np.errstate(invalid="ignore", over="ignore"):
                update = tuned - full
            self._masters(update)
            if w0.dtype != BF16:  # what is stored in bf16 lies in the middle of its cells
                self._place(full, codes0, update)

    def _take(self, sums: np.ndarray) -> None:
        update2, tuned2, largest, nonfinite, nonfinite_base, same, ulp2, update1 = sums
        self._moved(update1, update2)
        self.tuned2 += tuned2
        self.largest = max(self.largest, largest)
        self.nonfinite += int(nonfinite)
        self.nonfinite_base += int(nonfinite_base)
        self.same_fp32 += int(same)
        self.ulp2 += ulp2

    def _moved(self, update1: float, update2: float) -> None:
        """Add to an update of which bf16 shows everything."""
        self.update1, self.visible1 = self.update1 + update1, self.visible1 + update1
        self.update2, self.visible2 = self.update2 + update2, self.visible2 + update2

    def _bf16(self, codes0: np.ndarray, codes1: np.ndarray, tols: np.ndarray, etas: np.ndarray) -> None:
        """Both sides in bf16: real numbers only where the codes differ, histograms for the rest."""
        visible = (codes0 != codes1) & (((codes0 | codes1) & 0x7FFF) != 0)
        count0, count1 = (np.bincount(codes, minlength=CODES) for codes in (codes0, codes1))
        moved0, moved1 = codes0[visible], codes1[visible]
        seen = np.bincount(moved0, minlength=CODES)
        broken = (np.arange(CODES) & 0x7F80) == 0x7F80
        equal = int((count0 - seen)[~broken].sum())
        self.count_C += count0
        self.seen_C += seen
        self.same_fp32 += int((count0 - seen).sum())
        self.nonfinite += int(count1[broken].sum())
        self.nonfinite_base += int(count0[broken].sum())
        d = self._tolerances(bf16_values(moved0), bf16_values(moved1), tols, etas, equal)
        self._moved(_sum(np.abs(d)), _sum(np.square(d)))
        values = bf16_values(np.flatnonzero(count1).astype(np.uint16)).astype(np.float64)
        with np.errstate(invalid="ignore"):
            self.tuned2 += float(values**2 @ count1[count1 > 0])
        self.largest = max(self.largest, float(np.max(np.abs(values[np.isfinite(values)]), initial=0.0)))
        self.ulp2 += float(np.bincount((np.arange(CODES) >> 7) & 0xFF, weights=count1, minlength=256) @ _ulp2())

    def _tolerances(self, w0: np.ndarray, w1: np.ndarray, tols, etas, equal: int) -> np.ndarray:
        """Count what lies within each tolerance, `equal` entries beside those given; returns w1 - w0 in float64."""
        with np.errstate(invalid="ignore", over="ignore"):
            d = w1 - w0
            size, scale = np.abs(d), np.maximum(np.abs(w0), np.abs(w1))
            for i, tol in enumerate(tols):
                self.within_abs_A[i] += equal + np.count_nonzero(size <= tol)
            for i, eta in enumerate(etas):
                self.within_rel_E[i] += equal + np.count_nonzero(size <= eta * scale)
            return d.astype(np.float64)

    def _general(self, w0: np.ndarray, codes0: np.ndarray, w1: np.ndarray, tols: np.ndarray, etas: np.ndarray) -> None:
        codes1, bits0, bits1 = bf16_codes(w1), w0.view(np.uint32), w1.view(np.uint32)
        visible = (codes0 != codes1) & (((codes0 | codes1) & 0x7FFF) != 0)
        self.count_C += np.bincount(codes0, minlength=CODES)
        self.seen_C += np.bincount(codes0[visible], minlength=CODES)
        self.same_fp32 += int(np.count_nonzero((bits0 == bits1) | (((bits0 | bits1) & 0x7FFFFFFF) == 0)))
        finite = np.isfinite(w1)
        self.nonfinite += int(w1.size - np.count_nonzero(finite))
        self.nonfinite_base += int(np.count_nonzero(~np.isfinite(w0)))
        self.off_grid += int(np.count_nonzero(bits1 & 0xFFFF))
        d = self._tolerances(w0, w1, tols, etas, 0)
        with np.errstate(invalid="ignore", over="ignore"):
            rounded = (bf16_values(codes1) - bf16_values(codes0)).astype(np.float64)
            self.update1, self.visible1 = self.update1 + _sum(np.abs(d)), self.visible1 + _sum(np.abs(rounded))
            self.update2, self.visible2 = self.update2 + _sum(d**2), self.visible2 + _sum(rounded**2)
            self.tuned2 += _sum(np.square(w1, dtype=np.float64))
            self.base2 += _sum(np.square(w0, dtype=np.float64))
        self.largest = max(self.largest, float(np.max(np.abs(w1[finite]), initial=0.0)))
        exponents = np.bincount((codes1 >> 7) & 0xFF, minlength=256)
        self.ulp2 += float(exponents @ _ulp2())

    def _masters(self, d: np.ndarray) -> None:
        """The update's own law, where the tuned side is stored in more than bf16."""
        with np.errstate(invalid="ignore", over="ignore"):
            self.update4 += _sum(d.astype(np.float64) ** 4)
        self.histogram += update_histogram(d)
        self.sizes += np.bincount((np.abs(d).view(np.uint32) >> 20)[d != 0], minlength=2048)[:2048].reshape(256, 8)

    def _place(self, w0: np.ndarray, codes0: np.ndarray, d: np.ndarray) -> None:
        """Count where in their bf16 cells the entries of the base lie, and the update's sizes finely."""
        if self.offset_CxB is None:
            self.offset_CxB, self.sizes_F = np.zeros((CODES, offsets.BINS), np.int64), np.zeros(offsets.FINE, np.int64)
        self.offset_CxB += np.bincount(offsets.place(w0, codes0), minlength=CODES * offsets.BINS).reshape(CODES, offsets.BINS)
        self.sizes_F += offsets.fine(d)


def _sum(x: np.ndarray) -> float:
    return float(np.sum(x))


def _ulp2() -> np.ndarray:
    """Squared bf16 ULP of every exponent: f64[256]."""
    return 4.0 ** (np.maximum(np.arange(256), 1) - 134.0)


def update_histogram(d: np.ndarray) -> np.ndarray:
    """`visibility.update_histogram` on the host: i64[2, EXPONENTS, 2]."""
    mantissa, exponent = np.frexp(np.abs(d[(d != 0) & np.isfinite(d)]).astype(np.float64))
    negative = np.signbit(d[(d != 0) & np.isfinite(d)])
    power = exponent - 1 + 127
    index = (negative * EXPONENTS + power - LOWEST) * 2 + (mantissa == 0.5)
    return np.bincount(index, minlength=4 * EXPONENTS).reshape(2, EXPONENTS, 2)
