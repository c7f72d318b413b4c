"""The inner loop over bf16 pairs, compiled by Numba where it is installed (`pip install numba`); without it numpy counts.

A block of 8,192 entries stays in the first-level cache; the loop over real numbers has no scatter and no branch, so it
becomes vector instructions; the histogram has a loop of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

BLOCK = 8192


@functools.cache
def compiled() -> Callable | None:
    """The compiled `_count`, or None where Numba is not installed."""
    try:
        import numba  # optional: four times the speed of numpy on one core
    except ImportError:
        return None
    return numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc"})(_count)


def _count(codes0, codes1, tols, etas, count_C, seen_C, within_abs, within_rel):
    """Add a piece to the histograms and counts.

    Args: codes u16[N] of both sides; f32 tolerances; i64 histograms and counts, added to in place.
    Returns: f64[7]: sum d^2, sum w1^2, max |w1| of finite entries, non-finite entries of w1 and of w0, equal values, and
      the sum of squared bf16 ULPs of w1.
    """
    bits0, bits1 = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    w0, w1 = bits0.view(np.float32), bits1.view(np.float32)
    update2, tuned2, ulp2, same_all = 0.0, 0.0, 0.0, 0
    largest, bad0, bad1 = np.float32(0), 0, 0
    n = codes0.size
    for first in range(0, n, BLOCK):
        count = min(BLOCK, n - first)
        for i in range(count):
            bits0[i] = np.uint32(codes0[first + i]) << np.uint32(16)
            bits1[i] = np.uint32(codes1[first + i]) << np.uint32(16)
        broken0, broken1 = 0, 0
        for i in range(count):
            broken0 += (bits0[i] & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
            broken1 += (bits1[i] & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
        bad0 += broken0
        bad1 += broken1
        squares, squares1 = 0.0, 0.0
        for i in range(count):
            d = w1[i] - w0[i]
            squares += np.float64(d) * np.float64(d)
            squares1 += np.float64(w1[i]) * np.float64(w1[i])
        update2 += squares
        tuned2 += squares1
        for t in range(tols.size):
            tol, inside = tols[t], 0
            for i in range(count):
                inside += abs(w1[i] - w0[i]) <= tol
            within_abs[t] += inside
        for t in range(etas.size):
            eta, inside = etas[t], 0
            for i in range(count):
                inside += abs(w1[i] - w0[i]) <= eta * max(abs(w0[i]), abs(w1[i]))
            within_rel[t] += inside
        top = np.uint32(0)
        for i in range(count):
            magnitude = bits1[i] & np.uint32(0x7FFFFFFF)
            magnitude = magnitude if magnitude < np.uint32(0x7F800000) else np.uint32(0)
            top = max(top, magnitude)
        for i in range(count):  # the base is done with: its place takes the powers of two below w1
            bits0[i] = max(bits1[i] & np.uint32(0x7F800000), np.uint32(0x00800000))
        squares = 0.0
        for i in range(count):
            squares += np.float64(w0[i]) * np.float64(w0[i])
        ulp2 += squares * 2.0**-14
        bits1[0] = top
        largest = max(largest, w1[0])
        for i in range(count):
            a, b = codes0[first + i], codes1[first + i]
            differ = (a != b) & (((a | b) & np.uint16(0x7FFF)) != 0)
            count_C[a] += 1
            seen_C[a] += differ
            same_all += not differ
    return np.array([update2, tuned2, largest, bad1, bad0, same_all, ulp2])
