"""Sampling from the most probable tokens: the distribution against plain numpy, the samples against the distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost.models import sampler
from tests import compiled
from tests.models.test_transformer import config, random_params


def by_hand(p, top_k, top_p):
    """float64 probabilities of one row: sorted, cut, renormalised, in loops."""
    order = sorted(range(len(p)), key=lambda i: -p[i])
    kept = order[:top_k] if top_k else order
    total, nucleus = sum(p[i] for i in kept), []
    for i in kept:
        if sum(p[j] for j in nucleus) / total >= top_p:
            break
        nucleus.append(i)
    total = sum(p[i] for i in nucleus)
    return [p[i] / total if i in nucleus else 0.0 for i in range(len(p))]


@pytest.mark.parametrize("top_k, top_p", [(0, 1.0), (3, 1.0), (0, 0.6), (5, 0.7), (99, 1.0), (1, 1.0), (0, 1e-6)])
def test_the_distribution_is_the_one_by_hand(top_k, top_p):
    logits = np.random.default_rng(0).normal(size=(20, 11)) * 2
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = np.exp(sampler.truncated(jax.nn.log_softmax(jnp.asarray(logits, jnp.float32)), top_k, top_p))
    np.testing.assert_allclose(found, [by_hand(list(row), top_k, top_p) for row in p], atol=2e-6)


def test_tokens_as_probable_as_the_last_one_stay():
    logp = jnp.log(jnp.asarray([[0.4, 0.2, 0.2, 0.1, 0.1]]))
    np.testing.assert_allclose(np.exp(sampler.truncated(logp, top_k=2)), [[0.5, 0.25, 0.25, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(np.exp(sampler.truncated(logp, top_p=0.5)), [[0.5, 0.25, 0.25, 0, 0]], atol=1e-6)


def test_sampled_log_probabilities_are_of_the_truncated_distribution():
    c = config()
    params, prompt = random_params(c), jax.random.randint(jax.random.key(1), (64, 5), 1, 17)
    made = compiled.sample(c, params, prompt, jax.random.key(2), length=6, temperature=0.7, top_k=6, top_p=0.8, eos=99)
    logits = compiled.token_logits(c, params, prompt, made.tokens_NxT) / 0.7
    p = np.asarray(jax.nn.softmax(logits), np.float64).reshape(-1, 17)
    token, logp = np.asarray(made.tokens_NxT).reshape(-1), np.asarray(made.logp_NxT).reshape(-1)
    exact = np.asarray([by_hand(list(row), 6, 0.8)[t] for row, t in zip(p, token)])
    assert (exact > 0).mean() > 0.99  # a token at the edge may fall on the other side in float32
    np.testing.assert_allclose(logp[exact > 0], np.log(exact[exact > 0]), atol=1e-3)
    assert (exact > p[np.arange(len(token)), token] * 1.05).mean() > 0.9  # it was truncated
