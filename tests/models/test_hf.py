"""Hugging Face directories: what is saved is loaded bit for bit, on any mesh, whole or refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from jaxpost import formats, models, sharding
from jaxpost.formats import FormatError, safetensors
from jaxpost.models import hf

EXPERTS = {"experts": 4, "experts_per_token": 3}
FAMILIES = {"llama": {}, "qwen2": {"qkv_bias": True, "tied": True}, "qwen3": {"qk_norm": True},
            "olmoe": {"qk_norm": True, "qk_norm_joint": True, "head_dim": 4, **EXPERTS},
            "qwen3_moe": {"qk_norm": True, "renormalise": True, **EXPERTS}}


def config(family="llama"):
    return models.TransformerConfig(**{"vocab": 24, "width": 16, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 8,
                                       "ff": 24, **FAMILIES[family]})


def params(c, seed=0):
    made = models.init(c, jax.random.key(seed))
    leaves, treedef = jax.tree.flatten(made)
    return jax.tree.unflatten(treedef, [x + 0.1 * jax.random.normal(jax.random.key(i), x.shape) for i, x in enumerate(leaves)])


def identical(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.fixture
def saved(tmp_path):
    hf.save(tmp_path / "model", config(), params(config()))
    return tmp_path / "model"


def test_float64_is_kept_or_refused(saved):
    source = formats.open_checkpoint(saved)
    safetensors.write(saved / "model.safetensors", {n: np.asarray(source.read(n), np.float64) for n in source.tensors})
    with pytest.raises(FormatError, match='as float64 would become float32; load with dtype="float32"'):
        hf.load(saved, dtype=None)
    identical(hf.load(saved)[1], params(config()))
    with jax.enable_x64(True):
        assert {x.dtype for x in jax.tree.leaves(hf.load(saved, dtype=None)[1])} == {jnp.dtype("float64")}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_round_trip_is_bitwise(tmp_path, family, dtype):
    c = config(family)
    p = jax.tree.map(lambda x: x.astype(dtype), params(c))
    hf.save(tmp_path / "model", c, p, shard_bytes=4_000)
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 2
    found, again = hf.load(tmp_path / "model", dtype=None)
    assert found == c
    identical(again, p)


def test_masters_are_float32_unless_asked(saved):
    _, p = hf.load(saved, dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(p)} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(hf.load(saved)[1])} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_a_mesh_changes_where_parameters_are_and_nothing_else(tmp_path, family):
    hf.save(tmp_path / "model", config(family), params(config(family)))
    mesh = sharding.make_mesh({"fsdp": 2, "tensor": 2, "data": 2})
    _, p = hf.load(tmp_path / "model", mesh=mesh)
    identical(jax.tree.map(np.asarray, p), jax.tree.map(np.asarray, hf.load(tmp_path / "model")[1]))
    table = sharding.parameter_shardings(models.parameter_table(config(family)), mesh)
    for x, place in zip(jax.tree.leaves(p), jax.tree.leaves(table, is_leaf=lambda s: isinstance(s, NamedSharding))):
        assert x.sharding.is_equivalent_to(place, x.ndim)


def test_a_directory_keeps_its_small_files(saved, tmp_path):
    (saved / "tokenizer.json").write_text("{}")
    about = json.loads((saved / "config.json").read_text()) | {"bos_token_id": 7}
    (saved / "config.json").write_text(json.dumps(about))
    hf.save(tmp_path / "again", config(), params(config(), 1), like=saved, dtype="bfloat16")
    kept = json.loads((tmp_path / "again" / "config.json").read_text())
    assert kept["bos_token_id"] == 7 and kept["dtype"] == "bfloat16" and (tmp_path / "again" / "tokenizer.json").exists()


@pytest.mark.parametrize(("change", "message"), [
    ({"model_type": "gpt2"}, "known: llama"), ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
    ({"attention_bias": True}, "attention_bias"), ({"use_sliding_window": True}, "use_sliding_window"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type='yarn'"),
    ({"num_attention_heads": 3}, "kv_heads=2 does not divide"),
    ({"hidden_size": None}, "hidden_size=None is not supported; expected a whole number"),
    ({"vocab_size": 25}, "'embed'"), ({"num_hidden_layers": 2}, "the architecture has no"),
    ({"num_hidden_layers": 4}, "has no tensor for 'layers/3"),
    ({"model_type": "mistral", "sliding_window": 8}, "sliding_window=8"),
    ({"model_type": "mistral"}, "sliding_window is absent, which means 4096"),
])
def test_what_does_not_fit_is_refused_before_loading(saved, monkeypatch, change, message):
    about = json.loads((saved / "config.json").read_text()) | change
    (saved / "config.json").write_text(json.dumps(about))
    monkeypatch.setattr(safetensors, "read", lambda *a: pytest.fail("a tensor was read"))
    with pytest.raises(FormatError, match=message) as error:
        hf.load(saved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("family", "change", "message"), [
    ("olmoe", {"clip_qkv": 8.0}, "clip_qkv=8.0"), ("olmoe", {"model_type": "qwen2_moe"}, "shared expert is weighted"),
    ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step=2"), ("qwen3_moe", {"mlp_only_layers": [0]}, "mlp_only"),
    ("qwen3_moe", {"n_shared_experts": 1}, "n_shared_experts=1"), ("qwen3_moe", {"num_experts_per_tok": 9}, "nearest valid: 4"),
    ("qwen3_moe", {"num_experts": 5}, "has no tensor for 'layers/./experts/4"),
    ("qwen3_moe", {"num_experts": 0}, "num_experts=0 is not"),
    ("olmoe", {"num_experts": 3}, "the architecture has no"),
    ("olmoe", {"model_type": "qwen3"}, "'num_experts' is not a key of 'qwen3'"),
    ("llama", {"model_type": "olmoe"}, "num_experts"),
])
def test_another_mixture_is_refused(tmp_path, family, change, message):
    hf.save(tmp_path / "model", config(family), params(config(family)))
    about = json.loads((tmp_path / "model" / "config.json").read_text()) | change
    (tmp_path / "model" / "config.json").write_text(json.dumps(about))
    with pytest.raises(FormatError, match=message):
        hf.load(tmp_path / "model")


@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe"])
def test_fused_experts_are_the_same_policy(tmp_path, family):
    c, p = config(family), params(config(family))
    hf.save(tmp_path / "apart", c, p)
    source = formats.open_checkpoint(tmp_path / "apart")
    tensors = {n: np.asarray(source.read(n)) for n in source.tensors if ".experts." not in n}
    w = {n: np.asarray(p["layers"][n]) for n in ("gate", "up", "down")}
    for i in range(c.layers):
        here = f"model.layers.{i}.mlp.experts"
        tensors[f"{here}.gate_up_proj"] = np.concatenate([w["gate"][i], w["up"][i]], axis=2).swapaxes(1, 2)
        tensors[f"{here}.down_proj"] = w["down"][i].swapaxes(1, 2)
    (tmp_path / "fused").mkdir()
    safetensors.write(tmp_path / "fused" / "model.safetensors", {n: np.ascontiguousarray(x) for n, x in tensors.items()})
    (tmp_path / "fused" / "config.json").write_text((tmp_path / "apart" / "config.json").read_text())
    found, again = hf.load(tmp_path / "fused")
    assert found == c
    identical(again, p)


def test_saving_a_mixture_refuses_what_no_family_has(tmp_path):
    shared = dataclasses.replace(config("olmoe"), shared_ff=4)
    wide = dataclasses.replace(config("olmoe"), head_dim=8)
    plain = dataclasses.replace(config("olmoe"), qk_norm=False, qk_norm_joint=False)
    for c, message in ((shared, "shared_ff=4"), (wide, "hidden_size"), (plain, "no family of experts")):
        with pytest.raises(FormatError, match=message):
            hf.save(tmp_path / "a", c, params(c))
    bounded = dataclasses.replace(config("olmoe"), capacity=1.25)
    hf.save(tmp_path / "a", bounded, params(bounded))
    assert hf.load(tmp_path / "a")[0] == config("olmoe")


def test_saving_refuses_what_would_lose_something(saved, tmp_path):
    c, p = config(), params(config())
    with pytest.raises(FormatError, match="not empty"):
        hf.save(saved, c, p)
    with pytest.raises(FormatError, match="config.json: is no directory; nothing is overwritten"):
        hf.save(saved / "config.json", c, p)
    with pytest.raises(FormatError, match="value head"):
        hf.save(tmp_path / "a", c, p | {"value": jnp.zeros((16, 1))})
    with pytest.raises(FormatError, match="int8"):
        hf.save(tmp_path / "a", c, p, dtype="int8")
    with pytest.raises(FormatError, match="its vocab is 24"):
        hf.save(tmp_path / "a", dataclasses.replace(c, vocab=25), p, like=saved)
    both = models.TransformerConfig(vocab=24, qkv_bias=True, qk_norm=True)
    with pytest.raises(FormatError, match="no family"):
        hf.save(tmp_path / "a", both, p)
    layers = p["layers"]
    for other, message in ((dataclasses.replace(c, layers=4), r"'layers/attention_norm' is \(3, 16\); .* makes it \(4, 16\)"),
                           (dataclasses.replace(c, vocab=25), r"'embed' is \(24, 16\); .* makes it \(25, 16\)"),
                           (dataclasses.replace(c, qk_norm=True), "'layers/k_norm' is absent; .* makes it")):
        with pytest.raises(FormatError, match=message):
            hf.save(tmp_path / "a", other, p)
    with pytest.raises(FormatError, match="'layers/lora' is .*; .* makes it absent"):
        hf.save(tmp_path / "a", c, p | {"layers": layers | {"lora": layers["q"]}})
    assert not (tmp_path / "a").exists()


def test_a_failure_leaves_no_directory(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors, "write", full)
    with pytest.raises(OSError, match="No space"):
        hf.save(tmp_path / "model", config(), params(config()))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_tensor_is_named(saved):
    source = formats.open_checkpoint(saved)
    tensors = {n: source.read(n) for n in source.tensors if not n.endswith("layers.1.mlp.up_proj.weight")}
    safetensors.write(saved / "model.safetensors", tensors)
    with pytest.raises(FormatError, match="has no tensor for 'layers/1/up'"):
        hf.load(saved)
