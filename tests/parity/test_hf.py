"""Directories of transformers in and out: logits, greedy decoding, and every bit of the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models
from jaxpost.models import hf as directories

torch = pytest.importorskip("torch", reason="pip install -e '.[test,parity]'")
transformers = pytest.importorskip("transformers", reason="pip install -e '.[test,parity]'")

pytestmark = [pytest.mark.parity, pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "olmoe", "qwen3_moe"])]
MARGIN = 1e-4  # greedy tokens must agree wherever the two largest logits are further apart


def tokens_of(hf, rows=4, width=11):
    return np.random.default_rng(3).integers(2, hf.vocab, (rows, width))


def test_loaded_logits_and_greedy_decoding(hf, family, tmp_path):
    model, _ = hf.build(family)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    c, params = directories.load(tmp_path)
    tokens = tokens_of(hf)
    got = np.asarray(models.apply(c, params, jnp.asarray(tokens), valid_BxS=jnp.ones(tokens.shape, bool)).logits)
    expected = model(input_ids=torch.tensor(tokens)).logits.detach().numpy()
    hf.agree(hf.normwise(got, expected), 1e-5)
    top = np.sort(expected, axis=-1)
    clear = top[..., -1] - top[..., -2] > MARGIN
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(got.argmax(-1)[clear], expected.argmax(-1)[clear])


def test_what_is_saved_is_what_transformers_loads(hf, family, tmp_path):
    _, c = hf.build(family)
    params = models.init(c, jax.random.key(1))
    directories.save(tmp_path / "ours", c, params, shard_bytes=9_000)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    tokens = tokens_of(hf)
    got = np.asarray(models.apply(c, params, jnp.asarray(tokens), valid_BxS=jnp.ones(tokens.shape, bool)).logits)
    hf.agree(hf.normwise(got, model(input_ids=torch.tensor(tokens)).logits.detach().numpy()), 1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_round_trip_is_bitwise(hf, family, dtype, tmp_path):
    model, _ = hf.build(family)
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "theirs")
    c, params = directories.load(tmp_path / "theirs", dtype=None)
    directories.save(tmp_path / "ours", c, params, like=tmp_path / "theirs")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=getattr(torch, dtype))
    expected = dict(model.named_parameters())
    assert set(expected) == set(dict(again.named_parameters()))
    for name, x in again.named_parameters():
        assert x.dtype == expected[name].dtype and torch.equal(x, expected[name]), name
