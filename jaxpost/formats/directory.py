"""A checkpoint of safetensors: one file, or a directory with or without an index, all of it or an error."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxpost.formats import safetensors
from jaxpost.formats.safetensors import FormatError, Stored

INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class SafetensorsSource:
    """Tensors of safetensors files by name. `metadata` is that of the files; `config` is config.json, {} without one."""

    path: Path
    tensors: Mapping[str, Stored]
    metadata: Mapping[str, str]
    config: Mapping
    kind: str = "safetensors"

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """A tensor, or a range of its leading axis, in its stored dtype."""
        return safetensors.read(self.tensors[name], rows)


def pickled(path: Path) -> bool:
    """Whether a file is of a kind that would have to be unpickled."""
    return path.suffix in _PICKLED


def refusal(path: Path) -> FormatError:
    """The error for checkpoints that are pickles."""
    return FormatError(f"{path}: pickles run code when they are read and are never opened here; convert once where you trust "
                       "them: transformers' AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT) writes safetensors")


def open_safetensors(path: str | Path) -> SafetensorsSource:
    """Everything that a file or a directory holds, headers checked, nothing loaded.

    Raises:
      FormatError: no safetensors, a shard or a tensor of the index missing, a tensor in no index or in two files, an index
        that is no index, files that are no safetensors.
      OSError: a file cannot be read.
    """
    path = Path(path)
    if path.is_file():
        if pickled(path):
            raise refusal(path)
        tensors, metadata = safetensors.header(path)
        return SafetensorsSource(path, tensors, metadata, {})
    files = sorted(path.glob("*.safetensors"))
    if (path / INDEX).exists():
        tensors, metadata = _indexed(path)
    elif files:
        _complete(path, [file.name for file in files])
        tensors, metadata = _united(files)
    elif found := next((file for file in sorted(path.iterdir()) if pickled(file)), None):
        raise refusal(found)
    else:
        there = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
        raise FormatError(f"{path}: holds no *.safetensors and no Orbax checkpoint; found {there}")
    return SafetensorsSource(path, tensors, metadata, _config(path))


def _complete(path: Path, names: list[str]) -> None:
    """Refuse a directory without an index that has only some of the numbered shards."""
    for match in filter(None, map(_SHARD.fullmatch, names)):
        count = int(match["count"])
        if not 1 <= int(match["number"]) <= count <= 99999:
            raise FormatError(f"{path}/{match[0]}: shard {match['number']} of {match['count']}")
        expected = (f"{match['stem']}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1))
        if missing := next((name for name in expected if name not in names), None):
            raise FormatError(f"{path}: shard {missing} is missing")


def _united(files: list[Path]) -> tuple[dict[str, Stored], dict[str, str]]:
    tensors, metadata = {}, {}
    for file in files:
        found, about = safetensors.header(file)
        if twice := sorted(set(found) & set(tensors)):
            raise FormatError(f"{file}: tensor {twice[0]!r} is in {tensors[twice[0]].file.name} too")
        tensors |= found
        metadata |= about
    return tensors, metadata


def _indexed(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    place = path / INDEX
    weight_map = _object(place).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(x, str) for x in weight_map.values()):
        raise FormatError(f"{place}: no weight_map from tensors to files")
    names = sorted(set(weight_map.values()))
    for name in names:
        if not name or Path(name).name != name or not name.endswith(".safetensors"):
            raise FormatError(f"{place}: {name[:80]!r} is not the name of a safetensors file beside it")
        if not (path / name).is_file():
            raise FormatError(f"{path}: shard {name} is missing; the index names it")
    tensors, metadata = _united([path / name for name in names])
    for name, file in weight_map.items():
        if name not in tensors or tensors[name].file.name != file:
            near = difflib.get_close_matches(name, tensors, n=1)
            hint = f"; nearest there is {near[0]!r}" if near else ""
            raise FormatError(f"{place}: tensor {name!r} is not in {file}{hint}")
    if extra := sorted(set(tensors) - set(weight_map)):
        raise FormatError(f"{place}: does not name tensor {extra[0]!r} of {tensors[extra[0]].file.name}")
    return tensors, metadata


def _config(path: Path) -> dict:
    place = path / "config.json"
    return _object(place) if place.exists() else {}


def _object(place: Path) -> dict:
    """A JSON object in a file of at most the header limit."""
    with open(place, "rb") as file:
        text = file.read(safetensors.MAX_HEADER + 1)
    try:
        found = json.loads(text) if len(text) <= safetensors.MAX_HEADER else None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{place}: not JSON ({str(error)[:80]})") from error
    if not isinstance(found, dict):
        raise FormatError(f"{place}: expected a JSON object")
    return found
