"""What a reader of a comparison must be told before any number: same files, swapped sides, broken or repeated tensors."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxpost.compare.pairing import Checkpoint
from jaxpost.formats import names

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json",
              "special_tokens_map.json")
NOT_ARCHITECTURE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "architectures")
_STEPS = ("step", "global_step", "training_step", "iteration")


def of_files(base: Checkpoint, tuned: Checkpoint) -> list[str]:
    """Differences of configuration and tokenizer, and signs that the two sides are swapped."""
    notes, label = [], tuned.label
    a, b = (_plain(side.source.config) for side in (base, tuned))
    if a and b:
        differ = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key) and key not in NOT_ARCHITECTURE)
        if differ:
            differences = ", ".join(f"{key} ({a.get(key)!r}, {b.get(key)!r})" for key in differ[:4])
            more = f" and {len(differ) - 4} more" if len(differ) > 4 else ""
            notes.append(f"{label}: config.json differs: {differences}{more}")
    for file in TOKENIZERS:
        here, there = (_digest(_directory(side.path) / file) for side in (base, tuned))
        if here and there and here != there:
            notes.append(f"{label}: {file} differs")
    steps = [_step(side) for side in (base, tuned)]
    if None not in steps and steps[0] > steps[1]:
        notes.append(f"{label}: the base says step {steps[0]}, the tuned side step {steps[1]}: are the two swapped?")
    kinds = [{side.dtype(name) for name in side.parts} for side in (base, tuned)]
    if kinds[0] == {"F32"} and kinds[1] == {"BF16"}:
        notes.append(f"{label}: the base is stored in fp32 and the tuned side in bf16, mostly it is the other way: are they "
                     "swapped?")
    elif kinds[0] != kinds[1]:
        notes.append(f"{label}: stored dtypes differ: base {', '.join(sorted(kinds[0]))}; tuned {', '.join(sorted(kinds[1]))}; "
                     "both are cast as each definition says")
    return notes


def of_source(side: Checkpoint) -> list[str]:
    """What the files of one side hold and nobody compares, and where they contradict their config.json."""
    notes, config = [f"{side.label}: {note}" for note in side.source.notes], side.source.config
    if config.get("tie_word_embeddings") and "head" in side.parts:
        notes.append(f"{side.label}: config.json says tie_word_embeddings, and the stored head is not the embedding: it is "
                     "compared as a parameter of its own")
    if config.get("tie_word_embeddings") is False and "head" not in side.parts and "embed" in side.parts:
        notes.append(f"{side.label}: config.json says tie_word_embeddings is false, and no head is stored")
    layers = {part.layer for part in side.parts.values() if part.layer is not None}
    if (stated := config.get("num_hidden_layers")) is not None and layers and stated != len(layers):
        notes.append(f"{side.label}: config.json says num_hidden_layers={str(stated)[:20]}; {len(layers)} layers are stored")
    if buffers := names.buffers(side.source):
        notes.append(f"{side.label}: rotary frequencies are no parameters and are left out: {_some(buffers)}")
    read = {part.tensor for part in side.parts.values()} | set(buffers)
    read |= {tensor for tensor, (ours, _) in names.OUTER.items() if ours == "head" and config.get("tie_word_embeddings")}
    if left := [tensor for tensor in side.source.tensors if tensor not in read]:
        notes.append(f"{side.label}: {len(left)} tensors are left out by --map: {_some(left)}")
    return notes


def of_rules(rules: Sequence[Mapping], sides: Sequence[Checkpoint]) -> list[str]:
    """Rules of a user's name map by which no tensor of any side is named: mostly a slip in the pattern."""
    tensors = list(dict.fromkeys(tensor for side in sides for tensor in side.source.tensors))
    used = {names.first_rule(tensor, rules) for tensor in tensors}
    idle = [(i, rule["pattern"]) for i, rule in enumerate(rules) if i not in used]
    near = {pattern: difflib.get_close_matches(pattern.replace("\\", ""), tensors, 1, 0.4) for _, pattern in idle}
    return [f"--map: rule {i}, {pattern!r}, matches none of the {len(tensors)} tensors that the rules before it leave"
            + (f"; the nearest is {near[pattern][0]!r}" if near[pattern] else "") for i, pattern in idle]


def of_tensors(label: str, records: Mapping[str, Mapping]) -> list[str]:
    """Flags from what was read: name -> record of `passes` with digests and counts of both sides."""
    notes = []
    equal = [name for name, r in records.items() if r[label]["same"]]
    how = "bit-identical to the base" if all(records[name][label]["same"] == "bits" for name in equal) else (
        "equal to the base, value by value")
    if records and len(equal) == len(records):
        notes.append(f"{label}: every compared tensor is {how}: is it the same checkpoint?")
    elif equal:
        notes.append(f"{label}: {len(equal)} of {len(records)} tensors are {how}: {_some(equal)}")
    for key, what in (("nonfinite", "NaN or Inf"), ("zero", "only zeros")):
        if bad := [name for name, r in records.items() if r[label][key]]:
            notes.append(f"{label}: {what} in {_some(bad)}")
    return notes + _repeated(label, records)


def of_base(records: Mapping[str, Mapping]) -> list[str]:
    """The same for the base."""
    notes = []
    for key, what in (("nonfinite", "NaN or Inf"), ("zero", "only zeros")):
        if bad := [name for name, r in records.items() if r["base"][key]]:
            notes.append(f"base: {what} in {_some(bad)}; not compared")
    return notes + _repeated("base", records)


def _repeated(label: str, records: Mapping[str, Mapping]) -> list[str]:
    """Tensors of equal bytes; those of one value (zero biases, norms of ones) are alike without being one tensor twice."""
    names: dict[str, list[str]] = {}
    for name, record in records.items():
        if not (record[label]["zero"] or record[label].get("constant")):
            names.setdefault(record[label]["digest"], []).append(name)
    return [f"{label}: the same tensor stands under {_some(same)}" for same in names.values() if len(same) > 1]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _plain(config: Mapping) -> dict:
    return json.loads(json.dumps(dict(config), default=str))


def _directory(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _step(side: Checkpoint) -> int | None:
    for name in _STEPS:
        value = str(side.source.metadata.get(name, ""))
        if value.isdigit():
            return int(value)
    return None
