"""What a config.json of each family may say: every known key with its type and range; what changes nothing is listed.

A key that is in neither list is refused by name, as are values that the decoder does not have: what a configuration says is
either done or said. Source: the configuration classes of transformers for Llama, Mistral, Qwen2, Qwen3, OLMoE and Qwen3-MoE.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxpost.formats import FormatError


class Rule(NamedTuple):
    """A test of a value and what it expects, in words."""

    holds: Callable[[Any], bool]
    expected: str


def _count(high: int, low: int = 1, null: bool = False) -> Rule:
    return Rule(lambda x: (null and x is None) or (type(x) is int and low <= x <= high),
                f"a whole number from {low} to {high:,}" + (" or null" if null else ""))


def _number(low: float, high: float) -> Rule:
    return Rule(lambda x: type(x) in (int, float) and low <= x <= high and math.isfinite(x),
                f"a number from {low:g} to {high:g}")


def _only(*values: object) -> Rule:
    return Rule(lambda x: any(type(x) is type(value) and x == value for value in values),
                " or ".join("null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
                            for value in values))


FLAG = Rule(lambda x: type(x) is bool, "true or false (not as text)")
_ANYTHING = Rule(lambda x: True, "anything")
_LAYERS, _WIDTH = _count(2_000), _count(2**18)

ARCHITECTURE = {  # of every family
    "vocab_size": _count(2**24), "hidden_size": _WIDTH, "num_hidden_layers": _LAYERS, "num_attention_heads": _count(4096),
    "num_key_value_heads": _count(4096), "head_dim": _count(4096), "intermediate_size": _count(2**22),
    "rms_norm_eps": _number(1e-12, 0.1), "rope_theta": _number(1.0, 1e12),
    "tie_word_embeddings": FLAG, "hidden_act": _only("silu", None), "attention_bias": _only(False, None),
    "partial_rotary_factor": _only(None, 1, 1.0), "quantization_config": _only(None), "is_encoder_decoder": _only(False, None),
    "add_cross_attention": _only(False, None), "rope_interleaved": _only(False, None),
    "pruned_heads": _only({}, None), "use_mrope": _only(False, None),
    "mlp_bias": _only(False, None), "use_sliding_window": _only(False, None), "clip_qkv": _only(None),
    "decoder_sparse_step": _only(1, None), "mlp_only_layers": _only([], None), "n_shared_experts": _only(None, 0),
    "shared_expert_intermediate_size": _only(None, 0), "model_type": Rule(lambda x: isinstance(x, str), "text"),
    "layer_types": Rule(lambda x: x is None or (isinstance(x, list) and set(map(str, x)) <= {"full_attention"}),
                        "'full_attention' for every layer, or null"),
    "max_position_embeddings": _count(2**31, null=True),
}
MIXTURE = {"num_experts": _count(4096), "num_local_experts": _count(4096), "num_experts_per_tok": _count(4096),
           "norm_topk_prob": FLAG}
FAMILY = {"llama": {"num_key_value_heads": _count(4096, null=True), "head_dim": _count(4096, null=True)},
          # transformers reads a Mistral that lists layer_types as Ministral, which is another model
          "mistral": {"sliding_window": _only(None), "head_dim": _count(4096, null=True), "layer_types": _only(None)},
          "olmoe": MIXTURE,
          "qwen3_moe": {**MIXTURE, "moe_intermediate_size": _count(2**22), "layer_types": _only(None)}}
ROPE = ("rope_parameters", "rope_scaling")
_ROPE_KEYS = {"rope_type": _only("default"), "type": _only("default"), "rope_theta": _number(1.0, 1e12),
              "partial_rotary_factor": _only(None, 1, 1.0)}

HARMLESS = frozenset("""
    _name_or_path _commit_hash is_llama_config
    architectures transformers_version torch_dtype dtype use_cache initializer_range attention_dropout
    hidden_dropout bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id decoder_start_token_id tokenizer_class
    model_max_length max_sequence_length pretraining_tp max_window_layers output_router_logits router_aux_loss_coef
    _attn_implementation _attn_implementation_autoset attn_implementation use_flash_attn unsloth_fixed unsloth_version
    transformers.js_config id2label label2id num_labels problem_type finetuning_task return_dict use_return_dict
    output_hidden_states output_attentions chunk_size_feed_forward torchscript use_bfloat16 tf_legacy_loss is_decoder
    cross_attention_hidden_size tie_encoder_decoder prefix task_specific_params gradient_checkpointing
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p
    repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences
    output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    """.split())  # names, training, generation, bookkeeping: none of it changes a logit
_WINDOW = frozenset({"qwen2", "qwen3", "qwen3_moe"})  # read sliding_window only where use_sliding_window says so
REQUIRED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def check(document: Mapping[str, Any], family: str, where: str) -> None:
    """Refuse a config.json that says something the decoder would not do.

    Raises:
      FormatError: a key of no list, a value of another type or out of range, a required key that is missing; one line that
        names the key, its value, what is expected and the nearest known key.
    """
    rules = {**ARCHITECTURE, **FAMILY.get(family, {})}
    if family in _WINDOW:
        rules["sliding_window"] = _ANYTHING
    for key, value in document.items():
        if key in ROPE:
            _rope(key, value, where)
        elif key in rules:
            _require(rules[key], key, value, where)
        elif key not in HARMLESS:
            near = difflib.get_close_matches(key, [*rules, *ROPE, *HARMLESS], n=1)
            raise FormatError(f"{where}: {key!r} is not a key of {family!r} that is known here ({str(value)[:40]})"
                              + (f"; nearest known: {near[0]!r}" if near else "")
                              + "; take it out if it changes nothing")
    for key in REQUIRED:
        if key not in document and not (key == "intermediate_size" and family == "qwen3_moe"):
            raise FormatError(f"{where}: {key!r} is missing; the architecture needs it ({rules[key].expected})")
    _agree(document, family, where)


def _require(rule: Rule, key: str, value: object, where: str) -> None:
    if not rule.holds(value):
        raise FormatError(f"{where}: {key}={str(value)[:60] if not isinstance(value, str) else repr(value[:60])} is not "
                          f"supported; expected {rule.expected}")


def _rope(key: str, value: object, where: str) -> None:
    """An object of rotary parameters, in either spelling of its type: the plain embedding only."""
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise FormatError(f"{where}: {key}={str(value)[:60]} is not supported; expected an object or null")
    for name, inner in value.items():
        if name not in _ROPE_KEYS:
            kind = value.get("rope_type", value.get("type"))
            raise FormatError(f"{where}: {key}.{name}={str(inner)[:40]} is not supported (rope_type {str(kind)[:20]!r}); "
                              f"only the plain embedding is: {', '.join(_ROPE_KEYS)}")
        _require(_ROPE_KEYS[name], f"{key}.{name}", inner, where)


def _agree(document: Mapping[str, Any], family: str, where: str) -> None:
    """Refuse what is said twice in different words, and lists of another length."""
    if document.get("rope_parameters") and document.get("rope_scaling"):
        raise FormatError(f"{where}: has rope_parameters and rope_scaling; they are two spellings of one thing: keep one")
    pairs = [("rope_theta", document.get("rope_theta"), f"{key}.rope_theta", (document.get(key) or {}).get("rope_theta"))
             for key in ROPE]
    pairs.append(("num_experts", document.get("num_experts"), "num_local_experts", document.get("num_local_experts")))
    for one, a, other, b in pairs:
        if a is not None and b is not None and a != b:
            raise FormatError(f"{where}: {one}={a} and {other}={b}; they are two spellings of one thing: keep one")
    types = document.get("layer_types")
    if types is not None and len(types) != document["num_hidden_layers"]:
        raise FormatError(f"{where}: layer_types has {len(types)} entries; expected num_hidden_layers="
                          f"{document['num_hidden_layers']}")
