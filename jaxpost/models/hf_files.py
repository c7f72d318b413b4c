"""How a directory in the Hugging Face layout is written: whole or not at all, one tensor in memory at a time.

On several hosts every process calls and the first one writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from jax.experimental import multihost_utils

from jaxpost.formats import FormatError, safetensors

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}


@dataclasses.dataclass(frozen=True)
class Pending:
    """An array that is made when it is written."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.make()


def pending(x: jax.Array, index: tuple[int, ...], transpose: bool, dtype: str | None) -> Pending:
    """x[index], or its transpose, in one of DTYPES (None: its own)."""
    shape = x.shape[len(index):]
    kept = np.dtype(x.dtype) if dtype is None else DTYPES[dtype]

    def make():
        part = x[index] if index else x
        if isinstance(part, jax.Array) and not part.is_fully_addressable:
            part = multihost_utils.process_allgather(part, tiled=True)
        array = np.asarray(part).astype(kept)
        return array.T if transpose else array

    return Pending(shape[::-1] if transpose else shape, kept, make)


def require_new(path: Path, dtype: str | None) -> None:
    """Refuse a directory that is not empty, and a dtype that is none of DTYPES. Raises: FormatError."""
    if jax.process_index() == 0 and path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FormatError(f"{path}: is {'not empty' if path.is_dir() else 'no directory'}; nothing is overwritten")
    if dtype is not None and dtype not in DTYPES:
        raise FormatError(f"dtype {dtype!r} is not known; choose one of {', '.join(DTYPES)}")


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A directory beside `path`, which takes its place at the end of the block; after an error nothing is left of it."""
    first, temporary = jax.process_index() == 0, path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if first:
        temporary.mkdir(parents=True)
    try:
        yield temporary
        if first:
            if path.exists():
                path.rmdir()
            temporary.rename(path)
    finally:
        if first:
            shutil.rmtree(temporary, ignore_errors=True)


def write(file: Path, tensors: Mapping[str, Pending]) -> None:
    """One safetensors file."""
    if jax.process_index() == 0:
        safetensors.write(file, tensors, {"format": "pt"})
    else:
        for tensor in tensors.values():  # gathering is collective: every process takes part
            np.asarray(tensor)
