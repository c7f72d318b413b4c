"""The inventory of matrices: names, kinds, layers and shapes, and how they are grouped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

OUTSIDE_BODY = ("embed", "head")


@dataclass(frozen=True)
class TensorInfo:
    """Inventory entry of one matrix; kind is one of q k v o gate up down router embed head."""

    name: str
    kind: str
    layer: int | None
    shape: tuple[int, int]


def fits(k: int | None, shape: Sequence[int]) -> bool:
    """Whether a matrix has a (k+1)-th singular value: k <= min(m, n) - 1. True for what has no k."""
    return k is None or k <= min(shape) - 1


def matrix_shape(name: str, shape: Sequence[int]) -> tuple[int, int]:
    """The shape of a tensor that a weight probe reads. Raises: ValueError for anything that is not a matrix."""
    if len(shape) != 2 or min(shape) < 2:
        raise ValueError(f"weight probes read matrices; {name!r} has shape {tuple(shape)}, expected [m, n] with m, n >= 2")
    return tuple(shape)


def shape_groups(shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[str, ...]]:
    """Tensor names by shape: one program a group, mapped over its tensors. "256x128" -> sorted names.

    Wide matrices are grouped with tall ones of the transposed shape and are measured transposed (see `is_wide`).
    Raises: ValueError for anything that is not a matrix.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(shapes):
        shape = matrix_shape(name, shapes[name])
        groups.setdefault(f"{max(shape)}x{min(shape)}", []).append(name)
    return {group: tuple(names) for group, names in groups.items()}


def is_wide(shape: Sequence[int]) -> bool:
    """Whether a matrix is measured transposed, its left and right sides swapped back afterwards."""
    return shape[0] < shape[1]
