"""config.json against transformers, key by key: the same logits, or refused in one line. Never other logits without a word."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models
from jaxpost.formats import FormatError
from jaxpost.models import hf

torch = pytest.importorskip("torch", reason="pip install -e '.[test,parity]'")
transformers = pytest.importorskip("transformers", reason="pip install -e '.[test,parity]'")

pytestmark = pytest.mark.parity

TINY = {"vocab_size": 19, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 1}
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2}
FAMILIES = {"llama": {}, "mistral": {"sliding_window": None}, "qwen2": {}, "qwen3": {"head_dim": 12}, "olmoe": MIXTURE,
            "qwen3_moe": {"head_dim": 12, "moe_intermediate_size": 24, **MIXTURE}}
ABSENT = object()
CHANGES = [  # of every family
    {}, {"num_key_value_heads": None}, {"num_key_value_heads": 4}, {"num_key_value_heads": ABSENT}, {"head_dim": 6},
    {"head_dim": None}, {"head_dim": ABSENT}, {"rms_norm_eps": 0.01}, {"rms_norm_eps": ABSENT}, {"hidden_size": 48},
    {"intermediate_size": 24}, {"num_hidden_layers": 1}, {"num_attention_heads": 2}, {"vocab_size": 23},
    {"rope_theta": 50.0}, {"rope_theta": None}, {"rope_parameters": {"rope_theta": 50.0, "rope_type": "default"}},
    {"rope_parameters": {"rope_theta": 50.0, "type": "default"}}, {"rope_parameters": {"rope_theta": 50.0}},
    {"rope_parameters": {"rope_type": "default"}, "rope_theta": 50.0}, {"rope_parameters": {"type": "linear", "factor": 4.0}},
    {"rope_parameters": {"rope_theta": 50.0}, "rope_theta": 500.0},
    {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 50.0}},
    {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 50.0}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5}},
    {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 50.0, "original_max_position_embeddings": 16}},
    {"rope_parameters": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 8, "rope_theta": 50.0}},
    {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 50.0}},
     "layer_types": ["full_attention"] * 2},
    {"rope_scaling": None}, {"rope_scaling": {"type": "default"}},
    {"rope_scaling": {"rope_type": "default"}, "rope_theta": 50.0},
    {"rope_scaling": {"type": "linear", "factor": 4.0}}, {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    {"rope_scaling": {"rope_type": "default"}, "rope_parameters": {"rope_theta": 50.0}},
    {"partial_rotary_factor": 0.5}, {"tie_word_embeddings": True}, {"tie_word_embeddings": False}, {"hidden_act": "gelu"},
    {"hidden_act": "silu"}, {"attention_bias": True}, {"mlp_bias": True}, {"sliding_window": 4},
    {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 0}, {"use_sliding_window": False},
    {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4, "use_sliding_window": True},
    {"layer_types": ["full_attention"] * 2}, {"max_window_layers": 1}, {"pretraining_tp": 2}, {"attention_dropout": 0.3},
    {"initializer_range": 0.5}, {"max_position_embeddings": 8}, {"output_router_logits": True}, {"router_aux_loss_coef": 0.5},
    {"clip_qkv": 0.1}, {"norm_topk_prob": True}, {"num_experts_per_tok": 1}, {"num_experts_per_tok": 4}, {"num_experts": 3},
    {"num_local_experts": 3}, {"moe_intermediate_size": 16}, {"decoder_sparse_step": 2}, {"mlp_only_layers": [0]},
    {"use_cache": False}, {"torch_dtype": "float32"}, {"dtype": "float32"}, {"bos_token_id": 3}, {"eos_token_id": [1, 2]},
    {"pad_token_id": None}, {"pad_token_id": 3}, {"attn_logit_softcapping": 5.0}, {"logits_scaling": 2.0}, {"qk_norm": True},
    {"quantization_config": {"quant_method": "gptq", "bits": 4}}, {"architectures": None}, {"temperature": 0.5},
    {"is_decoder": True}, {"chunk_size_feed_forward": 4},
]


def theirs(about, place):
    """(their model, None) or (None, why they do not build it); the directory then holds weights and `about`."""
    place.mkdir()
    (place / "config.json").write_text(json.dumps(about))
    torch.manual_seed(0)
    try:
        read = transformers.AutoConfig.from_pretrained(place, attn_implementation="eager")
        model = transformers.AutoModelForCausalLM.from_config(read, dtype=torch.float32).eval()
    except Exception as error:  # whatever their validation raises
        return None, error
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape) * (0.3 if p.ndim == 1 else p.shape[-1] ** -0.5) + ("norm" in name))
    model.save_pretrained(place)
    (place / "config.json").write_text(json.dumps(about))
    return model, None


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_is_read_as_transformers_reads_it_or_refused(family, tmp_path):
    tokens = np.random.default_rng(3).integers(2, TINY["vocab_size"], (2, 13))
    wrong, seen = [], {"equal": 0, "refused": 0, "refused by both": 0}
    for i, change in enumerate(CHANGES):
        about = {"model_type": family, **TINY, **FAMILIES[family], **change}
        about = {key: value for key, value in about.items() if value is not ABSENT}
        model, why = theirs(about, tmp_path / str(i))
        try:
            c, params = hf.load(tmp_path / str(i)) if model is not None else (hf.config_of(about), None)
        except FormatError as error:
            assert "\n" not in str(error)
            seen["refused" if model is not None else "refused by both"] += 1
            assert change, error  # the plain configuration is read
            continue
        if model is None:
            wrong.append(f"{change}: read here, and transformers refuses it: {str(why).splitlines()[0]}")
            continue
        with jax.default_matmul_precision("highest"):
            got = np.asarray(models.apply(c, params, jnp.asarray(tokens), valid_BxS=jnp.ones(tokens.shape, bool)).logits)
        expected = model(input_ids=torch.tensor(tokens)).logits.detach().numpy()
        error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
        if not error <= 1e-5:
            wrong.append(f"{change}: logits differ by {error:.2e}")
        seen["equal"] += 1
    print(f"{family}: {len(CHANGES)} configurations: {seen}")
    assert not wrong, "\n".join(wrong)
    assert seen["equal"] >= 25
