"""A starter map names every unmatched tensor of an unknown architecture, reads back and compares; ways out of directories."""

import json

import numpy as np
import pytest

from jaxpost.compare import __main__ as command
from jaxpost.formats import FormatError, open_checkpoint
from jaxpost.formats.names import UnknownArchitecture, read_rules, resolve
from jaxpost.formats.starter import rules
from tests.compare import checkpoints


def places(*tensors, shape=(4, 4)):
    return [rule["name"] for rule in rules(dict.fromkeys(tensors, shape))]


def test_the_nearest_places_of_architectures_that_people_have():
    gpt_neox = [f"gpt_neox.layers.3.{name}.weight" for name in ("attention.query_key_value", "attention.dense",
                                                               "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "input_layernorm")]
    assert places(*gpt_neox, "embed_out.weight", "gpt_neox.embed_in.weight", "gpt_neox.final_layer_norm.weight") == [
        r"layers/\1/qkv", r"layers/\1/o", r"layers/\1/up", r"layers/\1/down", r"layers/\1/attention_norm", "head", "embed",
        "final_norm"]
    meta = [f"layers.0.{name}.weight" for name in ("attention.wq", "attention.wo", "feed_forward.w1", "feed_forward.w2",
                                                  "feed_forward.w3", "ffn_norm")]
    assert places(*meta, "tok_embeddings.weight", "output.weight", "norm.weight") == [
        r"layers/\1/q", r"layers/\1/o", r"layers/\1/gate", r"layers/\1/down", r"layers/\1/up", r"layers/\1/mlp_norm", "embed",
        "head", "final_norm"]
    parts = "gate", "experts.0.w1", "experts.1.w1", "experts.0.w2"
    mixtral = [f"model.layers.0.block_sparse_moe.{name}.weight" for name in parts]
    assert places(*mixtral) == [r"layers/\1/router", r"layers/\1/experts/\2/gate", r"layers/\1/experts/\2/down"]
    twice = places("a.0.attn.q.weight", "a.0.cross.q.weight")
    assert twice[0] == r"layers/\1/q" and len(set(twice)) == 2  # the second place is its own


def gpt2(path, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    names = {"attn.c_attn": (16, 48), "attn.c_proj": (16, 16), "mlp.c_fc": (16, 64), "mlp.c_proj": (64, 16)}
    tensors = {"transformer.wte.weight": rng.standard_normal((40, 16)), "transformer.wpe.weight": rng.standard_normal((8, 16))}
    for i in range(2):
        tensors |= {f"transformer.h.{i}.{name}.weight": rng.standard_normal(shape) for name, shape in names.items()}
        tensors |= {f"transformer.h.{i}.{name}.bias": rng.standard_normal(shape[1]) for name, shape in names.items()}
        tensors |= {f"transformer.h.{i}.ln_{j}.weight": rng.standard_normal(16) for j in (1, 2)}
    return checkpoints.write(path, {name: x + shift for name, x in tensors.items()}, np.float32,
                             config={"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]})


def test_a_printed_starter_is_a_map_with_which_the_comparison_runs(tmp_path, capsys):
    base, tuned = gpt2(tmp_path / "base"), gpt2(tmp_path / "tuned", shift=0.01)
    assert command.main([str(base), str(tuned), "--level", "element"]) == 2
    found = capsys.readouterr()
    assert "no map for 22 of 22 tensors of architecture GPT2LMHeadModel" in found.err and found.err.count("\n") == 1
    (tmp_path / "map.json").write_text(found.out)
    read = read_rules(tmp_path / "map.json")
    parts = resolve(open_checkpoint(base), read)
    assert len(parts) == 22 and not any(rule["transpose"] for rule in read)  # Conv1D stores [inputs, outputs]
    assert parts["layers/1/up"].kind == "up" and parts["layers/1/up"].shape == (16, 64)
    assert parts["embed"].shape == (40, 16)
    assert parts["layers/0/qkv"].kind == "other" and parts["layers/1/attention_norm"].kind == "norm"
    arguments = [str(base), str(tuned), "--level", "element", "--map", str(tmp_path / "map.json"), "--out", str(tmp_path / "o")]
    assert command.main(arguments) == 0 and "weights equal in bf16" in capsys.readouterr().out


def test_a_starter_covers_what_the_users_map_leaves(tmp_path):
    source = open_checkpoint(gpt2(tmp_path / "base"))
    with pytest.raises(UnknownArchitecture) as raised:
        resolve(source, [{"pattern": r"transformer\.h\..*", "name": None}])
    assert {rule["pattern"] for rule in raised.value.starter} == {r"transformer\.wte\.weight", r"transformer\.wpe\.weight"}
    json.dumps(raised.value.starter)


@pytest.mark.parametrize("files, said", [
    (("checkpoint-20/model.safetensors", "checkpoint-100/model.safetensors"), "2 checkpoints, the newest checkpoint-100: give"),
    (("global_step_5/actor/huggingface/config.json",), "the model lies in"),
    (("__0_0.distcp", ".metadata"), "dcp_to_torch"), (("zero_to_fp32.py", "latest"), "a DeepSpeed state"),
    (("model_world_size_2_rank_0.pt",), "verl.model_merger"), (("model.Q4_1.gguf",), "gguf_file='model.Q4_1.gguf'"),
    (("optimizer.pt", "scheduler.pt"), "state of a training run without the model's weights"),
    (("notes.txt",), "no Orbax checkpoint; found notes.txt")])
def test_directories_of_trainers_are_recognised_with_the_way_out(tmp_path, files, said):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(FormatError) as raised:
        open_checkpoint(tmp_path)
    assert said in str(raised.value) and str(tmp_path) in str(raised.value)
