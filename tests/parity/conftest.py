"""Tiny Hugging Face models, their weights as our parameter tree, and one measure of disagreement."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models

FAMILIES = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {"qkv_bias": True, "tied": True}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {"qk_norm": True, "head_dim": 12}),  # heads * head_dim != width
    "olmoe": ("OlmoeConfig", "OlmoeForCausalLM", {"qk_norm": True, "qk_norm_joint": True, "experts": 6}),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", {"qk_norm": True, "head_dim": 12, "experts": 5,
                                                            "experts_per_token": 3, "renormalise": True}),
}
PAD, EOS, VOCAB = 0, 1, 13


def build(family, seed=0):
    """(torch model with random weights, gains and biases, our config) of a family."""
    import torch
    import transformers

    config_name, model_name, parts = FAMILIES[family]
    c = models.TransformerConfig(**{"vocab": VOCAB, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8,
                                    "ff": 40, "rope_theta": 5_000.0, "norm_eps": 1e-5, **parts})
    shape = {} if family in ("qwen2", "olmoe") else {"head_dim": c.head_dim}
    if c.experts:
        shape |= {"num_experts": c.experts, "num_experts_per_tok": c.experts_per_token, "norm_topk_prob": c.renormalise}
        shape |= {"moe_intermediate_size": c.ff} if family == "qwen3_moe" else {}
    config = getattr(transformers, config_name)(
        vocab_size=c.vocab, hidden_size=c.width, num_hidden_layers=c.layers, num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads, intermediate_size=c.ff, rms_norm_eps=c.norm_eps, tie_word_embeddings=c.tied,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta}, max_position_embeddings=128,
        pad_token_id=PAD, eos_token_id=EOS, bos_token_id=None, attn_implementation="eager", **shape)
    model = getattr(transformers, model_name)(config).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            scale = 1.0 if "embed" in name else 0.3 if p.ndim == 1 else p.shape[-1] ** -0.5
            noise = scale * torch.randn(p.shape, generator=generator)
            p.copy_(noise + 1 if "norm" in name else noise)
    return model, c


def tree(named, c):
    """Our tree of `named` torch tensors (weights or gradients): [out, in] becomes [in, out], layers are stacked.

    Experts, which transformers keeps in one [X, out, in] with gate and up one after the other, are parted first.
    """
    found = {name: np.array(x.detach().numpy()) for name, x in named}
    matrices = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
                **({"router": "mlp.gate"} if c.experts else
                   {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"})}
    vectors = {"attention_norm": "input_layernorm.weight", "mlp_norm": "post_attention_layernorm.weight"}
    vectors |= {f"{n}_bias": f"self_attn.{n}_proj.bias" for n in "qkv"} if c.qkv_bias else {}
    vectors |= {f"{n}_norm": f"self_attn.{n}_norm.weight" for n in "qk"} if c.qk_norm else {}

    def stacked(name):
        return np.stack([found.pop(f"model.layers.{i}.{name}") for i in range(c.layers)])

    layers = {ours: stacked(f"{theirs}.weight").transpose(0, 2, 1) for ours, theirs in matrices.items()}
    layers |= {ours: stacked(theirs) for ours, theirs in vectors.items()}
    if c.experts:
        layers["gate"], layers["up"] = np.split(stacked("mlp.experts.gate_up_proj").swapaxes(2, 3), 2, axis=3)
        layers["down"] = stacked("mlp.experts.down_proj").swapaxes(2, 3)
    out = {"embed": found.pop("model.embed_tokens.weight"), "final_norm": found.pop("model.norm.weight")}
    out["layers"] = layers
    if not c.tied:
        out["head"] = found.pop("lm_head.weight").T
    found.pop("lm_head.weight", None)
    assert not found, f"Hugging Face parameters without a place: {sorted(found)}"
    return jax.tree.map(jnp.asarray, out)


def normwise(got, expected):
    """||got - expected|| / ||expected|| over all leaves, in float64."""
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64))
             for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)]
    return float(np.sqrt(sum(((a - b) ** 2).sum() for a, b in pairs) / sum((b**2).sum() for _, b in pairs)))


def agree(error, limit):
    """Assert, and leave the figure in the captured output (`pytest -rP`)."""
    print(f"normwise {error:.1e} (limit {limit:.0e})")
    assert error <= limit, f"normwise {error:.2e} > {limit:.0e}"


@pytest.fixture
def hf():
    """`build`, `tree`, `normwise`, `agree` and the token ids."""
    with jax.default_matmul_precision("highest"):
        yield types.SimpleNamespace(build=build, tree=tree, normwise=normwise, agree=agree, pad=PAD, eos=EOS,
                                    vocab=VOCAB)
