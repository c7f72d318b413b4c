"""Safetensors files, read by position: a header that is believed only after it is checked, then bytes.

Layout: 8 bytes little endian N, N bytes of JSON {name: {dtype, shape, data_offsets}}, then the buffer, without holes.
Nothing here allocates more than the file holds, and nothing is ever unpickled.
Source: the format's own description, github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

MAX_HEADER = 100_000_000  # bytes, the format's own limit
METADATA = "__metadata__"
DTYPES = {  # as the format names them -> how they are viewed
    "BOOL": np.dtype(np.bool_), "U8": np.dtype(np.uint8), "I8": np.dtype(np.int8), "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16), "U32": np.dtype(np.uint32), "I32": np.dtype(np.int32), "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64), "F16": np.dtype(np.float16), "F32": np.dtype(np.float32), "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64), "BF16": np.dtype(ml_dtypes.bfloat16), "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2), "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz), "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PACKED_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}  # several to a byte: listed, never read


LFS = b"version https://git-lfs.github.com/spec/"


class FormatError(ValueError):
    """A file that is not what it says; one line that names the file, what was found and what was expected."""


@dataclass(frozen=True)
class Stored:
    """Where one tensor lies: `nbytes` from `offset` on, counted from the beginning of `file`."""

    name: str
    dtype: str  # as the format names it, a key of DTYPES or of the packed ones
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int


def require_regular(path: Path) -> None:
    """Refuse what would block or never end when it is opened. Raises: FormatError for a pipe, device or socket."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if os.path.islink(path):
            raise FormatError(f"{path}: is a link to nothing ({os.readlink(path)[:200]})") from None
        raise
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket",
                 stat.S_IFDIR: "a directory"}
        raise FormatError(f"{path}: is {kinds.get(stat.S_IFMT(mode), 'no file')}; expected a regular file")


def pointer(path: Path) -> FormatError:
    """The error for a file that Git LFS has not fetched."""
    return FormatError(f"{path}: is a pointer of Git LFS, not the file: fetch it with `git lfs pull` in that repository")


def header(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """(tensors by name in the order of the buffer, metadata) of a file, every claim of the header checked.

    Raises:
      FormatError: too short, a header that is too long or no JSON, names twice, unknown dtypes, sizes that do not fit,
        offsets that overlap, leave holes or lie outside the file.
      OSError: the file cannot be read.
    """
    path = Path(path)
    require_regular(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        if start == LFS[:8] and start + file.read(len(LFS) - 8) == LFS:
            raise pointer(path)
        if len(start) < 8:
            raise FormatError(f"{path}: {size} bytes; a safetensors file begins with 8 bytes of header length")
        length = struct.unpack("<Q", start)[0]
        if length > min(MAX_HEADER, size - 8):
            raise FormatError(f"{path}: the header claims {length} bytes; the file holds {size - 8} more, and headers are "
                              f"at most {MAX_HEADER}")
        text = file.read(length)
    entries = _parsed(path, text)
    metadata = _metadata(path, entries.pop(METADATA, None) or {})
    entries_in_order = [_entry(path, name, entry, 8 + length, size) for name, entry in entries.items()]
    entries_in_order.sort(key=lambda stored: (stored.offset, stored.nbytes))
    position = 8 + length
    for stored in entries_in_order:
        if stored.offset != position:
            what = "overlaps the tensor before it" if stored.offset < position else "leaves a hole before it"
            raise FormatError(f"{path}: tensor {stored.name!r} begins at byte {stored.offset} and {what}; expected {position}")
        position += stored.nbytes
    if position != size:
        raise FormatError(f"{path}: the tensors end at byte {position}, the file at {size}: "
                          f"{'cut off' if position > size else 'unclaimed bytes'}")
    return {stored.name: stored for stored in entries_in_order}, metadata


def _parsed(path: Path, text: bytes) -> dict:
    def unique(pairs):
        unique_pairs = dict(pairs)
        if len(unique_pairs) != len(pairs):
            names = [name for name, _ in pairs]
            raise FormatError(f"{path}: the header names {max(names, key=names.count)!r} twice")
        return unique_pairs

    def refuse(constant):
        raise FormatError(f"{path}: the header holds {constant}, which is not JSON")

    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise FormatError(f"{path}: the header is not JSON ({str(error)[:80]})") from error
    if not isinstance(entries, dict) or not text.startswith(b"{"):
        raise FormatError(f"{path}: the header is a JSON {type(entries).__name__}; expected an object from the first byte on")
    return entries


def _metadata(path: Path, metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(x, str) for x in metadata.values()):
        raise FormatError(f"{path}: {METADATA} must map text to text")
    return metadata


def _count(x: object) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and 0 <= x < 2**63


def _entry(path: Path, name: str, entry: object, begin: int, size: int) -> Stored:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        keys = sorted(entry)[:5] if isinstance(entry, dict) else type(entry).__name__
        raise FormatError(f"{path}: tensor {name!r} has {keys}; expected dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES | _PACKED_BITS:
        raise FormatError(f"{path}: tensor {name!r} has the unknown dtype {str(dtype)[:40]!r}; known: {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not all(map(_count, shape)):
        raise FormatError(f"{path}: tensor {name!r} has shape {str(shape)[:60]}; expected a list of counts")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_count, offsets)):
        raise FormatError(f"{path}: tensor {name!r} has data_offsets {str(offsets)[:60]}; expected [begin, end]")
    low, high = offsets
    if not low <= high <= size - begin:
        raise FormatError(f"{path}: tensor {name!r} claims bytes {low} to {high} of a buffer of {size - begin}")
    bits = _PACKED_BITS.get(dtype) or 8 * DTYPES[dtype].itemsize
    if _bounded_product(shape, 8 * size) * bits != 8 * (high - low):
        raise FormatError(f"{path}: tensor {name!r}, {dtype}{shape[:8]}, does not fit its {high - low} bytes")
    return Stored(name, dtype, tuple(shape), path, begin + low, high - low)


def _bounded_product(shape: list[int], limit: int) -> int:
    """The product, or `limit + 1` when it is larger: hostile shapes must not cost time."""
    if 0 in shape:
        return 0
    product = 1
    for extent in shape:
        product *= extent
        if product > limit:
            return limit + 1
    return product


def read(stored: Stored, rows: slice | None = None) -> np.ndarray:
    """The tensor, or a range of its leading axis, as a writable array of its own dtype; one read of exactly its bytes.

    Args:
      rows: slice(low, high) of the leading axis, or None for all.

    Raises:
      FormatError: a packed dtype, rows outside the tensor, or a file that has become shorter.
    """
    if stored.dtype not in DTYPES:
        raise FormatError(f"{stored.file}: tensor {stored.name!r} is {stored.dtype}, several values to a byte: convert it "
                          "to bf16 first")
    shape, offset, nbytes = stored.shape, stored.offset, stored.nbytes
    if rows is not None:
        if not shape or not 0 <= rows.start <= rows.stop <= shape[0] or rows.step is not None:
            raise FormatError(f"{stored.file}: rows {rows.start} to {rows.stop} of tensor {stored.name!r} of shape {shape}")
        each = nbytes // shape[0] if shape[0] else 0
        count = rows.stop - rows.start
        shape, offset, nbytes = (count, *shape[1:]), offset + rows.start * each, count * each
    buffer = np.empty(nbytes, np.uint8)
    view, done = memoryview(buffer), 0
    with open(stored.file, "rb", buffering=0) as file:
        while done < nbytes:
            got = os.preadv(file.fileno(), [view[done:]], offset + done)
            if not got:
                raise FormatError(f"{stored.file}: ends inside tensor {stored.name!r}; it changed while it was read")
            done += got
    return buffer.view(DTYPES[stored.dtype]).reshape(shape)


def write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays of any dtype of the format, in the order given.

    A value may be anything with shape and dtype that becomes an array when it is written (`__array__`): one is held at a time.

    Raises:
      FormatError: a dtype that the format does not have.
      OSError: the file cannot be written.
    """
    entries, position = {METADATA: dict(metadata)} if metadata else {}, 0
    for name, x in tensors.items():
        if x.dtype not in NAMES:
            raise FormatError(f"{path}: tensor {name!r} is {x.dtype}; safetensors has {', '.join(DTYPES)}")
        nbytes = math.prod(x.shape) * x.dtype.itemsize
        entries[name] = {"dtype": NAMES[x.dtype], "shape": list(x.shape), "data_offsets": [position, position + nbytes]}
        position += nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for x in tensors.values():
            file.write(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
