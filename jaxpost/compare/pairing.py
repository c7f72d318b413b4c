"""Which matrix of one checkpoint is compared with which of another: by our names, never by position, nothing dropped."""

from __future__ import annotations

import difflib
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxpost.compare.errors import CompareError
from jaxpost.compare.fp8 import dequantised
from jaxpost.formats import lora, open_checkpoint
from jaxpost.formats.names import Part, resolve

VOCABULARY = ("embed", "head")  # kinds whose rows (as stored) may be padded
FLOATS = ("BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
RESERVED = ("base", "runs")  # what records and shards of rows are called beside the tuned checkpoints
_LONGEST = 100  # letters of a checkpoint's name in a label, which names files


@dataclass(frozen=True)
class Checkpoint:
    """One side: what is stored (`source`) and which of our parameters that is (`parts`)."""

    label: str
    path: Path
    source: object
    parts: Mapping[str, Part]

    def dtype(self, name: str) -> str:
        """Storage dtype of one of our parameters, as safetensors names it."""
        return self.source.tensors[self.parts[name].tensor].dtype


@dataclass(frozen=True)
class Pair:
    """One parameter of the base and of every tuned checkpoint.

    Attributes:
      shape: as ours, [inputs, outputs]; of a vocabulary matrix compared on its common rows, those.
      rows: common rows of the stored matrix, or None where all are compared.
      reason: why it gets no rows (a vector), or None.
    """

    name: str
    kind: str
    layer: int | None
    shape: tuple[int, ...]
    rows: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Pairing:
    """What is compared, in the order in which the base stores it, and what is not, with the reason."""

    pairs: tuple[Pair, ...]
    unpaired: Mapping[str, str]  # name -> why
    notes: tuple[str, ...]
    empty: Mapping[str, str]  # name -> why: on every side, without elements


def open_side(path: str | Path, label: str, rules: Sequence[Mapping] = (), base: Checkpoint | None = None) -> Checkpoint:
    """Open a checkpoint and name its parameters; nothing is loaded. A directory of LoRA adapters is merged onto `base`.

    Raises:
      FormatError: not a whole checkpoint, or tensors that no map knows. CompareError: a dtype that cannot be compared.
    """
    if Path(path).is_dir() and lora.is_adapter(Path(path)):
        if base is None:
            raise CompareError(f"{path}: holds adapters and no model: give the model as the base and the adapters after it")
        source = lora.open_adapter(path, base.source)
    else:
        source = dequantised(open_checkpoint(path))
    side = Checkpoint(label, Path(path), source, resolve(source, rules))
    for name in side.parts:
        if side.dtype(name) not in FLOATS:
            raise CompareError(f"{path}: {side.parts[name].tensor!r} is {side.dtype(name)}; weights are one of "
                               f"{', '.join(FLOATS[:4])} or fp8 with scales (leave it out with --map)")
    return side


def file_name(path: str | Path) -> str:
    """The checkpoint's own name as part of a file's name: ASCII, cut to `_LONGEST`; of a link, what it leads to."""
    name = os.path.basename(os.path.realpath(path))
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._+-") else "-" for c in name)
    return plain[:_LONGEST].lstrip("._+-") or "tuned"


def labels(paths: Sequence[str | Path]) -> list[str]:
    """A short name for every tuned checkpoint: its directory's, with a number where two are alike or it is `RESERVED`."""
    names, taken = [file_name(path) for path in paths], set(RESERVED)
    numbered = {name for name in names if names.count(name) > 1 or name in RESERVED}
    taken |= set(names) - numbered
    out = []
    for name in names:
        label = name
        if name in numbered:
            label = next(text for n in itertools.count(1) if (text := f"{name}-{n}") not in taken)
            taken.add(label)
        out.append(label)
    return out


def pair(base: Checkpoint, tuned: Sequence[Checkpoint], allow_unpaired: bool = False) -> Pairing:
    """Pair parameters by name.

    Raises:
      CompareError: a parameter that some side lacks, or unequal shapes, unless `allow_unpaired` (shapes of vocabulary
        matrices only: their common rows are compared).
    """
    missing = _missing(base, tuned)
    if missing and not allow_unpaired:
        first = next(iter(missing))
        near = difflib.get_close_matches(first, [name for name in base.parts if name not in missing], n=1)
        hint = f" (nearest paired: {near[0]!r})" if near else ""
        raise CompareError(f"{len(missing)} parameters are unpaired, first {first!r}: {missing[first]}{hint}; all: "
                           f"{_some(list(missing))}; --allow-unpaired leaves them out, --map renames")
    if not (shared := [name for name in base.parts if name not in missing]):
        raise CompareError(f"{base.path} and {tuned[0].path} have no parameter in common: give the maps with --map")
    pairs, notes = [], []
    empty = {}
    for name in sorted(shared, key=lambda name: _place(base, name)):
        paired = _paired(name, base, tuned, allow_unpaired)
        if 0 in paired.shape:
            empty[name] = f"no elements (shape {paired.shape})"
            continue
        pairs.append(paired)
        if paired.rows is not None:
            notes.append(f"{name}: shapes {_shapes(name, base, tuned)} differ; the first {paired.rows} rows are compared")
    if empty:
        notes.append(f"{len(empty)} tensors have no elements and are left out: {_some(list(empty))}")
    return Pairing(tuple(pairs), missing, tuple(notes), empty)


def _missing(base: Checkpoint, tuned: Sequence[Checkpoint]) -> dict[str, str]:
    reasons = {}
    for side in tuned:
        reasons |= {name: f"not in {side.label}" for name in base.parts if name not in side.parts}
        reasons |= {name: "not in the base" for name in side.parts if name not in base.parts}
    return reasons


def _paired(name: str, base: Checkpoint, tuned: Sequence[Checkpoint], allow_unpaired: bool) -> Pair:
    part = base.parts[name]
    shapes = [part.shape, *(side.parts[name].shape for side in tuned)]
    plain = Pair(name, part.kind, part.layer, part.shape)
    if len(set(shapes)) > 1:
        axis = 1 if part.kind == "head" else 0
        common = min(shape[axis] for shape in shapes)
        padded = part.kind in VOCABULARY and len({shape[1 - axis] for shape in shapes}) == 1
        if not padded:
            raise CompareError(f"{name!r} has shapes {_shapes(name, base, tuned)}: checkpoints of one architecture are "
                               "compared")
        if not allow_unpaired:
            raise CompareError(f"{name!r} has shapes {_shapes(name, base, tuned)}: a padded vocabulary? --allow-unpaired "
                               f"compares the first {common} rows")
        shape = (part.shape[0], common) if axis else (common, part.shape[1])
        plain = replace(plain, shape=shape, rows=common)
    if len(plain.shape) != 2 or min(plain.shape) < 2:
        return replace(plain, reason="no matrix: the weight panel reads matrices")
    return plain


def _shapes(name: str, base: Checkpoint, tuned: Sequence[Checkpoint]) -> str:
    return " and ".join(str(side.parts[name].shape) for side in (base, *tuned))


def _place(side: Checkpoint, name: str) -> tuple:
    stored = side.source.tensors[side.parts[name].tensor]
    return str(getattr(stored, "file", "")), getattr(stored, "offset", 0), name


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
