"""Checkpoints that transformers writes are read under our names, every parameter once, in our orientation."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from jaxpost import formats  # noqa: E402
from jaxpost.formats import names  # noqa: E402

pytestmark = pytest.mark.parity
SMALL = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
MOE = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
DENSE = {"q", "k", "v", "o", "gate", "up", "down"}
FAMILIES = {
    "Llama": ({}, DENSE), "Mistral": ({}, DENSE), "Qwen2": ({}, DENSE), "Qwen3": ({}, DENSE),
    "Gemma": ({}, DENSE), "Gemma2": ({}, DENSE), "Gemma3Text": ({}, DENSE), "Phi3": ({}, DENSE),
    "Qwen3Moe": (MOE, DENSE | {"router"}), "Olmoe": ({"num_experts": 3, "num_experts_per_tok": 2}, DENSE | {"router"}),
}


def build(family, **more):
    options, _ = FAMILIES[family]
    config = getattr(transformers, f"{family}Config")(**{**SMALL, **options, **more})
    torch.manual_seed(0)
    causal = "Gemma3" if family == "Gemma3Text" else family
    return getattr(transformers, f"{causal}ForCausalLM")(config).to(torch.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_known_once(tmp_path, family):
    model = build(family)
    model.save_pretrained(tmp_path)
    source = formats.open_checkpoint(tmp_path)
    parts = names.resolve(source)
    counted = sum(int(np.prod(p.shape)) for p in parts.values())
    unique = {p.data_ptr(): p.numel() for p in model.parameters()}  # a tied head is the embedding
    assert counted == sum(unique.values())
    for layer in range(2):
        assert {p.kind for p in parts.values() if p.layer == layer} - {"norm", "bias"} == FAMILIES[family][1]
    assert not [p for p in parts.values() if p.kind == "other"]
    squares = sum(float((p.read(source).astype(np.float64) ** 2).sum()) for p in parts.values())
    expected = sum(float((p.detach().double() ** 2).sum()) for p in model.parameters())
    np.testing.assert_allclose(squares, expected, rtol=1e-12)


def test_matrices_are_inputs_by_outputs(tmp_path):
    model = build("Qwen2")
    model.save_pretrained(tmp_path)
    source = formats.open_checkpoint(tmp_path)
    parts = names.resolve(source)
    attention = model.model.layers[1].self_attn
    np.testing.assert_array_equal(parts["layers/1/k"].read(source), attention.k_proj.weight.detach().numpy().T)
    np.testing.assert_array_equal(parts["layers/1/k_bias"].read(source), attention.k_proj.bias.detach().numpy())
    np.testing.assert_array_equal(parts["embed"].read(source), model.model.embed_tokens.weight.detach().numpy())
    assert parts["layers/1/k"].shape == (16, 16) and parts["layers/0/down"].shape == (24, 16)


def test_fused_projections_are_split(tmp_path):
    model = build("Phi3")
    model.save_pretrained(tmp_path)
    source = formats.open_checkpoint(tmp_path)
    parts = names.resolve(source)
    fused = model.model.layers[0].self_attn.qkv_proj.weight.detach().numpy()
    each = source.config.get("head_dim") or 4
    rows = np.cumsum([4 * each, 2 * each, 2 * each])
    for name, piece in zip("qkv", np.split(fused, rows[:2])):
        np.testing.assert_array_equal(parts[f"layers/0/{name}"].read(source), piece.T)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_counted_once(tmp_path, tied):
    build("Qwen2", tie_word_embeddings=tied).save_pretrained(tmp_path)
    assert ("head" in names.resolve(formats.open_checkpoint(tmp_path))) != tied
