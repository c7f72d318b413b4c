"""The architecture that a config.json of transformers describes, and the config.json of an architecture.

Families: Llama, Mistral without a sliding window, Qwen2 and 2.5, Qwen3, OLMoE, Qwen3-MoE with experts in every layer.
Source: the modelling code of transformers.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxpost.formats import FormatError, directory
from jaxpost.models import hf_schema
from jaxpost.models.declare import TransformerConfig

FAMILIES = {  # model_type -> (class, fields of the architecture that are the family's own)
    "llama": ("LlamaForCausalLM", {}), "mistral": ("MistralForCausalLM", {}),
    "qwen2": ("Qwen2ForCausalLM", {"qkv_bias": True}), "qwen3": ("Qwen3ForCausalLM", {"qk_norm": True}),
    "olmoe": ("OlmoeForCausalLM", {"qk_norm": True, "qk_norm_joint": True}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {"qk_norm": True}),
}
_EXPERT_WIDTH = {"olmoe": "intermediate_size", "qwen3_moe": "moe_intermediate_size"}  # of one expert; keys are the mixtures
_NORM_EPS = {"olmoe": 1e-5}  # what an absent rms_norm_eps means; 1e-6 elsewhere
_OTHERS = {  # mixtures that are not ours, and why
    "qwen2_moe": "its shared expert is weighted by a gate of its own", "qwen3_next": "its shared expert is weighted by a gate "
    "of its own", "deepseek_v2": "it has shared experts and dense layers between", "deepseek_v3": "it has shared experts and "
    "dense layers between", "glm4_moe": "it has shared experts and dense layers between",
    "mixtral": "its experts have other names",
}
_ABSENT = {  # family -> what an absent key means, where that is not "as many as query heads" or width / heads
    "mistral": {"num_key_value_heads": 8}, "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128}, "qwen3_moe": {"num_key_value_heads": 4},
}
# Fields that no config.json knows: training's, not the weights'.
_RUNTIME = {"value_head": False, "capacity": 0.0, "remat": "none", "logprob_chunk": 0, "expert_products": "dense"}


def config_of(document: Mapping[str, Any], where: str = "config.json") -> TransformerConfig:
    """The architecture that a config.json describes.

    Raises:
      FormatError: a family, a key or a value that the decoder does not have (`hf_schema`); it names the key, its value and what
        is known. Sizes out of range are refused before anything is made of them.
    """
    if not isinstance(document, Mapping):
        raise FormatError(f"{where}: expected an object, found {type(document).__name__}")
    family = document.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        why = f": {_OTHERS[family]}" if isinstance(family, str) and family in _OTHERS else ""
        near = difflib.get_close_matches(str(family), FAMILIES, n=1)
        hint = f" (nearest is {near[0]!r})" if near else ""
        raise FormatError(f"{where}: model_type {str(family)[:60]!r} is not known{why}{hint}; known: {', '.join(FAMILIES)}")
    hf_schema.check(document, family, where)
    if family == "mistral" and "sliding_window" not in document:
        raise FormatError(f"{where}: sliding_window is absent, which means 4096 and is not supported; expected null")
    absent = _ABSENT.get(family, {})
    heads, width = document["num_attention_heads"], document["hidden_size"]
    kv = document.get("num_key_value_heads", absent.get("num_key_value_heads")) or heads
    head_dim = document.get("head_dim", absent.get("head_dim")) or width // heads
    if not document.get("head_dim") and head_dim * heads != width and "head_dim" not in absent:
        raise FormatError(f"{where}: num_attention_heads={heads} does not divide hidden_size={width}, and head_dim is absent")
    rope = document.get("rope_parameters") or document.get("rope_scaling") or {}
    theta = rope.get("rope_theta")
    theta = document.get("rope_theta") if theta is None else theta
    ff, mixture = _width_of_one(document, family, where), _mixture(document, where) if family in _EXPERT_WIDTH else {}
    try:
        return TransformerConfig(
            vocab=document["vocab_size"], width=width, layers=document["num_hidden_layers"], heads=heads, kv_heads=kv,
            head_dim=head_dim, ff=ff,
            norm_eps=float(document.get("rms_norm_eps", _NORM_EPS.get(family, 1e-6))),
            rope_theta=10_000.0 if theta is None else float(theta), tied=document.get("tie_word_embeddings", False),
            **FAMILIES[family][1], **mixture)
    except ValueError as error:  # what the architecture itself refuses
        raise FormatError(f"{where}: {error}") from error


def _width_of_one(document: Mapping[str, Any], family: str, where: str) -> int:
    key = _EXPERT_WIDTH.get(family, "intermediate_size")
    if key not in document:
        raise FormatError(f"{where}: {key!r} is missing; the architecture needs it")
    return document[key]


def _mixture(document: Mapping[str, Any], where: str) -> dict[str, Any]:
    experts = document.get("num_local_experts", document.get("num_experts"))
    for key, value in (("num_experts", experts), ("num_experts_per_tok", document.get("num_experts_per_tok"))):
        if value is None:
            raise FormatError(f"{where}: {key!r} is missing; a mixture of experts needs it")
    return {"experts": experts, "experts_per_token": document["num_experts_per_tok"],
            "renormalise": document.get("norm_topk_prob", False)}


def describe(config: TransformerConfig, like: str | Path | None, dtype: str) -> dict:
    """config.json: that of `like`, or one made from the architecture.

    Raises:
      FormatError: `like` is another architecture, or no family has this one.
    """
    if like is not None:
        theirs_json = directory.read_object(Path(like) / "config.json")
        theirs = config_of(theirs_json, f"{like}/config.json")
        same = dataclasses.replace(config, compute_dtype=theirs.compute_dtype, **_RUNTIME)
        if theirs != same:
            differing = next(f.name for f in dataclasses.fields(theirs) if getattr(theirs, f.name) != getattr(same, f.name))
            raise FormatError(f"{like}: its {differing} is {getattr(theirs, differing)!r}, the policy's "
                              f"{getattr(same, differing)!r}")
        return {**theirs_json, "dtype": dtype} if "dtype" in theirs_json else {**theirs_json, "torch_dtype": dtype}
    family = _family(config)
    about = {"architectures": [FAMILIES[family][0]], "model_type": family, "vocab_size": config.vocab,
             "hidden_size": config.width, "intermediate_size": config.ff, "num_hidden_layers": config.layers,
             "num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads, "head_dim": config.head_dim,
             "rms_norm_eps": config.norm_eps, "rope_theta": config.rope_theta,
             "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
             "tie_word_embeddings": config.tied, "hidden_act": "silu", "dtype": dtype}
    if config.experts:
        about |= {_EXPERT_WIDTH[family]: config.ff, "num_experts": config.experts, "norm_topk_prob": config.renormalise,
                  "num_experts_per_tok": config.experts_per_token}
    return about


def _family(config: TransformerConfig) -> str:
    if config.shared_ff:
        raise FormatError(f"shared_ff={config.shared_ff}: no family has an expert that every token takes unweighted")
    if config.qk_norm_joint and config.heads * config.head_dim != config.width:
        raise FormatError(f"olmoe has heads * head_dim = hidden_size; found {config.heads} * {config.head_dim} and "
                          f"{config.width}")
    own = {name: getattr(config, name) for name in ("qkv_bias", "qk_norm", "qk_norm_joint")}
    for family, (_, fields) in FAMILIES.items():
        if (family in _EXPERT_WIDTH) == bool(config.experts) and {n: fields.get(n, False) for n in own} == own:
            return family
    known = "; ".join(f"{family} has {', '.join(fields) or 'none of these'}" for family, (_, fields) in FAMILIES.items()
                      if (family in _EXPERT_WIDTH) == bool(config.experts))
    raise FormatError(f"no family {'of experts ' if config.experts else ''}has "
                      f"{', '.join(f'{n}={x}' for n, x in own.items())}: {known}")
