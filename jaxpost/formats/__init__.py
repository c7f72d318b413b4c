"""Tensors on disk: where they lie, of what shape and dtype, read one at a time or a range of rows at a time."""

from pathlib import Path
from typing import Protocol

import numpy as np

from jaxpost.formats import orbax, safetensors
from jaxpost.formats.directory import SafetensorsSource, open_safetensors
from jaxpost.formats.orbax import OrbaxSource, open_orbax
from jaxpost.formats.safetensors import FormatError

__all__ = ["FormatError", "OrbaxSource", "SafetensorsSource", "Source", "open_checkpoint", "safetensors"]


class Source(Protocol):
    """Tensors of a checkpoint. `tensors` maps a name to something with `shape`, `dtype` (text) and `nbytes`."""

    path: Path
    kind: str
    tensors: dict
    metadata: dict
    config: dict

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """A tensor, or a range of its leading axis."""


def open_checkpoint(path: str | Path) -> Source:
    """A safetensors file or directory, or an Orbax checkpoint (a PyTree, an item `params`, a directory of steps: the latest).

    Raises:
      FormatError: nothing there, or not a whole checkpoint; one line that says what was found and expected.
      OSError: it cannot be read.
    """
    path = Path(path)
    try:
        there = path.exists()
    except (OSError, ValueError) as error:  # a name that is too long, or holds a zero byte
        reason = getattr(error, "strerror", None) or str(error)
        raise FormatError(f"{str(path)[:80]!r} ({len(str(path))} characters): {reason}") from error
    if not there:
        raise FormatError(f"{path}: no such file or directory")
    if not path.is_dir():
        safetensors.require_regular(path)
    if path.is_dir() and orbax.find(path) is not None:
        return open_orbax(path)
    return open_safetensors(path)
