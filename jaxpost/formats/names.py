"""Which stored tensor is which matrix of which layer: declared maps from the names of a checkpoint to our own.

Ours are `embed`, `head`, `final_norm`, `layers/<i>/<parameter>` and `layers/<i>/experts/<e>/<parameter>`, matrices as
[inputs, outputs] (the embedding as [vocabulary, width]): a map says which part of a stored tensor that is and whether it is
stored transposed. Nothing is ever matched by its position in a file.
Sources: the modelling code of transformers for Llama, Mistral, Qwen2, Qwen3, Qwen3-MoE, OLMoE, Gemma 1 to 3 and Phi-3.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxpost.formats import starter
from jaxpost.formats.safetensors import FormatError

OUTER = {"model.embed_tokens.weight": ("embed", False), "model.norm.weight": ("final_norm", False),
         "lm_head.weight": ("head", True)}
PROJECTIONS = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o", "gate_proj": "gate", "up_proj": "up",
               "down_proj": "down"}
NORMS = {"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm", "self_attn.q_norm": "q_norm",
         "self_attn.k_norm": "k_norm"}
SANDWICH = {**NORMS, "post_attention_layernorm": "attention_out_norm", "pre_feedforward_layernorm": "mlp_norm",
            "post_feedforward_layernorm": "mlp_out_norm"}  # Gemma 2 and 3 normalise the branches' outputs too
KINDS = ("q", "k", "v", "o", "gate", "up", "down", "router", "embed", "head")
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_EXPERT = re.compile(r"mlp\.experts\.(\d+)\.(gate|up|down)_proj\.weight")
_BUFFER = re.compile(r"model\.(?:layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
_BLOCK = 2**24  # bytes of a tensor that are compared at a time
_OURS = re.compile(r"layers/(\d+)/(?:experts/(\d+)/)?.+")


class UnknownArchitecture(FormatError):
    """Tensors that no map knows. `starter`: rules for `--map` that give each its nearest place, to be read and mended."""

    def __init__(self, source, unknown: Mapping[str, tuple[int, ...]]):
        first = next(iter(unknown))
        known = [*OUTER, *(f"model.layers.0.self_attn.{n}.weight" for n in PROJECTIONS)]
        near = difflib.get_close_matches(first, known, n=1)
        hint = f" (nearest known is {near[0]!r})" if near else ""
        super().__init__(f"{source.path}: no map for {len(unknown)} of {len(source.tensors)} tensors of "
                         f"{architecture(source)}, first {first!r}{hint}; give one with --map")
        self.starter = starter.rules(unknown)


def architecture(source) -> str:
    """What config.json calls the model, for a message."""
    named = source.config.get("architectures")
    named = named[0] if isinstance(named, list) and named else source.config.get("model_type")
    return f"architecture {str(named)[:60]}" if named else "an architecture that no config.json names"


@dataclass(frozen=True)
class Part:
    """One of our parameters inside a stored tensor: x[index][low:high], transposed if `transpose`; index None: x itself."""

    name: str
    tensor: str
    shape: tuple[int, ...]  # as ours, after transposition
    kind: str  # a matrix kind, "norm" or "bias", "other" for what no map knows better
    layer: int | None = None
    expert: int | None = None
    index: int | None = None  # position on the stored leading axis
    inner: int | None = None  # position on the axis after that: our own stacks of experts
    span: tuple[int, int] | None = None  # rows of what `index` left
    transpose: bool = False

    def read(self, source) -> np.ndarray:
        """The parameter in its stored dtype; reads no more than its own rows where they lie together."""
        if self.index is None:
            array = source.read(self.tensor, None if self.span is None else slice(*self.span))
        else:
            array = source.read(self.tensor, slice(self.index, self.index + 1))[0]
            array = array if self.inner is None else array[self.inner]
            array = array if self.span is None else array[slice(*self.span)]
        return array.T if self.transpose else array


def resolve(source, rules: Sequence[Mapping] = ()) -> dict[str, Part]:
    """Our name -> where it lies, for every tensor of a checkpoint: Hugging Face names, our own (Orbax), or a user's rules.

    A head that the configuration ties to the embedding is one parameter, counted once, whether it is stored or not; one that
    is stored and differs from the embedding stays a parameter of its own. Stored rotary frequencies (`buffers`) are none.

    Args:
      source: of `formats.open_checkpoint`.
      rules: as `read_rules` gives them; the first whose pattern matches a whole tensor name decides.

    Raises:
      FormatError: a tensor that no map knows, two tensors for one name, a fused tensor that the configuration does not fit.
    """
    tied = source.config.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise FormatError(f"{source.path}: config.json has tie_word_embeddings={str(tied)[:40]!r}; expected true or false (not "
                          "as text)")
    parts: dict[str, Part] = {}
    unknown: dict[str, tuple[int, ...]] = {}
    for tensor, entry in source.tensors.items():
        placed = _by_rule(tensor, tuple(entry.shape), rules)
        placed = _stored(tensor, tuple(entry.shape), source) if placed is None else placed
        if placed is None:
            unknown[tensor] = tuple(entry.shape)
            continue
        for part in placed:
            if part.name in parts:
                raise FormatError(f"{source.path}: {tensor!r} and {parts[part.name].tensor!r} both are {part.name!r}")
            parts[part.name] = part
    if unknown:
        raise UnknownArchitecture(source, unknown)
    if tied and "embed" in parts and "head" in parts and _same(source, parts["embed"], parts["head"]):
        del parts["head"]
    return parts


def _same(source, one: Part, other: Part) -> bool:
    """Whether two tensors are stored equal as values, NaN to NaN; reads both once, some rows at a time."""
    a, b = (source.tensors[part.tensor] for part in (one, other))
    if tuple(a.shape) != tuple(b.shape):
        return False
    rows = max(1, (len(a.shape) and a.shape[0] * _BLOCK // max(a.nbytes, 1)) or 1)
    cuts = [slice(first, min(first + rows, a.shape[0])) for first in range(0, a.shape[0], rows)] if a.shape else [None]
    return all(np.array_equal(*(np.asarray(source.read(part.tensor, cut), np.float64) for part in (one, other)), equal_nan=True)
               for cut in cuts)


def buffers(source) -> list[str]:
    """Tensors that hold no parameters: the rotary frequencies that old checkpoints store beside them."""
    return [tensor for tensor in source.tensors if _BUFFER.fullmatch(tensor)]


def _stored(tensor: str, shape: tuple[int, ...], source) -> list[Part] | None:
    if _BUFFER.fullmatch(tensor):
        return []
    if tensor in OUTER:
        name, transpose = OUTER[tensor]
        return [_part(name, tensor, shape, transpose=transpose)]
    if match := _LAYER.fullmatch(tensor):
        return _layer(int(match[1]), match[2], tensor, shape, source)
    if source.kind == "orbax":
        return _ours(tensor, shape)
    return None


def _part(name: str, tensor: str, shape: tuple[int, ...], *, index=None, inner=None, span=None, transpose=False) -> Part:
    parameter, place = name.split("/")[-1], _OURS.fullmatch(name)
    layer, expert = (None if number is None else int(number) for number in (place.groups() if place else (None, None)))
    module = parameter.removeprefix("shared_")  # of the expert that every token takes
    kind = module if module in KINDS else next((k for k in ("norm", "bias") if parameter.endswith(k)), "other")
    shape = shape[sum(position is not None for position in (index, inner)):]
    shape = shape if span is None else (span[1] - span[0], *shape[1:])
    return Part(name, tensor, shape[::-1] if transpose else shape, kind, layer, expert, index, inner, span, transpose)


def _layer(i: int, rest: str, tensor: str, shape: tuple[int, ...], source) -> list[Part] | None:
    """Parts of one tensor of a block; None for one that is not known."""
    here = f"layers/{i}"
    norms = SANDWICH if f"model.layers.{i}.pre_feedforward_layernorm.weight" in source.tensors else NORMS
    owner, _, leaf = rest.rpartition(".")
    if leaf == "weight" and owner in norms:
        return [_part(f"{here}/{norms[owner]}", tensor, shape)]
    module = owner.removeprefix("self_attn.").removeprefix("mlp.")
    if owner != module and module in PROJECTIONS and leaf in ("weight", "bias"):
        suffix = "" if leaf == "weight" else "_bias"
        return [_part(f"{here}/{PROJECTIONS[module]}{suffix}", tensor, shape, transpose=leaf == "weight")]
    if rest == "mlp.gate.weight":
        return [_part(f"{here}/router", tensor, shape, transpose=True)]
    if match := _EXPERT.fullmatch(rest):
        return [_part(f"{here}/experts/{match[1]}/{match[2]}", tensor, shape, transpose=True)]
    if rest in ("self_attn.qkv_proj.weight", "mlp.gate_up_proj.weight"):
        names, sizes = _fused(module, shape, tensor, source)
        return [_part(f"{here}/{n}", tensor, shape, span=span, transpose=True) for n, span in zip(names, _spans(sizes))]
    if rest in ("mlp.experts.gate_up_proj", "mlp.experts.down_proj") and len(shape) == 3:
        names = ("gate", "up") if rest.endswith("gate_up_proj") else ("down",)
        if shape[1] % len(names):
            raise FormatError(f"{source.path}: {tensor!r} of shape {shape} does not split into {' and '.join(names)}")
        spans = _spans([shape[1] // len(names)] * len(names))
        return [_part(f"{here}/experts/{e}/{n}", tensor, shape, index=e, span=span, transpose=True)
                for e in range(shape[0]) for n, span in zip(names, spans)]
    return None


def _fused(module: str, shape: tuple[int, ...], tensor: str, source) -> tuple[tuple[str, ...], list[int]]:
    """Names and row counts of what is stored as one matrix."""
    if module == "gate_up_proj":
        names, sizes = ("gate", "up"), [shape[0] // 2] * 2
    else:
        c = source.config
        try:
            heads = int(c["num_attention_heads"])
            kv = int(c.get("num_key_value_heads") or heads)
            each = int(c.get("head_dim") or c["hidden_size"] // heads)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise FormatError(f"{source.path}: {tensor!r} is fused; config.json does not say how many heads it has") from error
        names, sizes = ("q", "k", "v"), [heads * each, kv * each, kv * each]
    if sum(sizes) != shape[0]:
        raise FormatError(f"{source.path}: {tensor!r} has {shape[0]} rows; {' + '.join(names)} are {sum(sizes)}")
    return names, sizes


def _spans(sizes: Iterable[int]) -> list[tuple[int, int]]:
    ends = np.cumsum([0, *sizes]).tolist()
    return list(zip(ends[:-1], ends[1:]))


def _ours(tensor: str, shape: tuple[int, ...]) -> list[Part] | None:
    """Our own pytree: `layers/<parameter>` is stacked on a leading layer axis, matrices of experts on one more."""
    words = tensor.split("/")
    if words[0] == "layers" and len(words) == 2 and len(shape) == 4 and words[1] in ("gate", "up", "down"):
        return [_part(f"layers/{i}/experts/{e}/{words[1]}", tensor, shape, index=i, inner=e) for i, e in np.ndindex(shape[:2])]
    if words[0] == "layers" and len(words) == 2 and shape:
        return [_part(f"layers/{i}/{words[1]}", tensor, shape, index=i) for i in range(shape[0])]
    return [_part(tensor, tensor, shape)] if len(words) == 1 or _OURS.fullmatch(tensor) else None


def read_rules(path: str | Path) -> list[dict[str, Any]]:
    r"""A user's map: a JSON list of {"pattern": regular expression, "name": template, "transpose": bool}.

    A template may use the groups of the pattern: {"pattern": "h\\.(\\d+)\\.wq", "name": "layers/\\1/q", "transpose": true}.
    A rule whose name is null leaves the tensor out, on purpose.

    Raises:
      FormatError: not such a list; names the entry.
    """
    try:
        rules = json.loads(Path(path).read_text())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not JSON ({str(error)[:80]})") from error
    if not isinstance(rules, list):
        raise FormatError(f"{path}: expected a list of rules, found {type(rules).__name__}")
    for i, rule in enumerate(rules):
        if not isinstance(rule, dict) or not {"pattern", "name"} <= set(rule) <= {"pattern", "name", "transpose"}:
            raise FormatError(f"{path}: rule {i} needs pattern and name, and may have transpose; found {str(rule)[:80]}")
        try:
            re.compile(rule["pattern"])
        except (re.error, TypeError) as error:
            raise FormatError(f"{path}: rule {i}: {rule['pattern']!r} is no regular expression ({error})") from error
        if not isinstance(rule["name"], str | None):
            raise FormatError(f"{path}: rule {i}: the name is {rule['name']!r}; expected text, or null to leave the tensor out")
        if not isinstance(rule.get("transpose", False), bool):  # the text "false" would be true
            raise FormatError(f"{path}: rule {i}: transpose is {rule['transpose']!r}; expected true or false")
    return rules


def _by_rule(tensor: str, shape: tuple[int, ...], rules: Sequence[Mapping]) -> list[Part] | None:
    """Parts by the first rule that matches: none for one that is left out, None where no rule matches."""
    if (i := first_rule(tensor, rules)) is None:
        return None
    rule = rules[i]
    if rule["name"] is None:
        return []
    try:
        name = re.fullmatch(rule["pattern"], tensor).expand(rule["name"])
    except (re.error, IndexError) as error:
        raise FormatError(f"--map: {rule['name']!r} does not fit {rule['pattern']!r} ({error})") from error
    if name.startswith("layers/") and not _OURS.fullmatch(name):
        raise FormatError(f"--map: {tensor!r} becomes {name!r}; expected layers/<number>/<parameter>")
    return [_part(name, tensor, shape, transpose=bool(rule.get("transpose", False)))]


def first_rule(tensor: str, rules: Sequence[Mapping]) -> int | None:
    """Which rule of a user's map names a tensor: the first whose pattern is the whole of its name; None where none is."""
    return next((i for i, rule in enumerate(rules) if re.fullmatch(rule["pattern"], tensor)), None)
