"""Adapters merged on the fly: W + alpha / r B A in float64 numpy; what does not fit is refused in one line."""

import json

import numpy as np
import pytest

from jaxpost.compare import CompareError, compare
from jaxpost.formats import FormatError, lora, open_checkpoint, safetensors
from tests.compare import checkpoints

Q, DOWN, EMBED = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj", "model.embed_tokens"
PRE = "base_model.model."


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return checkpoints.write(tmp_path_factory.mktemp("lora") / "base", checkpoints.base_tensors())


def adapter(path, rank=2, tensors=None, **about):
    """An adapter directory; returns the path and its factors."""
    rng = np.random.default_rng(7)
    own = {f"{PRE}{Q}.lora_A.weight": rng.standard_normal((rank, 32)),
           f"{PRE}{Q}.lora_B.weight": rng.standard_normal((32, rank)),
           f"{PRE}{DOWN}.lora_A.default.weight": rng.standard_normal((rank, 48)),
           f"{PRE}{DOWN}.lora_B.default.weight": rng.standard_normal((32, rank))}
    made = own if tensors is None else tensors
    made = {name: (0.02 * x).astype(np.float32) for name, x in made.items()}
    path.mkdir()
    safetensors.write(path / "adapter_model.safetensors", made)
    (path / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "r": rank, "lora_alpha": 8, "base_model_name_or_path": "org/other-base"} | about))
    return path, made


@pytest.mark.parametrize("about, scale_q, scale_down", [
    ({}, 4, 4), ({"use_rslora": True}, 8 / np.sqrt(2), 8 / np.sqrt(2)), ({"alpha_pattern": {"down_proj": 2}}, 4, 1)])
def test_a_merged_matrix_is_the_base_and_the_scaled_product(base, tmp_path, about, scale_q, scale_down):
    path, made = adapter(tmp_path / "adapter", **about)
    source, plain = open_checkpoint(base), checkpoints.base_tensors()
    found = lora.open_adapter(path, source)
    for module, scale, key in ((Q, scale_q, ""), (DOWN, scale_down, ".default")):
        a, b = (made[f"{PRE}{module}.lora_{side}{key}.weight"].astype(np.float64) for side in "AB")
        wanted = plain[f"{module}.weight"] + scale * b @ a
        np.testing.assert_allclose(found.read(f"{module}.weight"), wanted, rtol=0, atol=1e-7)
        np.testing.assert_array_equal(found.read(f"{module}.weight", slice(3, 9)), found.read(f"{module}.weight")[3:9])
    other = "model.layers.0.self_attn.k_proj.weight"
    assert found.tensors[other] is source.tensors[other] and found.tensors[f"{Q}.weight"].dtype == "F32"


def test_embeddings_transposed_layers_and_modules_trained_whole(base, tmp_path):
    rng, plain = np.random.default_rng(0), checkpoints.base_tensors()
    a, b = rng.standard_normal((2, 48)), rng.standard_normal((32, 2))
    whole = rng.standard_normal((32,))
    path, made = adapter(tmp_path / "adapter", tensors={
        f"{PRE}{EMBED}.lora_embedding_A": a, f"{PRE}{EMBED}.lora_embedding_B": b, f"{PRE}model.norm.weight": whole})
    found = lora.open_adapter(path, open_checkpoint(base))
    wanted = plain[f"{EMBED}.weight"] + 4 * (0.02 * b @ (0.02 * a)).T
    np.testing.assert_allclose(found.read(f"{EMBED}.weight"), wanted, atol=1e-7)
    np.testing.assert_array_equal(found.read("model.norm.weight"), made[f"{PRE}model.norm.weight"])
    assert "1 tensors were trained whole" in found.notes[0]


def test_an_adapted_embedding_that_is_stored_whole_as_well_is_adapted(base, tmp_path):
    """PEFT stores the embedding itself beside its factors (save_embedding_layers)."""
    rng = np.random.default_rng(1)
    a, b, whole = (rng.standard_normal(shape) for shape in ((2, 48), (32, 2), (48, 32)))
    path, made = adapter(tmp_path / "adapter", tensors={
        f"{PRE}{EMBED}.lora_embedding_A": a, f"{PRE}{EMBED}.lora_embedding_B": b, f"{PRE}{EMBED}.base_layer.weight": whole})
    found = lora.open_adapter(path, open_checkpoint(base))
    np.testing.assert_allclose(found.read(f"{EMBED}.weight"), 0.02 * whole + 4 * (0.02 * b @ (0.02 * a)).T, atol=1e-7)
    assert found.tensors[f"{EMBED}.weight"].dtype == "F32" and "trained whole" not in found.notes[0]


def test_linear_layers_are_not_transposed_whatever_is_said_of_them(base, tmp_path):
    source = open_checkpoint(base)
    said, plain = (lora.open_adapter(adapter(tmp_path / str(fan), fan_in_fan_out=fan)[0], source) for fan in (True, False))
    for module in (Q, DOWN):  # a square one too
        np.testing.assert_array_equal(said.read(f"{module}.weight"), plain.read(f"{module}.weight"))


def test_adapters_are_compared_like_the_model_that_they_make(base, tmp_path):
    path, made = adapter(tmp_path / "adapter", rank=2)
    plain = checkpoints.base_tensors()
    merged = dict(plain)
    for module, key in ((Q, ""), (DOWN, ".default")):
        a, b = (made[f"{PRE}{module}.lora_{side}{key}.weight"] for side in "AB")
        merged[f"{module}.weight"] = plain[f"{module}.weight"] + np.float32(4) * (b @ a)
    whole = checkpoints.write(tmp_path / "adapter-merged", merged, np.float32)
    found, wanted = (compare(base, side, level="top") for side in (path, whole))
    value = {}
    for name, one in (("found", found), ("wanted", wanted)):
        keys = "metric", "granularity", "tensor", "module_kind", "side", "k", "params", "dtype"
        rows = [row for row in one.rows.to_pylist() if row["role"] == "estimate"]
        value[name] = {tuple(row[key] for key in keys): row["value"] for row in rows}
    assert value["found"].keys() == value["wanted"].keys() and len(value["found"]) > 100
    for key, x in value["wanted"].items():
        assert value["found"][key] == (x if x is None else pytest.approx(x, rel=1e-4, abs=1e-7)), key
    said = "\n".join(found.flags)
    assert "LoRA adapters of rank 2 and alpha 8 on 2 matrices, merged" in said and "names the base 'org/other-base'" in said
    rank = found.table("weight.rank.stable", granularity="tensor", dtype="fp32").to_pylist()
    assert next(row["value"] for row in rank if row["tensor"] == "layers/0/q") <= 2 + 1e-6


def test_what_cannot_be_merged_is_refused_with_the_way_out(base, tmp_path):
    source = open_checkpoint(base)

    def refused(name, message, **about):
        with pytest.raises(FormatError, match=message):
            lora.open_adapter(adapter(tmp_path / name, **about)[0], source)

    refused("prefix", "adapters of type PREFIX_TUNING; LoRA is read here: merge others", peft_type="PREFIX_TUNING")
    refused("dora", "use_dora is set .*merge_and_unload", use_dora=True)
    refused("copies", "layer_replication is set .*merge_and_unload", layer_replication=[[0, 1], [0, 1]])
    refused("alora", "alora_invocation_tokens is set .*merge_and_unload", alora_invocation_tokens=[3, 4])
    for start in ("pissa_niter_16", "OLoRA", "corda", "loftq"):
        refused(start, f"init_lora_weights is '{start.lower()}', which changes the base", init_lora_weights=start)
    refused("alpha", "lora_alpha of .* is 'lots'; expected a number", lora_alpha="lots")
    refused("huge", "lora_alpha of .*; expected a number", lora_alpha=10**400)
    refused("text", "use_rslora is 'false'; expected true or false", use_rslora="false")
    refused("list", "alpha_pattern is .*; expected {module: alpha}", alpha_pattern=["q_proj"])
    refused("rank", "r is '77', and lora_A of .* has rank", r=77)
    refused("regex", r"alpha_pattern has the regular expression", alpha_pattern={"(a+)+$": 1})
    far = {f"{PRE}model.layers.9.self_attn.q_proj.lora_{side}.weight": np.ones(shape)
           for side, shape in (("A", (2, 32)), ("B", (32, 2)))}
    refused("far", "adapts 'model.layers.9.self_attn.q_proj.weight', which the base .* does not have; nearest", tensors=far)
    half = {f"{PRE}{Q}.lora_A.weight": np.ones((2, 32))}
    refused("half", "has only lora_A", tensors=half)
    shapes = {f"{PRE}{Q}.lora_A.weight": np.ones((2, 31)), f"{PRE}{Q}.lora_B.weight": np.ones((32, 2))}
    refused("shapes", r"makes \(32, 31\); the base's matrix is \(32, 32\)", tensors=shapes)
    vector = {f"{PRE}{Q}.lora_A.weight": np.ones(2), f"{PRE}{Q}.lora_B.weight": np.ones((32, 2))}
    refused("vector", r"lora_A.weight' is F32 of shape \(2,\); expected a matrix of floats", tensors=vector)
    path, _ = adapter(tmp_path / "pickled")
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    with pytest.raises(FormatError, match="adapter_model.bin is a pickle"):
        lora.open_adapter(path, source)
    with pytest.raises(CompareError, match="holds adapters and no model: give the model as the base"):
        compare(adapter(tmp_path / "alone")[0], base)
