"""The decoder against Transformers: logits under left padding, gradients, greedy generation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models

torch = pytest.importorskip("torch", reason="pip install -e '.[test,parity]'")
pytest.importorskip("transformers", reason="pip install -e '.[test,parity]'")

pytestmark = [pytest.mark.parity, pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "olmoe", "qwen3_moe"])]


def padded_tokens(hf, rows=4, width=11):
    """Random tokens, row i left-padded by 2 i, and which positions are real."""
    tokens = np.random.default_rng(0).integers(2, hf.vocab, (rows, width))
    valid = np.arange(width)[None, :] >= 2 * np.arange(rows)[:, None]
    return np.where(valid, tokens, hf.pad), valid


def torch_logits(model, tokens, valid):
    """Position ids count real tokens only, as `generate` does."""
    positions = (np.cumsum(valid, axis=1) - 1).clip(0)
    return model(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(valid.astype(np.int64)),
                 position_ids=torch.tensor(positions)).logits


def test_logits_under_left_padding(hf, family):
    model, c = hf.build(family)
    tokens, valid = padded_tokens(hf)
    params = hf.tree(model.named_parameters(), c)
    got = models.apply(c, params, jnp.asarray(tokens), valid_BxS=jnp.asarray(valid)).logits
    expected = torch_logits(model, tokens, valid).detach().numpy()
    hf.agree(hf.normwise(np.asarray(got)[valid], expected[valid]), 1e-5)


def test_gradients(hf, family):
    model, c = hf.build(family)
    tokens, valid = padded_tokens(hf)
    counted = valid[:, :-1] & valid[:, 1:]
    logp = torch_logits(model, tokens, valid)[:, :-1].log_softmax(-1)
    chosen = logp.gather(-1, torch.tensor(tokens)[:, 1:, None])[..., 0]
    (-(chosen * torch.tensor(counted)).sum() / counted.sum()).backward()
    expected = hf.tree(((name, p.grad) for name, p in model.named_parameters()), c)

    def loss(params):
        logits = models.apply(c, params, jnp.asarray(tokens), valid_BxS=jnp.asarray(valid)).logits[:, :-1]
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(tokens)[:, 1:, None], axis=-1)[..., 0]
        return -(chosen * counted).sum() / counted.sum()

    hf.agree(hf.normwise(jax.grad(loss)(hf.tree(model.named_parameters(), c)), expected), 1e-5)


def test_greedy_generation(hf, family):
    model, c = hf.build(family)
    tokens, valid = padded_tokens(hf, rows=5)
    theirs = model.generate(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(valid.astype(np.int64)),
                            do_sample=False, max_new_tokens=12)[:, tokens.shape[1]:].numpy()
    ours = models.sample(c, hf.tree(model.named_parameters(), c), jnp.asarray(tokens), jax.random.key(0), length=12,
                         temperature=1e-5, eos=hf.eos, pad=hf.pad)
    width = theirs.shape[1]  # generate stops when all rows have ended
    np.testing.assert_array_equal(np.asarray(ours.tokens_NxT)[:, :width], theirs)
    assert not np.asarray(ours.mask_NxT)[:, width:].any()
