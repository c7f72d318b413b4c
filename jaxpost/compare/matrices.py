"""A matrix as blocks of rows, so that a decomposition of any size holds blocks: read from its file or held in stored dtype.

Matrices are tall here: wide ones are transposed (`turned`). Whatever has `shape`, `len` and `[first:last]` giving float32 rows
will do, an array too.

Legend: M rows >= N columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpost.compare.pairing import Checkpoint, Pair
from jaxpost.compare.reading import BF16, as_float32, bf16_codes, whole
from jaxpost.formats.names import Part
from jaxpost.probes.rows.inventory import is_wide
from jaxpost.probes.weights.visibility import LOG_SD

ROWS = 2048  # of a block


@dataclass(frozen=True)
class Blocks:
    """A matrix of which a range of rows can be made."""

    shape: tuple[int, int]
    make: Callable[[int, int], np.ndarray]  # (first, last) -> those rows in any dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        return as_float32(self.make(rows.start, min(rows.stop, self.shape[0])))


def codes_of(w_MxN: Any, rows: slice) -> np.ndarray:
    """bf16 bit patterns of some rows; no rounding where they are stored as such."""
    stored = w_MxN.make(rows.start, min(rows.stop, len(w_MxN))) if isinstance(w_MxN, Blocks) else w_MxN[rows]
    return np.ascontiguousarray(stored).view(np.uint16) if stored.dtype == BF16 else bf16_codes(as_float32(stored))


def streams(part: Part, shape: tuple[int, int]) -> bool:
    """Whether the rows of the tall matrix are rows of the file."""
    return part.index is None and part.span is None and part.transpose == is_wide(shape)


def tall(side: Checkpoint, pair: Pair) -> Blocks:
    """One side of a pair, cut to what is compared."""
    part, (m, n) = side.parts[pair.name], sorted(pair.shape, reverse=True)
    if streams(part, pair.shape):
        return Blocks((m, n), lambda first, last: side.source.read(part.tensor, slice(first, last))[:, :n])
    held = whole(side, pair)
    held = np.ascontiguousarray(held.T if is_wide(pair.shape) else held)
    return Blocks((m, n), lambda first, last: held[first:last])


def held_bytes(side: Checkpoint, pair: Pair) -> int:
    """Bytes that `tall` holds, at their peak: what is not bf16 counts as float32."""
    part = side.parts[pair.name]
    if streams(part, pair.shape):
        return 0
    return 2 * int(np.prod(pair.shape, dtype=np.int64)) * (2 if side.source.tensors[part.tensor].dtype == "BF16" else 4)


def rounded(w_MxN: Any) -> Blocks:
    """The matrix as bf16 shows it, and stored as such."""
    return Blocks(tuple(w_MxN.shape), lambda first, last: codes_of(w_MxN, slice(first, last)).view(BF16))


def difference(w1_MxN: Any, w0_MxN: Any) -> Blocks:
    """w1 - w0 in float32."""
    return Blocks(tuple(w0_MxN.shape), lambda first, last: w1_MxN[first:last] - w0_MxN[first:last])


def added(w_MxN: Any, d_MxN: Any) -> Blocks:
    """w + d in float32."""
    return Blocks(tuple(w_MxN.shape), lambda first, last: w_MxN[first:last] + d_MxN[first:last])


def permuted(d_MxN: Any, seed: int) -> Blocks:
    """The entries of d in another order, within blocks of ROWS rows; the same whenever a block is read.

    Blocks must begin at multiples of ROWS.
    """
    def make(first: int, last: int) -> np.ndarray:
        block = np.ascontiguousarray(d_MxN[first:last])
        return np.random.default_rng([seed, first]).permutation(block.ravel()).reshape(block.shape)

    return Blocks(tuple(d_MxN.shape), make)


def of_law(law: str, sigma: float, shape: tuple[int, int], seed: int) -> Blocks:
    """Independent entries of a law of `visibility.LAWS`; the same whenever a block is read (at multiples of ROWS)."""
    def make(first: int, last: int) -> np.ndarray:
        rng, size = np.random.default_rng([seed, first]), (last - first, shape[1])
        if law == "gaussian":
            z = rng.standard_normal(size, np.float32)
        elif law == "laplace":
            z = rng.laplace(scale=0.5**0.5, size=size)
        elif law == "t3":
            z = rng.standard_t(3, size) / 3**0.5
        else:
            z = np.exp(LOG_SD * rng.standard_normal(size) - LOG_SD**2) * (2 * rng.integers(0, 2, size) - 1)
        return (sigma * z).astype(np.float32)

    return Blocks(shape, make)


def on_grid(w_MxN: Any) -> bool:
    """Whether every entry is a bf16 value."""
    return not any(np.any(np.ascontiguousarray(w_MxN[first:first + ROWS]).view(np.uint32) & 0xFFFF)
                   for first in range(0, len(w_MxN), ROWS))
