"""Reading one parameter of both sides: piece by piece at the same place, or whole as float32 in our orientation.

A parameter of a safetensors file is one range of bytes, so pieces go straight into buffers that are used again; of other
sources, and where the two sides are stored in different orientations, the whole parameter is read and then cut.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxpost.compare.pairing import Checkpoint, Pair
from jaxpost.formats.safetensors import DTYPES, FormatError, Stored

PIECE = 2**19  # entries of a piece: both sides stay in the second-level cache
BF16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Range:
    """Bytes of a parameter in a safetensors file."""

    file: Path
    offset: int
    dtype: np.dtype
    size: int  # entries


def byte_range(side: Checkpoint, pair: Pair) -> Range | None:
    """Where a parameter lies, None where it is not one range of plain bytes."""
    part = side.parts[pair.name]
    stored = side.source.tensors[part.tensor]
    if not isinstance(stored, Stored) or stored.dtype.startswith("F8"):
        return None
    dtype = DTYPES[stored.dtype]
    inner = stored.shape if part.index is None else stored.shape[1:]
    row = int(np.prod(inner[1:], dtype=np.int64))
    first = (0 if part.index is None else part.index * int(np.prod(inner, dtype=np.int64)))
    first += 0 if part.span is None else part.span[0] * row
    count = int(np.prod(pair.shape, dtype=np.int64))
    return Range(stored.file, stored.offset + first * dtype.itemsize, dtype, count)


def whole(side: Checkpoint, pair: Pair) -> np.ndarray:
    """The parameter in its stored dtype and our orientation, cut to the compared rows."""
    stored = side.parts[pair.name].read(side.source)
    return stored[tuple(slice(0, extent) for extent in pair.shape)]


def as_float32(x: np.ndarray) -> np.ndarray:
    """Float32 of any stored dtype, contiguous; exact for bf16 and fp16."""
    return np.ascontiguousarray(x, np.float32) if x.dtype != BF16 else bf16_values(np.ascontiguousarray(x).view(np.uint16))


def bf16_values(codes: np.ndarray) -> np.ndarray:
    """The float32 value of bf16 bit patterns (exact)."""
    return (codes.astype(np.uint32) << 16).view(np.float32)


def bf16_codes(w: np.ndarray) -> np.ndarray:
    """Bit patterns of float32 rounded to bf16, ties to even, NaN kept: as `visibility.bf16_codes`, on the host."""
    bits = w.view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.where(nan, (bits >> np.uint32(16)).astype(np.uint16) | np.uint16(0x40), rounded) if nan.any() else rounded


class Reader:
    """Fills buffers of its own from files; one a thread."""

    def __init__(self):
        self._buffers: dict[int, np.ndarray] = {}
        self._files: dict[Path, object] = {}

    def close(self) -> None:
        """Close every file."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def pieces(self, ranges: list[Range]) -> Iterator[list[np.ndarray]]:
        """Equal pieces of several ranges, in order, in stored dtypes; each is overwritten by the next.

        Raises: FormatError for a file that has become shorter.
        """
        for first in range(0, ranges[0].size, PIECE):
            count = min(PIECE, ranges[0].size - first)
            yield [self._piece(i, r, first, count) for i, r in enumerate(ranges)]

    def _piece(self, slot: int, r: Range, first: int, count: int) -> np.ndarray:
        nbytes = count * r.dtype.itemsize
        buffer = self._buffers.get(slot)
        if buffer is None or buffer.nbytes < nbytes:
            buffer = self._buffers[slot] = np.empty(PIECE * max(r.dtype.itemsize, 2), np.uint8)
        if r.file not in self._files:
            self._files[r.file] = open(r.file, "rb", buffering=0)
        view, done = memoryview(buffer)[:nbytes], 0
        while done < nbytes:
            got = os.preadv(self._files[r.file].fileno(), [view[done:]], r.offset + first * r.dtype.itemsize + done)
            if not got:
                raise FormatError(f"{r.file}: ends before byte {r.offset + (first + count) * r.dtype.itemsize}; it changed "
                                  "while it was read")
            done += got
        return buffer[:nbytes].view(r.dtype)


def pieces(base: Checkpoint, tuned: Checkpoint, pair: Pair, reader: Reader) -> tuple[Iterator[list[np.ndarray]], bool]:
    """(pieces of both sides in the order in which the base is stored, whether that is the transposed order of ours)."""
    ranges = [byte_range(base, pair), byte_range(tuned, pair)]
    turned = [side.parts[pair.name].transpose for side in (base, tuned)]
    if None not in ranges and turned[0] == turned[1]:
        return reader.pieces(ranges), turned[0]
    sides = (whole(side, pair) for side in (base, tuned))
    arrays = [np.ascontiguousarray(x.T if turned[0] else x).reshape(-1) for x in sides]
    cuts = range(0, arrays[0].size, PIECE)
    return ([x[first:first + PIECE] for x in arrays] for first in cuts), turned[0]
