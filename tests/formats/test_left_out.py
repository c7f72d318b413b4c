"""Nothing of a checkpoint is left out without a word: it is equal to what is used, an error, or a note."""

import json
import os
import shutil
import socket

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxpost import formats, training
from jaxpost.checkpoint import Checkpoints
from jaxpost.compare import compare as compared
from jaxpost.formats import FormatError, names, safetensors
from jaxpost.models import hf
from tests.compare import checkpoints
from tests.flips import flip
from tests.models.test_hf import config, params

INDEX = "model.safetensors.index.json"
HEAD = "lm_head.weight"


@pytest.fixture
def tied(tmp_path):
    hf.save(tmp_path / "m", config("qwen2"), params(config("qwen2")))
    return tmp_path / "m"


def rewritten(place, change):
    file = place / "model.safetensors"
    source = formats.open_checkpoint(file)
    tensors = {name: source.read(name) for name in source.tensors}
    safetensors.write(file, change(tensors))


def test_a_tied_head_that_is_stored_must_be_the_embedding(tied):
    rewritten(tied, lambda t: t | {HEAD: t["model.embed_tokens.weight"]})
    assert "head" not in names.resolve(formats.open_checkpoint(tied)) and "head" not in hf.load(tied)[1]
    rewritten(tied, lambda t: t | {HEAD: t["model.embed_tokens.weight"].astype(np.float16).astype(np.float32)})
    assert "head" in names.resolve(formats.open_checkpoint(tied))
    with pytest.raises(FormatError, match="tie_word_embeddings, and 'lm_head.weight' is stored and is not"):
        hf.load(tied)


def test_a_tied_head_that_differs_is_compared_and_said(tmp_path):
    base = checkpoints.base_tensors()
    for side, scale in (("a", 2.0), ("b", 3.0)):
        checkpoints.write(tmp_path / side, base | {HEAD: scale * base["model.embed_tokens.weight"]}, np.float32)
    found = compared(tmp_path / "a", tmp_path / "b", level="element")
    assert "head" in found.rows["tensor"].to_pylist()
    assert "the stored head is not the embedding" in "\n".join(found.flags)


def test_tied_as_text_is_refused_everywhere(tied):
    about = json.loads((tied / "config.json").read_text()) | {"tie_word_embeddings": "false"}
    (tied / "config.json").write_text(json.dumps(about))
    for read in (hf.load, lambda path: names.resolve(formats.open_checkpoint(path))):
        with pytest.raises(FormatError, match="tie_word_embeddings='false'.*true or false"):
            read(tied)


def test_an_untied_policy_is_not_saved_as_tied_nor_the_other_way(tmp_path):
    c = config("qwen2")
    with pytest.raises(FormatError, match="'head' is no parameter"):
        hf.save(tmp_path / "m", c, params(c) | {"head": jnp.ones((16, 24))})


def test_an_index_beside_another_model_is_refused(tied):
    (tied / INDEX).write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    with pytest.raises(FormatError, match="which of them is the model"):
        formats.open_checkpoint(tied)
    safetensors.write(tied / "model-00001-of-00001.safetensors", {"a": np.ones(2)})
    with pytest.raises(FormatError, match="which of them is the model"):
        formats.open_checkpoint(tied)
    (tied / INDEX).unlink()
    with pytest.raises(FormatError, match="which of them is the model"):
        formats.open_checkpoint(tied)


@pytest.mark.parametrize("name", ["consolidated", "optimizer", "adapter_model", "notes"])
def test_neighbours_are_left_out_with_a_note(tied, name):
    expected = hf.load(tied)[1]
    safetensors.write(tied / f"{name}.safetensors", {"layers.0.attention.wq.weight": np.ones((2, 2))})
    with pytest.warns(UserWarning, match=f"left out, no part of the model: {name}.safetensors"):
        found = hf.load(tied)[1]
    np.testing.assert_array_equal(found["embed"], expected["embed"])
    assert any(name in note for note in formats.open_checkpoint(tied).notes)


def test_a_file_that_holds_a_tensor_of_the_model_again_is_refused(tied):
    safetensors.write(tied / "more.safetensors", {"model.norm.weight": np.ones(16)})
    with pytest.raises(FormatError, match="'model.norm.weight' is in model.safetensors too"):
        formats.open_checkpoint(tied)


def test_stored_rotary_frequencies_are_those_of_the_configuration_or_refused(tied):
    c, name = config("qwen2"), "model.layers.0.self_attn.rotary_emb.inv_freq"
    half = c.head_dim // 2
    rewritten(tied, lambda t: t | {name: (c.rope_theta ** (-np.arange(half) / half)).astype(ml_dtypes.bfloat16)})
    hf.load(tied)
    rewritten(tied, lambda t: t | {name: np.ones(half, np.float32)})
    with pytest.raises(FormatError, match="other rotary frequencies"):
        hf.load(tied)


def test_null_metadata_and_git_lfs_pointers(tmp_path):
    text = b'{"__metadata__":null,"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    assert formats.open_checkpoint(tmp_path / "a.safetensors").metadata == {}
    (tmp_path / "b.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n")
    with pytest.raises(FormatError, match="git lfs pull"):
        formats.open_checkpoint(tmp_path / "b.safetensors")


def test_one_stack_has_one_dtype_of_all_its_members(tied):
    name = "model.layers.1.mlp.up_proj.weight"
    rewritten(tied, lambda t: {n: x if n == name else x.astype(ml_dtypes.bfloat16) for n, x in t.items()})
    with pytest.raises(FormatError, match="'up' is one stack of 3 tensors of several dtypes .*2 are BF16.*1 are F32"):
        hf.load(tied, dtype=None)
    hf.load(tied)
    rewritten(tied, lambda t: t | {"model.norm.weight": np.ones(16, np.int32)})
    with pytest.raises(FormatError, match="'model.norm.weight' is I32"):
        hf.load(tied)


def test_tensors_without_elements_are_left_out_with_the_reason(tmp_path):
    for side in "ab":
        tensors = {"model.layers.0.self_attn.q_proj.weight": np.eye(4, dtype=np.float32),
                   "model.layers.0.self_attn.q_proj.bias": np.zeros(0, np.float32),
                   "model.layers.0.mlp.up_proj.weight": np.zeros((0, 4), np.float32)}
        safetensors.write(tmp_path / f"{side}.safetensors", tensors)
    found = compared(tmp_path / "a.safetensors", tmp_path / "b.safetensors", level="top")
    assert found.rows.num_rows and "2 tensors have no elements and are left out" in "\n".join(found.flags)


def test_the_newest_step_of_an_orbax_directory_is_whole_or_refused(tmp_path):
    tree = training.TrainState(jnp.int32(1), {"embed": jnp.ones((4, 4))}, {}, {}, {})
    with Checkpoints(tmp_path) as saves:
        saves.save(1, tree, {})
        saves.save(2, tree, {})
    assert formats.open_checkpoint(tmp_path).metadata["step"] == "2"
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()
    assert "beside it lie 3.orbax-checkpoint-tmp" in formats.open_checkpoint(tmp_path).notes[0]
    (tmp_path / "2" / "params" / "_METADATA").unlink()
    with pytest.raises(FormatError, match=f"newest step 2 is incomplete.*{tmp_path}/1"):
        formats.open_checkpoint(tmp_path)


def test_an_array_of_a_checkpoint_is_compared_with_its_digest(tmp_path):
    params_ = {"embed": jnp.asarray(np.random.default_rng(0).standard_normal((16, 16)), jnp.float32)}
    with Checkpoints(tmp_path) as saves:
        saves.save(1, training.TrainState(jnp.int32(1), params_, {}, {}, {}), {})
    np.testing.assert_array_equal(formats.open_checkpoint(tmp_path).read("embed"), params_["embed"])
    for file in (tmp_path / "1" / "params").rglob("d/*"):
        flip(file, 8 * (file.stat().st_size // 2))
    with pytest.raises(FormatError):
        formats.open_checkpoint(tmp_path).read("embed", slice(0, 2))


def test_pipes_devices_sockets_and_names_too_long_are_refused_at_once(tied):
    (tied / "model.safetensors").unlink()
    os.mkfifo(tied / "model.safetensors")
    for path in (tied, tied / "model.safetensors"):
        with pytest.raises(FormatError, match="is a named pipe; expected a regular file"):
            formats.open_checkpoint(path)
    with pytest.raises(FormatError, match="is a device"):
        formats.open_checkpoint("/dev/zero")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tied / "s.safetensors"))
        with pytest.raises(FormatError, match="is a socket"):
            formats.open_checkpoint(tied / "s.safetensors")
    (tied / "s.safetensors").unlink()
    (tied / "config.json").unlink()
    os.mkfifo(tied / "config.json")
    (tied / "model.safetensors").unlink()
    safetensors.write(tied / "model.safetensors", {"a": np.ones(2)})
    with pytest.raises(FormatError, match="config.json: is a named pipe"):
        formats.open_checkpoint(tied)
    with pytest.raises(FormatError, match="300 characters"):
        formats.open_checkpoint("x" * 300)
    (tied / INDEX).write_text(json.dumps({"weight_map": {"a": "x" * 300 + ".safetensors"}}))
    with pytest.raises(FormatError, match="is not the name of a safetensors file beside it"):
        formats.open_checkpoint(tied)


def test_a_link_out_of_the_directory_is_noted_and_that_of_a_cache_is_not(tied, tmp_path):
    cache = tmp_path / "hub" / "models--a--b"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "0").mkdir(parents=True)
    shutil.copy(tied / "model.safetensors", cache / "blobs" / "00ff")
    (cache / "snapshots" / "0" / "model.safetensors").symlink_to("../../blobs/00ff")
    assert formats.open_checkpoint(cache / "snapshots" / "0").notes == ()
    (tied / "model.safetensors").unlink()
    (tied / "model.safetensors").symlink_to(cache / "blobs" / "00ff")
    assert "is a link out of the directory" in formats.open_checkpoint(tied).notes[0]
    (cache / "blobs" / "00ff").unlink()
    with pytest.raises(FormatError, match="model.safetensors: is a link to nothing"):
        formats.open_checkpoint(tied)
