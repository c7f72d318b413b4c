"""The architecture that a config.json of transformers describes, and the config.json of an architecture.

Families: Llama, Mistral without a sliding window, Qwen2 and 2.5, Qwen3, OLMoE, Qwen3-MoE with experts in every layer.
Source: the modelling code of transformers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxpost.formats import FormatError
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
_REFUSED = {  # key of config.json -> values that mean the plain architecture
    "hidden_act": ("silu", None), "attention_bias": (False, None), "mlp_bias": (False, None), "rope_scaling": (None,),
    "use_sliding_window": (False, None), "clip_qkv": (None,), "decoder_sparse_step": (1, None), "mlp_only_layers": ([], None),
    "shared_expert_intermediate_size": (None, 0), "n_shared_experts": (None, 0),
}
_RUNTIME = {"value_head": False, "capacity": 0.0}  # fields that no config.json knows: training's, not the weights'


def config_of(found: Mapping[str, Any], where: str = "config.json") -> TransformerConfig:
    """The architecture that a config.json describes.

    Raises:
      FormatError: a family or an option that the decoder does not have; it names the key, its value and what is known.
    """
    family = found.get("model_type")
    if family not in FAMILIES:
        why = f": {_OTHERS[family]}" if family in _OTHERS else ""
        raise FormatError(f"{where}: model_type {family!r} is not known{why}; known: {', '.join(FAMILIES)}")
    rope = found.get("rope_parameters") or {}
    options = {**found, "rope_scaling": found.get("rope_scaling") or _scaled(rope)}
    for key, plain in _REFUSED.items():
        if options.get(key) not in plain:
            raise FormatError(f"{where}: {key}={options[key]!r} is not supported; expected {plain[0]!r}")
    if family == "mistral" and (window := found.get("sliding_window", 4096)) is not None:  # what an absent key means
        raise FormatError(f"{where}: sliding_window={window!r} is not supported; expected null")
    try:
        heads, width = int(found["num_attention_heads"]), int(found["hidden_size"])
        return TransformerConfig(
            vocab=int(found["vocab_size"]), width=width, layers=int(found["num_hidden_layers"]), heads=heads,
            kv_heads=int(found.get("num_key_value_heads") or heads), head_dim=int(found.get("head_dim") or width // heads),
            ff=int(found[_EXPERT_WIDTH.get(family, "intermediate_size")]),
            norm_eps=float(found.get("rms_norm_eps", _NORM_EPS.get(family, 1e-6))),
            rope_theta=float(rope.get("rope_theta") or found.get("rope_theta") or 10_000.0),
            tied=bool(found.get("tie_word_embeddings", False)), **FAMILIES[family][1],
            **(_mixture(found) if family in _EXPERT_WIDTH else {}))
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise FormatError(f"{where}: {error!r} while reading the architecture") from error
    except ValueError as error:
        raise FormatError(f"{where}: {error}") from error


def _mixture(found: Mapping[str, Any]) -> dict[str, Any]:
    experts = int(found["num_local_experts"] if "num_local_experts" in found else found["num_experts"])
    if experts < 1:
        raise ValueError(f"num_experts={experts} must be at least 1")
    return {"experts": experts, "experts_per_token": int(found["num_experts_per_tok"]),
            "renormalise": bool(found.get("norm_topk_prob", False))}


def _scaled(rope: Mapping) -> Mapping | None:
    return None if rope.get("rope_type", "default") == "default" else rope


def describe(config: TransformerConfig, like: str | Path | None, dtype: str) -> dict:
    """config.json: that of `like`, or one made from the architecture.

    Raises:
      FormatError: `like` is another architecture, or no family has this one.
    """
    if like is not None:
        found = json.loads((Path(like) / "config.json").read_text())
        theirs = config_of(found, f"{like}/config.json")
        same = dataclasses.replace(config, compute_dtype=theirs.compute_dtype, **_RUNTIME)
        if theirs != same:
            differing = next(f.name for f in dataclasses.fields(theirs) if getattr(theirs, f.name) != getattr(same, f.name))
            raise FormatError(f"{like}: its {differing} is {getattr(theirs, differing)!r}, the policy's "
                              f"{getattr(same, differing)!r}")
        return {**found, "dtype": dtype} if "dtype" in found else {**found, "torch_dtype": dtype}
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
