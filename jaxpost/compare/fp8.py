"""Weights stored in fp8 with scales, read as float32; fp8 without scales is refused.

value = stored * scale, the scale a scalar (`<name>_scale`), one a row, or one a block of 128 x 128 (`<name>_scale_inv`, as
DeepSeek-V3 stores it; "inv" is its inverse from the quantiser's side: it multiplies). *Recalled*. Scales of other
shapes are refused.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxpost.compare.errors import CompareError

SUFFIXES = ("_scale_inv", "_scale")
BLOCK = 128


@dataclass(frozen=True)
class Dequantised:
    """A source whose fp8 tensors are multiplied by their scales; the scales are no tensors of their own."""

    inner: object
    tensors: Mapping
    scales: Mapping[str, str]

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """A tensor, or a range of its leading axis: float32 where it was fp8."""
        stored = self.inner.read(name, rows)
        if name not in self.scales:
            return stored
        scale = np.asarray(self.inner.read(self.scales[name]), np.float32)
        shape = self.tensors[name].shape
        first = 0 if rows is None else rows.start
        return stored.astype(np.float32) * _spread(scale, shape, first, len(stored), name)


def dequantised(source):
    """The source itself where nothing is fp8, else one that dequantises.

    Raises: CompareError for an fp8 tensor without scales.
    """
    fp8 = [name for name, entry in source.tensors.items() if entry.dtype.startswith("F8") and not name.endswith(SUFFIXES)]
    if not fp8:
        return source
    scales = {}
    for name in fp8:
        partner = next((name + suffix for suffix in SUFFIXES if name + suffix in source.tensors), None)
        if partner is None:
            raise CompareError(f"{source.path}: {name!r} is {source.tensors[name].dtype} and has no {name}_scale_inv or "
                               f"{name}_scale: fp8 without scales means nothing; convert it to bf16 first")
        scales[name] = partner
    kept = {name: entry for name, entry in source.tensors.items() if name not in set(scales.values())}
    return Dequantised(source, types.MappingProxyType(kept), scales)


def _spread(scale: np.ndarray, shape: tuple[int, ...], first: int, count: int, name: str) -> np.ndarray:
    """The scale of every entry of rows first .. first + count, broadcastable to them."""
    if scale.size == 1:
        return scale.reshape(())
    rows = np.arange(first, first + count)
    if scale.shape in ((shape[0],), (shape[0], 1)):
        return scale.reshape(-1)[rows][:, None]
    blocks = tuple(-(-extent // BLOCK) for extent in shape)
    if len(shape) == 2 and scale.shape == blocks:
        return scale[rows // BLOCK][:, np.arange(shape[1]) // BLOCK]
    raise CompareError(f"{name!r} of shape {shape} has scales of shape {scale.shape}; expected one, {shape[0]}, or {blocks}")
