"""The inner loop over bf16 pairs, compiled by Numba where it is installed (`pip install numba`); without it numpy counts.

A block of 2,048 entries stays in the first-level cache. Every loop over real numbers does one thing without a scatter or a
branch, and counts in float32 (exact below 2^24), so it becomes vector instructions; the histogram has a loop of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

BLOCK = 2048
ONE, HALF, LOW = np.uint64(1), np.uint64(32), np.uint64(2**32 - 1)


@functools.cache
def compiled() -> Callable | None:
    """The compiled `_count`, or None where Numba is not installed."""
    try:
        import numba  # optional: 3.5 to 9 times the speed of numpy on one core
    except ImportError:
        return None
    return numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc"})(_count)


def _count(codes0, codes1, tols, etas, count_C, seen_C, within_abs, within_rel):
    """Add a piece to the histograms and counts.

    Args: codes u16[N] of both sides; f32 tolerances; i64 histograms and counts, added to in place.
    Returns: f64[8]: sum d^2, sum w1^2, max |w1| of finite entries, non-finite entries of w1 and of w0, equal values,
      the sum of squared bf16 ULPs of w1, and sum |d|.
    """
    packed = np.zeros(65536, np.uint64)  # of a code: entries in the low half, visible changes in the high one
    bits0, bits1 = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    w0, w1, d, m = bits0.view(np.float32), bits1.view(np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    update2, update1, tuned2, ulp2, same_all = 0.0, 0.0, 0.0, 0.0, 0
    largest, bad0, bad1 = np.float32(0), 0, 0
    for first in range(0, codes0.size, BLOCK):
        a, b = codes0[first:first + BLOCK], codes1[first:first + BLOCK]
        count = a.size
        for i in range(count):
            bits0[i] = np.uint32(a[i]) << np.uint32(16)
        for i in range(count):
            bits1[i] = np.uint32(b[i]) << np.uint32(16)
        for i in range(count):
            d[i] = abs(w1[i] - w0[i])
        for i in range(count):
            m[i] = max(abs(w0[i]), abs(w1[i]))
        squares, squares1 = 0.0, 0.0
        for i in range(count):
            squares += np.float64(d[i]) * np.float64(d[i])
        for i in range(count):
            squares1 += np.float64(w1[i]) * np.float64(w1[i])
        absolute = 0.0
        for i in range(count):
            absolute += np.float64(d[i])
        update2 += squares
        update1 += absolute
        tuned2 += squares1
        for t in range(tols.size):
            tol, inside = tols[t], np.float32(0)
            for i in range(count):
                inside += np.float32(1) if d[i] <= tol else np.float32(0)
            within_abs[t] += np.int64(inside)
        for t in range(etas.size):
            eta, inside = etas[t], np.float32(0)
            for i in range(count):
                inside += np.float32(1) if d[i] <= eta * m[i] else np.float32(0)
            within_rel[t] += np.int64(inside)
        for i in range(count):
            packed[a[i]] += ONE + (np.uint64((a[i] != b[i]) & (((a[i] | b[i]) & np.uint16(0x7FFF)) != 0)) << HALF)
        top, broken = np.uint32(0), np.float32(0)
        for i in range(count):
            magnitude = bits1[i] & np.uint32(0x7FFFFFFF)
            finite = magnitude < np.uint32(0x7F800000)
            top = max(top, magnitude if finite else np.uint32(0))
            broken += np.float32(0) if finite else np.float32(1)
        bad1 += np.int64(broken)
        for i in range(count):  # the base is done with: its place takes the powers of two below w1
            bits0[i] = max(bits1[i] & np.uint32(0x7F800000), np.uint32(0x00800000))
        squares = 0.0
        for i in range(count):
            squares += np.float64(w0[i]) * np.float64(w0[i])
        ulp2 += squares * 2.0**-14
        bits1[0] = top
        largest = max(largest, w1[0])
    for code in range(65536):
        count, seen = np.int64(packed[code] & LOW), np.int64(packed[code] >> HALF)
        count_C[code] += count
        seen_C[code] += seen
        same_all += count - seen
        bad0 += count if (code & 0x7F80) == 0x7F80 else 0
    return np.array([update2, tuned2, largest, bad1, bad0, same_all, ulp2, update1])
