"""A checkpoint of safetensors: one file, or a directory with or without an index, all of it or an error."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxpost.formats import safetensors
from jaxpost.formats.safetensors import FormatError, Stored
from jaxpost.formats.ways_out import way_out

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_NEIGHBOURS = ("consolidated", "optimizer", "scheduler", "adapter_model", "training_args", "rng_state", "ema")
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
    notes: tuple[str, ...] = ()  # files that were left out, and links that were followed

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
    weight_map = _weight_map(path) if (path / INDEX).exists() else None
    used, left = _chosen(path, [file.name for file in files], weight_map)
    if weight_map is not None:
        tensors, metadata = _indexed(path, weight_map)
    elif used:
        _complete(path, used)
        tensors, metadata = _united([path / name for name in used])
    elif way := way_out(path):
        raise FormatError(f"{path}: holds no *.safetensors; {way}")
    elif unsafe := next((file for file in sorted(path.iterdir()) if pickled(file)), None):
        raise refusal(unsafe)
    else:
        there = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
        raise FormatError(f"{path}: holds no *.safetensors and no Orbax checkpoint; found {there}")
    notes = (*_left_out(path, left, tensors), *_links(path, tensors))
    return SafetensorsSource(path, tensors, metadata, _config(path), notes=notes)


def _chosen(path: Path, names: Sequence[str], weight_map: Mapping[str, str] | None) -> tuple[list[str], list[str]]:
    """(files of the checkpoint, files beside it that are none of its) of a directory.

    The index says which; without one it is model.safetensors, else numbered shards, else everything but what is known to be
    something else (an optimizer's state, an adapter, the consolidated weights under other names).

    Raises:
      FormatError: two files or sets of files that both could be the model.
    """
    shards = [name for name in names if _SHARD.fullmatch(name)]
    if weight_map is not None:
        listed = set(weight_map.values())
        stale = [name for name in names if name not in listed and (name == SINGLE or name in shards)]
        if stale and listed:
            raise FormatError(f"{path}: {INDEX} names {sorted(listed)[0]} and not {stale[0]}, which lies there too: which of "
                              "them is the model? remove the index or the file that is stale")
        return sorted(listed & set(names)), [name for name in names if name not in listed]
    if SINGLE in names:
        if numbered := [name for name in shards if name.startswith("model-")]:
            raise FormatError(f"{path}: holds {SINGLE} and {numbered[0]}: which of them is the model? remove what is stale")
        return [SINGLE], [name for name in names if name != SINGLE]
    if len({_SHARD.fullmatch(name)["stem"] for name in shards}) == 1:
        return shards, [name for name in names if name not in shards]
    used = [name for name in names if not name.startswith(_NEIGHBOURS)] or list(names)
    return used, [name for name in names if name not in used]


def _left_out(path: Path, names: Sequence[str], tensors: Mapping[str, Stored]) -> list[str]:
    """A note on files beside the model. Raises: FormatError for one that holds a tensor of the model again."""
    for name in names:
        if not name.startswith(_NEIGHBOURS) and (twice := sorted(set(safetensors.header(path / name)[0]) & set(tensors))):
            raise FormatError(f"{path / name}: tensor {twice[0]!r} is in {tensors[twice[0]].file.name} too: which of "
                              "them is the model? remove what is stale")
    return [f"{path}: left out, no part of the model: {', '.join(names[:4])}"
            + (f" and {len(names) - 4} more" if len(names) > 4 else "")] if names else []


def _links(path: Path, tensors: Mapping[str, Stored]) -> list[str]:
    """A note on every file that is a link out of the directory, but for the blobs of a Hugging Face cache."""
    inside, links = path.resolve(), []
    for file in sorted({stored.file for stored in tensors.values()}):
        target = file.resolve()
        if file.is_symlink() and inside not in target.parents and target.parent != inside.parent.parent / "blobs":
            links.append(f"{file.name} is a link out of the directory, to {target}")
    return links


def _too_long(name: str) -> bool:
    return len(name.encode(errors="surrogatepass")) > 255


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
        stored, about = safetensors.header(file)
        if twice := sorted(set(stored) & set(tensors)):
            raise FormatError(f"{file}: tensor {twice[0]!r} is in {tensors[twice[0]].file.name} too")
        tensors |= stored
        metadata |= about
    return tensors, metadata


def _weight_map(path: Path) -> dict[str, str]:
    """Tensor -> file of the index, every file's name possible. Raises: FormatError."""
    place = path / INDEX
    weight_map = read_object(place).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(x, str) for x in weight_map.values()):
        raise FormatError(f"{place}: no weight_map from tensors to files")
    for name in sorted(set(weight_map.values())):
        if not name or Path(name).name != name or not name.endswith(".safetensors") or "\0" in name or _too_long(name):
            raise FormatError(f"{place}: {name[:80]!r} is not the name of a safetensors file beside it"
                              + (f" ({len(name)} characters)" if _too_long(name) else ""))
    return weight_map


def _indexed(path: Path, weight_map: Mapping[str, str]) -> tuple[dict[str, Stored], dict[str, str]]:
    place, names = path / INDEX, sorted(set(weight_map.values()))
    for name in names:
        if not os.path.lexists(path / name):
            raise FormatError(f"{path}: shard {name} is missing; the index names it")
        if not (path / name).exists():
            raise FormatError(f"{path}: shard {name} is a link to nothing ({os.readlink(path / name)[:200]})")
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
    return read_object(place) if place.exists() else {}


def read_object(place: Path) -> dict:
    """A JSON object in a file of at most the header limit, every key once, no NaN or Infinity.

    Raises:
      FormatError: it is not that, or no regular file. OSError: it cannot be read.
    """
    safetensors.require_regular(place)
    with open(place, "rb") as file:
        text = file.read(safetensors.MAX_HEADER + 1)
    if text.startswith(safetensors.LFS):
        raise safetensors.pointer(place)

    def unique(pairs):
        names = [name for name, _ in pairs]
        if twice := [name for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []:
            raise ValueError(f"the key {twice[0][:60]!r} stands there twice")
        return dict(pairs)

    def refuse(constant):
        raise ValueError(f"it holds {constant}")

    try:
        document = (json.loads(text, object_pairs_hook=unique, parse_constant=refuse) if len(text) <= safetensors.MAX_HEADER
                    else None)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{place}: not JSON ({str(error)[:80]})") from error
    if not isinstance(document, dict):
        raise FormatError(f"{place}: expected a JSON object")
    return document
