"""What a reader is told before any number."""

import json

import numpy as np
import pytest

from jaxpost.compare import compare, flags
from jaxpost.compare.pairing import open_side
from tests.compare import checkpoints


def side(path, label, tensors, **settings):
    dtype = settings.pop("dtype", checkpoints.BF16)
    return open_side(checkpoints.write(path / label, tensors, dtype, **settings), label)


@pytest.fixture
def tensors():
    return checkpoints.base_tensors()


def test_nothing_is_said_of_a_plain_pair(tmp_path, tensors):
    assert flags.of_files(side(tmp_path, "a", tensors), side(tmp_path, "b", checkpoints.moved(tensors))) == []


def test_configurations_and_tokenizers_that_differ_are_named(tmp_path, tensors):
    a = side(tmp_path, "a", tensors, config=checkpoints.CONFIG | {"rope_theta": 1e4, "torch_dtype": "bfloat16"})
    b = side(tmp_path, "b", tensors, config=checkpoints.CONFIG | {"rope_theta": 1e6, "torch_dtype": "float32"})
    (tmp_path / "a" / "tokenizer.json").write_text(json.dumps({"version": 1}))
    (tmp_path / "b" / "tokenizer.json").write_text(json.dumps({"version": 2}))
    (tmp_path / "a" / "merges.txt").write_text("a b")
    assert flags.of_files(a, b) == ["b: config.json differs: rope_theta (10000.0, 1000000.0)", "b: tokenizer.json differs"]


def test_swapped_sides_show_in_steps_and_in_dtypes(tmp_path, tensors):
    a = side(tmp_path, "a", tensors, metadata={"global_step": "400"})
    b = side(tmp_path, "b", tensors, metadata={"global_step": "0"})
    assert flags.of_files(a, b) == ["b: the base says step 400, the tuned side step 0: are the two swapped?"]
    assert flags.of_files(b, a) == []
    wide = side(tmp_path, "wide", tensors, dtype=np.float32)
    assert "are they swapped?" in flags.of_files(wide, b)[0]
    assert flags.of_files(b, wide) == ["wide: stored dtypes differ: base BF16; tuned F32; both are cast as each definition "
                                       "says"]


def test_the_same_checkpoint_twice_and_tensors_that_did_not_move(tmp_path, tensors):
    base = checkpoints.write(tmp_path / "base", tensors)
    copy = compare(base, checkpoints.write(tmp_path / "copy", tensors), level="element")
    assert copy.flags == ["copy: every compared tensor is bit-identical to the base: is it the same checkpoint?"]
    said = copy.headline()
    assert "100 % (blind 100 % [100, 100]): inside its null band" in said and "stands out  nothing" in said
    wide = checkpoints.write(tmp_path / "wide", checkpoints.changed(tensors, lambda name, x: x), np.float32)
    said = compare(base, wide, level="element").flags
    assert said[1] == "wide: every compared tensor is equal to the base, value by value: is it the same checkpoint?"
    tuned = checkpoints.changed(tensors, lambda name, x: x + 1e-2)
    tuned["model.layers.0.mlp.gate_proj.weight"] = tuned["model.layers.0.mlp.up_proj.weight"]
    said = compare(base, checkpoints.write(tmp_path / "some", tuned), level="element").flags
    assert said[0].startswith("some: 7 of 14 tensors are bit-identical to the base: ")
    assert said[1:] == ["some: the same tensor stands under layers/0/gate, layers/0/up"]


def test_norms_of_ones_and_zero_biases_are_no_repeats(tmp_path, tensors):
    level = {name: np.full_like(x, 0.1 if "norm" in name else 0.0) if x.ndim == 1 else x for name, x in tensors.items()}
    base, tuned = (checkpoints.write(tmp_path / name, level, dtype) for name, dtype in (("a", None), ("b", checkpoints.BF16)))
    assert not [flag for pair in ((base, tuned), (tuned, base)) for flag in compare(*pair, level="element").flags
                if "same tensor" in flag]
