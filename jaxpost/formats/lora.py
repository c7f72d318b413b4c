"""A directory of LoRA adapters of PEFT read as the model that it makes of its base: W + s B A, merged while it is read.

    s = lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora; W [out, in], B [out, r], A [r, in]
Merged matrices are float32 and unrounded: the float32 view shows the low-rank update as trained, the bf16 view what merging
into bf16 would store. What the adapter does not touch is the base's own bytes. Source: Hu et al., arXiv:2106.09685; file names
and fields are those of PEFT (`adapter_config.json`, `adapter_model.safetensors`; *recalled*, and as `models.hf_adapter` writes
them loaded by PEFT 0.21.2).
"""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxpost.formats import safetensors
from jaxpost.formats.directory import read_object
from jaxpost.formats.safetensors import FormatError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
_PART = re.compile(r"(?P<module>.+)\.lora_(?P<kind>embedding_)?(?P<side>[AB])(?:\.default)?(?:\.weight)?")
_LINEAR = re.compile(r"(?:model\.layers\..+_proj|lm_head)\.weight")  # stored as [out, in], whatever fan_in_fan_out says
_UNREAD = {"use_dora": "DoRA rescales the columns of the merged matrix", "use_qalora": "QA-LoRA pools its inputs",
           "alora_invocation_tokens": "aLoRA acts on the tokens behind an invocation alone",
           "layer_replication": "layers of the base stand in the model several times"}
_OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # init_lora_weights that take what they begin from off the base


@dataclass(frozen=True)
class Entry:
    """A merged tensor: a shape and a dtype, no place in a file."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


_SWITCHES = ("use_rslora", "use_dora", "fan_in_fan_out")


@dataclass(frozen=True)
class Update:
    """Two stored factors and the scale of one matrix."""

    a: str
    b: str
    scale: float
    transposed: bool  # the matrix is stored as [in, out]: embeddings, and Conv1D layers with fan_in_fan_out


@dataclass(frozen=True)
class LoraSource:
    """The tensors of a base, with updates added to some of them."""

    path: Path
    base: object
    stored: Mapping[str, safetensors.Stored]  # of the adapter
    updates: Mapping[str, Update]  # name in the base -> its update
    replaced: Mapping[str, str]  # name in the base -> name in the adapter, of what is stored whole
    tensors: Mapping[str, object]
    metadata: Mapping[str, str]
    config: Mapping
    notes: tuple[str, ...]
    kind: str = "safetensors"

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """A tensor, or a range of its leading axis: float32 where an update is added."""
        whole = self.replaced.get(name)
        weight = self.base.read(name, rows) if whole is None else safetensors.read(self.stored[whole], rows)
        if name not in self.updates:
            return weight
        update = self.updates[name]
        a, b = (np.asarray(safetensors.read(self.stored[part]), np.float32) for part in (update.a, update.b))
        cut = slice(None) if rows is None else rows
        low = a.T[cut] @ b.T if update.transposed else b[cut] @ a
        return np.asarray(weight, np.float32) + np.float32(update.scale) * low


def is_adapter(path: Path) -> bool:
    """Whether a directory holds adapters and not a model."""
    return (path / CONFIG).is_file() and not any((path / name).exists() for name in (
        "model.safetensors", "model.safetensors.index.json"))


def open_adapter(path: str | Path, base: object) -> LoraSource:
    """The model that an adapter directory makes of an open base.

    Args:
      base: a source with the names of a Hugging Face directory.

    Raises:
      FormatError: another method than LoRA, a factor that is missing, a module that the base lacks, shapes that do not fit.
    """
    path = Path(path)
    about = read_object(path / CONFIG)
    if (kind := str(about.get("peft_type", "LORA")).upper()) != "LORA":
        raise FormatError(f"{path}: adapters of type {kind}; LoRA is read here: merge others with PEFT's merge_and_unload and "
                          "save_pretrained(OUT)")
    for name in (name for name in _SWITCHES if not isinstance(about.get(name), bool | None)):  # the text "false" would be true
        raise FormatError(f"{path}: {name} is {about[name]!r}; expected true or false")
    if not isinstance(about.get("alpha_pattern"), dict | None):
        raise FormatError(f"{path}: alpha_pattern is {str(about['alpha_pattern'])[:40]!r}; expected {{module: alpha}}")
    for name, why in _UNREAD.items():
        if about.get(name):
            raise FormatError(f"{path}: {name} is set ({why}): merge it with PEFT's merge_and_unload and save_pretrained(OUT)")
    if (start := str(about.get("init_lora_weights")).lower()).startswith(_OTHER_BASE):
        raise FormatError(f"{path}: init_lora_weights is {start[:40]!r}, which changes the base before the adapters are added: "
                          "merge it with PEFT's merge_and_unload and save_pretrained(OUT), or set it to true where the base "
                          "that is given is what was left of it")
    if not (path / WEIGHTS).is_file():
        raise FormatError(f"{path}: {CONFIG} and no {WEIGHTS}; adapter_model.bin is a pickle: save the adapter again with "
                          "safe_serialization=True")
    stored, metadata = safetensors.header(path / WEIGHTS)
    pairs: dict[str, dict] = {}
    replaced = {}
    for name, entry in stored.items():
        if match := _PART.fullmatch(name):
            factors = pairs.setdefault(match["module"], {"embedding": bool(match["kind"])})
            factors[match["side"]] = name
        else:
            plain = name.removeprefix(PREFIX).replace(".modules_to_save", "").replace(".base_layer", "")
            target = _named(path, base, plain)
            if tuple(entry.shape) != tuple(base.tensors[target].shape):
                raise FormatError(f"{path}: {name!r} has shape {entry.shape}, the base's {target!r} "
                                  f"{tuple(base.tensors[target].shape)}")
            replaced[target] = name
    updates = dict(_update(path, base, about, stored, module, factors) for module, factors in pairs.items())
    if not updates and not replaced:
        raise FormatError(f"{path / WEIGHTS}: holds no lora_A and lora_B")
    tensors = {**base.tensors, **{name: stored[part] for name, part in replaced.items()}}
    for name in updates:
        shape = tuple(base.tensors[name].shape)
        tensors[name] = Entry("F32", shape, 4 * math.prod(shape))
    notes = _notes(path, base, about, len(updates), len(set(replaced) - set(updates)))
    return LoraSource(path, base, stored, updates, replaced, tensors, metadata, base.config, notes)


def _update(path: Path, base: object, about: Mapping, stored: Mapping, module: str, factors: Mapping) -> tuple[str, Update]:
    """(name of the matrix in the base, its update). Raises: FormatError."""
    if not {"A", "B"} <= set(factors):
        raise FormatError(f"{path}: {module!r} has only lora_{'A' if 'A' in factors else 'B'}")
    module = module.removeprefix(PREFIX)
    target = _named(path, base, f"{module}.weight")
    transposed = factors["embedding"] or (bool(about.get("fan_in_fan_out")) and not _LINEAR.fullmatch(target))
    for side in "AB":
        factor = stored[factors[side]]
        if len(factor.shape) != 2 or not factor.dtype.startswith(("F", "BF")):
            raise FormatError(f"{path}: {factors[side]!r} is {factor.dtype} of shape {tuple(factor.shape)}; expected a matrix "
                              "of floats")
    a, b = (tuple(stored[factors[side]].shape) for side in "AB")
    made = (a[1], b[0]) if transposed else (b[0], a[1])
    if a[0] != b[1] or made != tuple(base.tensors[target].shape):
        raise FormatError(f"{path}: lora_B {b} times lora_A {a} of {module!r} makes {made}; the base's matrix is "
                          f"{tuple(base.tensors[target].shape)}")
    rank = a[0]
    if not about.get("rank_pattern") and about.get("r") not in (None, rank):
        raise FormatError(f"{path}: r is {str(about['r'])[:40]!r}, and lora_A of {module!r} has rank {rank}: are the two of "
                          "one adapter?")
    alpha = _of_module(path, about.get("alpha_pattern"), module, about.get("lora_alpha"))
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not abs(alpha) <= sys.float_info.max:
        raise FormatError(f"{path}: lora_alpha of {module!r} is {str(alpha)[:40]!r}; expected a number")
    scale = alpha / (math.sqrt(rank) if about.get("use_rslora") else rank)
    return target, Update(factors["A"], factors["B"], scale, transposed)


def _of_module(path: Path, patterns: object, module: str, default: object) -> object:
    """The value of the first key that a module's path ends with. Raises: FormatError for a key that is a regular expression:
    one from somebody's file is not run."""
    for key, value in (patterns if isinstance(patterns, dict) else {}).items():
        if not re.fullmatch(r"\^?[\w.]+", key):
            raise FormatError(f"{path}: alpha_pattern has the regular expression {key[:60]!r}; expected names of modules: "
                              "merge it with PEFT's merge_and_unload and save_pretrained(OUT)")
        if module == key.removeprefix("^") or (not key.startswith("^") and module.endswith("." + key)):
            return value
    return default


def _named(path: Path, base: object, name: str) -> str:
    """A tensor of the base. Raises: FormatError naming the nearest."""
    if name in base.tensors:
        return name
    near = difflib.get_close_matches(name, base.tensors, n=1)
    hint = f"; nearest there is {near[0]!r}" if near else ""
    raise FormatError(f"{path}: adapts {name!r}, which the base {base.path} does not have{hint}: is it another base?")


def _notes(path: Path, base: object, about: Mapping, updates: int, replaced: int) -> tuple[str, ...]:
    note = (f"{path}: LoRA adapters of rank {about.get('r')} and alpha {about.get('lora_alpha')} on {updates} matrices, merged "
            "in float32 onto the base that was given")
    note += f"; {replaced} tensors were trained whole" if replaced else ""
    stated = str(about.get("base_model_name_or_path") or "")
    if stated and Path(stated).name != Path(base.path).resolve().name:
        note += f"; {CONFIG} names the base {stated[:120]!r}"
    return (note,)
