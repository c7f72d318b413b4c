"""A first `--map` for an architecture that no built-in map knows: every unmatched tensor with the nearest place of ours.

What is guessed is said to be guessed: a starter is to be read before it is used. Fused projections keep a name of their own and
are compared whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

_NORM = ("norm", "ln", "layernorm")
_PLACES = (  # of ours -> words of a module's path that mean it, the surest first
    ("router", ("router", "gate_linear", "block_sparse_moe.gate", "mlp.gate")),
    ("qkv", ("qkv", "query_key_value", "c_attn", "wqkv", "in_proj", "qkv_proj", "attn.attn")),
    ("gate_up", ("gate_up_proj", "fc_gate_up")),
    ("q", ("q_proj", "wq", "query", "q_lin", "to_q", "q")),
    ("k", ("k_proj", "wk", "key", "k_lin", "to_k", "k")),
    ("v", ("v_proj", "wv", "value", "v_lin", "to_v", "v")),
    ("o", ("o_proj", "wo", "out_proj", "attn.c_proj", "attention.dense", "self_attention.dense", "attention.output.dense",
           "attn.proj", "out_lin", "to_out", "o")),
    ("gate", ("gate_proj", "w1", "mlp.linear_v")),
    ("up", ("up_proj", "w3", "c_fc", "fc1", "fc_in", "dense_h_to_4h", "intermediate.dense", "lin1", "wi")),
    ("down", ("down_proj", "w2", "mlp.c_proj", "fc2", "fc_out", "dense_4h_to_h", "output.dense", "lin2", "mlp.proj")),
)
_OUTER = (("embed", ("embed_tokens", "wte", "tok_embeddings", "word_embeddings", "embed_in", "embedding", "embeddings")),
          ("head", ("lm_head", "embed_out", "output", "unembed", "head")),
          ("final_norm", ("norm", "ln_f", "final_layer_norm", "final_layernorm", "model.norm")))
_FIRST, _SECOND = ("input_layernorm", "ln_1", "attention_norm", "ln1", "norm1", "pre_attention"), (
    "post_attention_layernorm", "ln_2", "ffn_norm", "ln2", "norm2", "pre_mlp")


def rules(tensors: Mapping[str, Sequence[int]]) -> list[dict]:
    """Rules as `names.read_rules` takes them, one for all layers of a parameter, in the order of the file.

    Args:
      tensors: stored name -> shape, of those that no map knows.
    """
    flipped = _stored_inputs_first(tensors)
    by_pattern: dict[str, dict] = {}
    for tensor, shape in tensors.items():
        pattern, groups = _pattern(tensor)
        if pattern not in by_pattern:
            name = place(tensor, groups)
            matrix = len(shape) == 2 and not name.endswith("embed")
            by_pattern[pattern] = {"pattern": pattern, "name": name, "transpose": bool(matrix and not flipped)}
    taken: dict[str, str] = {}
    for rule in by_pattern.values():  # two tensors in one place: the second keeps a name of its own
        if taken.setdefault(rule["name"], rule["pattern"]) != rule["pattern"]:
            rule["name"] = _own(rule["pattern"])
    return list(by_pattern.values())


def _pattern(tensor: str) -> tuple[str, int]:
    """(regular expression in which every number between dots is a group, how many groups)."""
    words = [r"(\d+)" if word.isdigit() else re.escape(word) for word in tensor.split(".")]
    return r"\.".join(words), sum(word.isdigit() for word in tensor.split("."))


def place(tensor: str, groups: int = 1) -> str:
    r"""Where a tensor most likely belongs, as a template: "layers/\1/q", "layers/\1/experts/\2/up", "embed", ...

    >>> print(place("transformer.h.0.mlp.c_fc.weight"))
    layers/\1/up
    """
    words = tensor.split(".")
    leaf = words[-1]
    module = ".".join(word for word in (words[:-1] if leaf in ("weight", "bias") else words) if not word.isdigit())
    suffix = "_bias" if leaf == "bias" else ""
    last = module.rpartition(".")[2].lower()
    if not groups:
        known_as = next((name for name, known in _OUTER if _means(module, known)), None)
        return (known_as or module.replace(".", "_")) + suffix
    if any(last == word or last.endswith(("_" + word, word + "s")) or word in last for word in _NORM):
        kind = "attention_norm" if last in _FIRST else "mlp_norm" if last in _SECOND else f"{_short(module)}_norm"
        return rf"layers/\1/{kind}{suffix}"
    known_as = next((name for name, known in _PLACES if _means(module, known)), _short(module))
    return (rf"layers/\1/experts/\2/{known_as}" if groups > 1 and "expert" in module else rf"layers/\1/{known_as}") + suffix


def _means(module: str, known: Iterable[str]) -> bool:
    module = module.lower()
    return any(module == word or module.endswith("." + word) for word in known)


def _short(module: str) -> str:
    return re.sub(r"\W+", "_", ".".join(module.split(".")[-2:])).strip("_") or "parameter"


def _own(pattern: str) -> str:
    """A name made of the whole path of a tensor."""
    groups = pattern.count(r"(\d+)")
    words = [word for word in re.sub(r"\(\\d\+\)", "", pattern.replace(r"\.", ".")).replace("\\", "").split(".") if word]
    return (r"layers/\1/" if groups else "") + "_".join(words)


def _stored_inputs_first(tensors: Mapping[str, Sequence[int]]) -> bool:
    """Whether matrices are stored as [inputs, outputs] (GPT-2's Conv1D): an up-projection is then wider than high."""
    ups = [shape for tensor, shape in tensors.items() if len(shape) == 2 and place(tensor).endswith("/up")]
    return bool(ups) and all(shape[1] > shape[0] for shape in ups)
