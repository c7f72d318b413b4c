"""Forgetting on general text against a float64 loop over tokens; parts of the rows; a mesh."""

import jax
import numpy as np
import pytest
import scipy.special

from jaxpost import models, sharding
from jaxpost.training.general_text import GeneralText
from tests import compiled

MODEL = models.TransformerConfig(vocab=31, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, ff=16)
PAD = 0


@pytest.fixture(scope="module")
def given():
    base = models.init(MODEL, jax.random.key(0))
    policy = jax.tree.map(lambda x: 1.2 * x, base)
    rng = np.random.default_rng(0)
    mask = (np.arange(7) < np.asarray([7, 2, 5, 3])[:, None]).astype(np.float32)
    tokens = np.where(mask > 0, rng.integers(1, 31, mask.shape), PAD).astype(np.int32)
    return base, policy, tokens, mask


def test_loss_and_divergence_are_those_of_a_loop_over_the_real_tokens(given):
    base, policy, tokens, mask = given
    losses, divergences = [], []
    for row, length in zip(tokens, mask.sum(axis=1).astype(int)):
        ids = row[:length]  # alone: neither padding nor other rows
        found = [compiled.apply(MODEL, weights, ids[None], valid_BxS=np.ones((1, length), bool)) for weights in (policy, base)]
        logits = [np.asarray(output.logits[0], np.float64) for output in found]
        own, other = (scipy.special.log_softmax(x, axis=-1) for x in logits)
        for t in range(1, length):
            losses.append(-own[t - 1, ids[t]])
            divergences.append(np.exp(other[t - 1]) @ (other[t - 1] - own[t - 1]))
    for at_a_time in (1, 2, 4):
        found = GeneralText(MODEL, tokens, mask, at_a_time, PAD).measure(policy, base)
        assert found["text_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
        assert found["text_kl"] == pytest.approx(np.mean(divergences), rel=1e-4)


def test_the_base_has_not_moved_and_a_mesh_changes_nothing(given):
    base, policy, tokens, mask = given
    assert GeneralText(MODEL, tokens, mask, 4, PAD).measure(base, base)["text_kl"] == pytest.approx(0.0, abs=1e-7)
    mesh = sharding.make_mesh({"data": 2}, jax.devices()[:2])
    whole, spread = (GeneralText(MODEL, tokens, mask, 4, PAD, place).measure(policy, base) for place in (None, mesh))
    assert spread == pytest.approx(whole, rel=1e-5)


def test_rows_at_a_time_divide_the_texts(given):
    with pytest.raises(ValueError, match="3 rows at a time do not divide 4 texts"):
        GeneralText(MODEL, *given[2:], 3, PAD)
