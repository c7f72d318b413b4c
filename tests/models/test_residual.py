"""Residual states against a float64 forward pass in numpy, against `apply`, and under edits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models
from tests.models import float64

MODEL = models.TransformerConfig(vocab=23, width=16, layers=2, heads=4, kv_heads=2, head_dim=8, ff=24)
TOKENS = np.random.default_rng(0).integers(0, 23, (6, 5))
VALID = jnp.ones(TOKENS.shape, bool)


@pytest.fixture(scope="module")
def params():
    return models.init(MODEL, jax.random.key(0))


def streamed(params, model=MODEL, **settings):
    return models.residual_stream(model, params, jnp.asarray(TOKENS), valid_BxS=VALID, **settings)


@pytest.mark.parametrize("tied", [False, True])
def test_states_and_lens_are_those_of_float64(params, tied):
    model = dataclasses.replace(MODEL, tied=tied)
    found, wide = streamed(params, model), float64.wide(params)
    lens = models.logit_lens(model, params, found.state_JxBxTxD[1])
    for n, tokens in enumerate(TOKENS):
        state_JxTxD, logits_TxV = float64.run(model, wide, tokens)
        np.testing.assert_allclose(found.state_JxBxTxD[:, n], state_JxTxD, atol=2e-6)
        np.testing.assert_allclose(found.logits_BxTxV[n], logits_TxV, atol=5e-6)
        np.testing.assert_allclose(lens[n], float64.lens(model, wide, state_JxTxD[1]), atol=5e-6)


def test_the_pass_is_that_of_apply_and_the_lens_of_the_last_state_is_the_output(params):
    found = streamed(params)
    out = models.apply(MODEL, params, jnp.asarray(TOKENS), valid_BxS=VALID)
    np.testing.assert_array_equal(found.logits_BxTxV, out.logits)
    np.testing.assert_array_equal(models.logit_lens(MODEL, params, found.state_JxBxTxD[-1]), out.logits)
    np.testing.assert_array_equal(streamed(params, first=3).logits_BxTxV, out.logits[:, 3:])


def test_an_edit_is_read_by_later_layers_and_later_positions_only(params):
    plain = streamed(params)
    found = streamed(params, edit=lambda x, j: x.at[:, 2].add(jnp.where(j == 1, 1.0, 0.0)))
    np.testing.assert_array_equal(found.state_JxBxTxD[0], plain.state_JxBxTxD[0])
    np.testing.assert_allclose(found.state_JxBxTxD[1, :, 2], plain.state_JxBxTxD[1, :, 2] + 1.0, rtol=1e-6)
    np.testing.assert_array_equal(found.logits_BxTxV[:, :2], plain.logits_BxTxV[:, :2])
    assert (np.abs(found.logits_BxTxV - plain.logits_BxTxV)[:, 2:].max(axis=(0, 2)) > 1e-2).all()


def test_attention_patterns_are_those_of_float64_and_change_nothing_bitwise(params):
    found, wide = streamed(params, scores=True), float64.wide(params)
    pattern_LxBxHxTxT = jax.nn.softmax(found.score_LxBxHxTxT, axis=-1)
    for n, tokens in enumerate(TOKENS):
        np.testing.assert_allclose(pattern_LxBxHxTxT[:, n], float64.patterns(MODEL, wide, tokens), atol=2e-6)
    plain = streamed(params)
    assert plain.score_LxBxHxTxT is None
    with_taps, without = (jax.jit(lambda p, scores=scores: streamed(p, scores=scores))(params) for scores in (True, False))
    for one, other in ((found, plain), (with_taps, without)):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
