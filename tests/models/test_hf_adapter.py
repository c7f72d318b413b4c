"""Adapters written as PEFT has them: read back they are the merged export, and what PEFT cannot express is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxpost import models
from jaxpost.formats import FormatError, lora, open_checkpoint
from jaxpost.models import hf
from jaxpost.models.hf_adapter import save_adapter
from jaxpost.training import adapters

MODEL = models.TransformerConfig(vocab=29, width=16, layers=2, heads=4, kv_heads=2, head_dim=4, ff=24, qkv_bias=True)
KINDS = ("q", "v", "down", "embed", "head")
RANK = 3


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """(directory with base, merged and adapter; the adapter); both factors are away from zero."""
    place = tmp_path_factory.mktemp("adapter")
    params = models.init(MODEL, jax.random.key(0))
    found = adapters.lora(params, KINDS, RANK, jax.random.key(1), alpha=4.5)
    keys = iter(jax.random.split(jax.random.key(2), len(KINDS)))
    factors = {kind: {"a": f["a"], "b": 0.1 * jax.random.normal(next(keys), f["b"].shape)} for kind, f in found.factors.items()}
    found = found._replace(factors=factors)
    hf.save(place / "base", MODEL, params)
    hf.save(place / "merged", MODEL, found.start(params))
    save_adapter(place / "adapter", MODEL, factors, float(found.scale), base="org/base")
    return place, found


def test_base_and_adapter_are_the_merged_export(tuned):
    """Up to the rounding of one float32 sum, 2^-24 |W|, and of products of three terms."""
    place, found = tuned
    base, merged = (open_checkpoint(place / name) for name in ("base", "merged"))
    source = lora.open_adapter(place / "adapter", base)
    assert set(source.tensors) == set(merged.tensors) and len(source.updates) == 2 * 3 + 2
    for name in merged.tensors:
        exact, one = np.asarray(merged.read(name), np.float64), np.asarray(source.read(name), np.float64)
        if name not in source.updates:
            np.testing.assert_array_equal(one, exact)
        else:
            assert np.abs(one - exact).max() <= (2 * RANK + 4) * 2.0**-24 * np.abs(exact).max()
            assert np.abs(exact - np.asarray(base.read(name), np.float64)).max() > 1e-3


def test_names_shapes_and_fields_are_those_of_peft(tuned):
    place, found = tuned
    about = json.loads((place / "adapter" / "adapter_config.json").read_text())
    assert (about["peft_type"], about["r"], about["lora_alpha"]) == ("LORA", RANK, pytest.approx(4.5))
    assert about["target_modules"] == ["down_proj", "embed_tokens", "lm_head", "q_proj", "v_proj"]
    stored = lora.open_adapter(place / "adapter", open_checkpoint(place / "base")).stored
    shapes = {name: tuple(entry.shape) for name, entry in stored.items()}
    head = "base_model.model."
    assert shapes[f"{head}model.layers.1.mlp.down_proj.lora_A.weight"] == (RANK, 24)
    assert shapes[f"{head}model.layers.1.mlp.down_proj.lora_B.weight"] == (16, RANK)
    assert shapes[f"{head}lm_head.lora_B.weight"] == (29, RANK)
    assert shapes[f"{head}model.embed_tokens.lora_embedding_A"] == (RANK, 29)
    assert shapes[f"{head}model.embed_tokens.lora_embedding_B"] == (16, RANK)


def test_what_peft_would_read_otherwise_is_refused(tuned, tmp_path):
    place, found = tuned
    with pytest.raises(FormatError, match="adapter of 'embed' is of the embedding and of the head that is tied to it"):
        save_adapter(tmp_path / "tied", dataclasses.replace(MODEL, tied=True), found.factors, 1.0, base="base")
    with pytest.raises(FormatError, match="is not empty; nothing is overwritten"):
        save_adapter(place / "adapter", MODEL, found.factors, 1.0, base="base")
    with pytest.raises(FormatError, match="dtype 'fp8' is not known; choose one of float32"):
        save_adapter(tmp_path / "fp8", MODEL, found.factors, 1.0, base="base", dtype="fp8")
    assert not list(tmp_path.iterdir())
