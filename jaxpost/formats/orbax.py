"""An Orbax checkpoint, read one array or one range of an array at a time: nothing else of it is touched."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from jaxpost.formats.digests import DigestError, array_digest, opened
from jaxpost.formats.directory import read_object
from jaxpost.formats.safetensors import NAMES, FormatError

_METADATA = "_METADATA"
_OURS = ("params", "training", "probe_state", "about")  # of `jaxpost.checkpoint`; only the first holds weights


@dataclass(frozen=True)
class Array:
    """One array of a checkpoint; `dtype` as safetensors names it."""

    name: str  # keys joined by "/"
    dtype: str
    shape: tuple[int, ...]
    key: str  # of the key-value store
    nbytes: int


@dataclass(frozen=True)
class OrbaxSource:
    """Arrays of an Orbax PyTree by name."""

    path: Path
    tensors: Mapping[str, Array]
    driver: str  # zarr or zarr3
    ocdbt: bool
    metadata: Mapping[str, str]
    config: Mapping
    kind: str = "orbax"
    notes: tuple[str, ...] = ()  # items beside the one that is read
    digests: Mapping[str, str] = field(default_factory=dict)  # key -> digest, of checkpoints that have them
    _sound: set[str] = field(default_factory=set)  # keys that were compared with theirs

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """An array, or a range of its leading axis, in its stored dtype; compared with its digest, if any, the first time.

        Raises:
          FormatError: it cannot be read, or is not what was saved.
        """
        array = self.tensors[name]
        store = {"driver": "ocdbt", "base": f"file://{self.path}/", "path": f"{array.key}/"} if self.ocdbt else {
            "driver": "file", "path": f"{self.path}/{array.key}/"}
        try:
            stored = tensorstore.open({"driver": self.driver, "kvstore": store}, read=True).result()
            if array.key in self.digests and array.key not in self._sound:
                if array_digest(np.asarray(stored.read().result())) != self.digests[array.key]:
                    raise DigestError("it is not what was saved (digest)")
                self._sound.add(array.key)
            values = np.asarray((stored if rows is None else stored[rows.start:rows.stop]).read().result())
        except Exception as error:  # TensorStore raises many types for a damaged file
            raise FormatError(f"{self.path}: array {name!r} cannot be read ({str(error).splitlines()[0][:160]})") from error
        return values


def find(path: Path) -> Path | None:
    """The directory of the PyTree that a path means: itself, its item `params` (or its only one), or that of its latest step;
    None without.

    Raises:
      FormatError: the latest step is incomplete, and an earlier one is not; several items, none of them `params`.
    """
    if (path / _METADATA).is_file():
        return path
    items = sorted(p.name for p in path.iterdir() if (p / _METADATA).is_file()) if path.is_dir() else []
    if "params" in items:
        return path / "params"
    others = [item for item in items if not item.isdigit() and item not in _OURS]
    if len(others) > 1:
        raise FormatError(f"{path}: an Orbax checkpoint of the items {', '.join(others[:6])}: which of them are the weights? "
                          f"give {path}/{others[-1]} or another")
    if others:
        return path / others[0]
    steps = sorted((int(p.name), p) for p in path.iterdir() if p.is_dir() and p.name.isdigit()) if path.is_dir() else []
    if not steps:
        return None
    complete = [(step, checkpoint) for step, place in steps if (checkpoint := find(place)) is not None]
    if complete and complete[-1][0] != steps[-1][0]:
        raise FormatError(f"{path}: its newest step {steps[-1][0]} is incomplete (no {_METADATA} there or in params/); the "
                          f"newest complete one is {path}/{complete[-1][0]}: give that, or remove what is incomplete")
    return complete[-1][1] if complete else None


def arrays_of(place: str | Path, names: Iterable[str]) -> OrbaxSource:
    """The arrays of one PyTree by names that the caller knows (keys joined by dots), without their shapes.

    Raises:
      OSError, ValueError: its metadata cannot be read.
    """
    place = Path(place)
    return OrbaxSource(place, {name: Array(name, "", (), name, 0) for name in names}, *_settings(place), {}, {})


def open_orbax(path: str | Path) -> OrbaxSource:
    """What an Orbax checkpoint holds, from its metadata alone.

    Raises:
      FormatError: no Orbax PyTree, one that cannot be read, or a leaf that is no array of a known dtype.
    """
    path = Path(path).absolute()
    place = find(path)
    if place is None:
        raise FormatError(f"{path}: no Orbax checkpoint (no {_METADATA} there, in params/ or in a numbered step)")
    try:
        handler = ocp.PyTreeCheckpointHandler()
        metadata = handler.metadata(place)
        leaves = _leaves(metadata.tree if hasattr(metadata, "tree") else metadata)
        settings = _settings(place)
    except FormatError:
        raise
    except Exception as error:
        raise FormatError(f"{place}: metadata cannot be read ({(str(error).splitlines() or [''])[0][:160]})") from error
    tensors = {}
    for keys, leaf in leaves:
        name, dtype = "/".join(keys), np.dtype(getattr(leaf, "dtype", np.object_))
        if dtype not in NAMES or getattr(leaf, "shape", None) is None:
            raise FormatError(f"{place}: {name!r} is no array of a known dtype ({type(leaf).__name__}, {dtype})")
        shape = tuple(leaf.shape)
        tensors[name] = Array(name, NAMES[dtype], shape, ".".join(keys), int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
    step = next((part.name for part in (place.parent, place) if part.name.isdigit()), None)
    return OrbaxSource(place, tensors, *settings, {"step": step} if step else {}, {}, notes=tuple(_beside(place)),
                       digests=_digests(place))


def _digests(place: Path) -> dict[str, str]:
    """Those that `jaxpost.checkpoint` keeps beside the item `params`; none for a checkpoint of anybody else."""
    about = place.parent / "about" / "metadata"
    if place.name != "params" or not about.is_file():
        return {}
    try:
        digests = opened(read_object(about))[1]
    except DigestError as error:
        raise FormatError(f"{about}: {error}") from error
    return dict((digests or {}).get("params", {}))


def _beside(place: Path) -> list[str]:
    """Notes on items of the step that nobody here knows, which may hold weights too, and on saves that came to nothing."""
    if place.name != "params":
        return []
    others = sorted(p.name for p in place.parent.iterdir() if p.is_dir() and p.name not in _OURS and (p / _METADATA).is_file())
    notes = [f"{place.parent}: item params is read; left out: {', '.join(others)}"] if others else []
    if place.parent.name.isdigit():  # of a directory of steps: what is newer and no step
        aside = sorted(p.name for p in place.parent.parent.iterdir() if "orbax-checkpoint-tmp" in p.name or
                       p.name.startswith("damaged-"))
        notes += [f"{place.parent}: is the newest whole step; beside it lie {', '.join(aside[:3])}"] if aside else []
    return notes


def _leaves(tree: object, keys: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], object]]:
    if isinstance(tree, Mapping):
        return [leaf for key, part in tree.items() for leaf in _leaves(part, (*keys, str(key)))]
    if isinstance(tree, list | tuple) and not hasattr(tree, "shape"):
        return [leaf for i, part in enumerate(tree) for leaf in _leaves(part, (*keys, str(i)))]
    return [(keys, tree)]


def _settings(place: Path) -> tuple[str, bool]:
    """(driver, whether one OCDBT store holds all arrays)."""
    about = json.loads((place / _METADATA).read_text())
    return ("zarr3" if about.get("use_zarr3") else "zarr"), bool(about.get("use_ocdbt", False))
