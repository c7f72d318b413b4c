"""Checkpoints on disk: whole or refused, the same tensors in every format."""

import json
import pickle

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxpost import formats
from jaxpost.formats import FormatError, safetensors

RNG = np.random.default_rng(0)
TENSORS = {f"layer.{i}": RNG.normal(size=(4, 3)).astype(ml_dtypes.bfloat16) for i in range(4)}
INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(tmp_path):
    names = list(TENSORS)
    weight_map = {}
    for i in range(2):
        file = f"model-{i + 1:05d}-of-00002.safetensors"
        part = {n: TENSORS[n] for n in names[2 * i:2 * i + 2]}
        safetensors.write(tmp_path / file, part)
        weight_map |= dict.fromkeys(part, file)
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    return tmp_path


def same(source, expected):
    assert set(source.tensors) == set(expected)
    for name, x in expected.items():
        got = source.read(name)
        assert got.dtype == x.dtype and got.shape == x.shape and got.tobytes() == x.tobytes()
        assert source.tensors[name].nbytes == x.nbytes
        assert source.read(name, slice(1, 2)).tobytes() == x[1:2].tobytes()


def test_shards_with_and_without_index_and_one_file(sharded, tmp_path):
    source = formats.open_checkpoint(sharded)
    same(source, TENSORS)
    assert source.config == {"model_type": "qwen2"} and source.kind == "safetensors"
    (sharded / INDEX).unlink()
    same(formats.open_checkpoint(sharded), TENSORS)
    safetensors.write(tmp_path / "one.safetensors", TENSORS)
    same(formats.open_checkpoint(tmp_path / "one.safetensors"), TENSORS)


def test_a_missing_shard_is_named(sharded):
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FormatError, match="shard model-00002-of-00002.safetensors is missing"):
        formats.open_checkpoint(sharded)
    (sharded / INDEX).unlink()
    with pytest.raises(FormatError, match="shard model-00002-of-00002.safetensors is missing"):
        formats.open_checkpoint(sharded)


@pytest.mark.parametrize(("change", "message"), [
    (lambda m: m | {"layer.9": "model-00001-of-00002.safetensors"}, "'layer.9' is not in"),
    (lambda m: m | {"layer.0": "model-00002-of-00002.safetensors"}, "'layer.0' is not in"),
    (lambda m: {k: v for k, v in m.items() if k != "layer.3"}, "does not name tensor 'layer.3'"),
    (lambda m: m | {"layer.0": "../model-00001-of-00002.safetensors"}, "not the name of a safetensors file"),
    (lambda m: m | {"layer.0": 3}, "no weight_map"), (lambda m: list(m), "no weight_map"),
])
def test_an_index_that_lies_is_refused(sharded, change, message):
    index = json.loads((sharded / INDEX).read_text())
    (sharded / INDEX).write_text(json.dumps({"weight_map": change(index["weight_map"])}))
    with pytest.raises(FormatError, match=message) as error:
        formats.open_checkpoint(sharded)
    assert "\n" not in str(error.value)


def test_a_tensor_in_two_files_is_refused(sharded):
    (sharded / INDEX).unlink()
    safetensors.write(sharded / "more.safetensors", {"layer.0": TENSORS["layer.0"]})
    with pytest.raises(FormatError, match="'layer.0' is in"):
        formats.open_checkpoint(sharded)


class Harmful:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was opened')",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_pickles_are_refused_unopened(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Harmful()))
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(FormatError, match="save_pretrained"):
            formats.open_checkpoint(path)


def test_nothing_there_is_one_line(tmp_path):
    with pytest.raises(FormatError, match="no such file"):
        formats.open_checkpoint(tmp_path / "absent")
    with pytest.raises(FormatError, match="found nothing"):
        formats.open_checkpoint(tmp_path)


TREE = {"embed": jnp.asarray(TENSORS["layer.0"]), "layers": {"q": jnp.arange(24.0).reshape(2, 4, 3), "zero": jnp.zeros((3, 2))}}
FLAT = {"embed": TENSORS["layer.0"], "layers/q": np.arange(24, dtype=np.float32).reshape(2, 4, 3),
        "layers/zero": np.zeros((3, 2), np.float32)}


@pytest.mark.parametrize("options", [{}, {"use_ocdbt": False}, {"use_zarr3": True}], ids=str)
def test_orbax_trees_read_like_what_was_saved(tmp_path, options):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as saver:
        saver.save(tmp_path / "tree", TREE)
    same(formats.open_checkpoint(tmp_path / "tree"), FLAT)


def test_orbax_steps_and_items_are_found(tmp_path):
    for step in (2, 10):
        with ocp.StandardCheckpointer() as saver:
            saver.save(tmp_path / "run" / str(step) / "params", {"x": jnp.full((2, 2), float(step))})
    found = formats.open_checkpoint(tmp_path / "run")
    assert found.read("x")[0, 0] == 10.0 and found.metadata == {"step": "10"} and found.kind == "orbax"
    assert formats.open_checkpoint(tmp_path / "run" / "2").read("x")[0, 0] == 2.0


def test_the_items_of_a_checkpoint_manager_are_found_or_named(tmp_path):
    def save(*place):
        with ocp.StandardCheckpointer() as saver:
            saver.save(tmp_path.joinpath(*place), {"x": jnp.ones((2, 2))})

    save("only", "7", "default")
    assert formats.open_checkpoint(tmp_path / "only").read("x").sum() == 4.0
    save("several", "7", "model")
    save("several", "7", "optimizer")
    with pytest.raises(FormatError, match="of the items model, optimizer: which of them are the weights.*/7/optimizer or"):
        formats.open_checkpoint(tmp_path / "several")
    assert formats.open_checkpoint(tmp_path / "several" / "7" / "model").read("x").sum() == 4.0


def test_a_damaged_orbax_array_is_one_line(tmp_path):
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "tree", TREE)
    source = formats.open_checkpoint(tmp_path / "tree")
    for file in (tmp_path / "tree" / "ocdbt.process_0" / "d").iterdir():
        file.write_bytes(b"")
    for file in (tmp_path / "tree" / "d").iterdir():
        file.write_bytes(b"")
    with pytest.raises(FormatError, match="cannot be read") as error:
        source.read("embed")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("examples", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutated_indexes_do_no_harm(tmp_path_factory, examples):
    run = settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))(
        given(data=st.data())(mutated))
    run(tmp_path_factory=tmp_path_factory)


def mutated(tmp_path_factory, data):
    place = tmp_path_factory.getbasetemp() / "index"
    place.mkdir(exist_ok=True)
    safetensors.write(place / "a.safetensors", {"x": TENSORS["layer.0"]})
    content = bytearray(json.dumps({"weight_map": {"x": "a.safetensors"}}).encode())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(content)))
        content[at:at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=5))
    (place / INDEX).write_bytes(content)
    try:
        assert set(formats.open_checkpoint(place).tensors) == {"x"}
    except FormatError as error:
        assert "\n" not in str(error)
