"""Pieces of both sides lie at the same place whatever the files look like; bf16 rounding is the one of JAX."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxpost.compare import fp8, reading
from jaxpost.compare.errors import CompareError
from jaxpost.compare.pairing import open_side, pair
from jaxpost.formats import FormatError, open_checkpoint, safetensors
from tests.compare import checkpoints


def test_bf16_codes_are_those_of_jax_ties_subnormals_and_broken_values_included():
    rng = np.random.default_rng(0)
    w = rng.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    ties = (rng.integers(0, 0x7F80, 4096).astype(np.uint32) << 16 | 0x8000).view(np.float32)
    for x in (w[np.isfinite(w)], ties, np.asarray([0, -0.0, np.inf, -np.inf, 1e-40], np.float32)):
        expected = x.astype(ml_dtypes.bfloat16).view(np.uint16)
        np.testing.assert_array_equal(reading.bf16_codes(x), expected)
    broken = np.asarray([np.nan, -np.nan], np.float32)
    assert np.isnan(reading.bf16_values(reading.bf16_codes(broken))).all()
    np.testing.assert_array_equal(reading.bf16_values(reading.bf16_codes(w[np.isfinite(w)])),
                                  np.asarray(jnp.asarray(w[np.isfinite(w)]).astype(jnp.bfloat16).astype(jnp.float32)))


@pytest.mark.parametrize("piece", [64, 1000, 2**19])
def test_pieces_put_together_are_the_parameter_of_both_sides(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(reading, "PIECE", piece)
    tensors = checkpoints.base_tensors()
    tuned = checkpoints.moved(tensors)
    a = open_side(checkpoints.write(tmp_path / "a", tensors), "base")
    b = open_side(checkpoints.write(tmp_path / "b", tuned, np.float32, shards=2), "b")
    reader = reading.Reader()
    for p in pair(a, [b]).pairs:
        stream, turned = reading.pieces(a, b, p, reader)
        parts = [[x.copy() for x in both] for both in stream]
        for i, side in enumerate((a, b)):
            flat = np.concatenate([both[i] for both in parts])
            shape = p.shape[::-1] if turned else p.shape
            expected = reading.whole(side, p)
            np.testing.assert_array_equal(flat.reshape(shape).T if turned else flat.reshape(shape), expected)
    reader.close()


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    path = checkpoints.write(tmp_path / "a", checkpoints.base_tensors())
    side = open_side(path, "base")
    with open(path / "model.safetensors", "r+b") as file:
        file.truncate(20_000)
    p = next(p for p in pair(side, [side]).pairs if p.name == "layers/0/down")
    with pytest.raises(FormatError, match="ends before byte"):
        list(reading.pieces(side, side, p, reading.Reader())[0])


def test_fp8_is_multiplied_by_its_scales_and_refused_without(tmp_path):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((200, 150)).astype(ml_dtypes.float8_e4m3fn)
    block, one, row = (rng.random(shape).astype(np.float32) for shape in ((2, 2), (1,), (200, 1)))
    safetensors.write(tmp_path / "x.safetensors", {
        "a.weight": w, "a.weight_scale_inv": block, "b.weight": w, "b.weight_scale": one, "c.weight": w, "c.weight_scale": row})
    source = fp8.dequantised(open_checkpoint(tmp_path / "x.safetensors"))
    assert set(source.tensors) == {"a.weight", "b.weight", "c.weight"}
    spread = np.kron(block, np.ones((128, 128), np.float32))[:200, :150]
    for name, scale in (("a", spread), ("b", one[0]), ("c", row)):
        expected = w.astype(np.float32) * scale
        np.testing.assert_array_equal(source.read(f"{name}.weight"), expected)
        np.testing.assert_array_equal(source.read(f"{name}.weight", slice(120, 140)), expected[120:140])
    safetensors.write(tmp_path / "y.safetensors", {"a.weight": w})
    with pytest.raises(CompareError, match="has no a.weight_scale_inv or a.weight_scale: fp8 without scales"):
        fp8.dequantised(open_checkpoint(tmp_path / "y.safetensors"))
    safetensors.write(tmp_path / "z.safetensors", {"a.weight": w, "a.weight_scale": block[0]})
    with pytest.raises(CompareError, match="has scales of shape"):
        fp8.dequantised(open_checkpoint(tmp_path / "z.safetensors")).read("a.weight")
