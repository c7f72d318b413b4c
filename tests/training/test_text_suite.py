"""Evaluation with a verifier on the host against the one that runs on the device, in parts and on a mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxpost import models, sharding, tasks, training
from jaxpost.tasks import text
from jaxpost.training import evaluate
from jaxpost.training.text_suite import TextSuite
from tests import compiled

N = 8
MODEL = models.TransformerConfig(vocab=tasks.vocab.SIZE, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, ff=16)
PLAIN = tasks.get("addition", digits=1)


def rewarded(tokens_T):
    """Ended, after an even number of tokens."""
    ended_T = tokens_T == PLAIN.eos
    return (ended_T.any() & (ended_T.argmax() % 2 == 0)).astype(jnp.float32)


def on_host(problem, said):
    return float(len(said) % 2 == 0)


TASK = dataclasses.replace(PLAIN, verify=lambda problem, tokens_T: rewarded(tokens_T), verify_host=on_host)


def spelled(ids):
    return "".join(map(chr, ids))


@pytest.fixture(scope="module")
def given():
    base = models.init(MODEL, jax.random.key(0))
    policy = jax.tree.map(lambda x: 1.2 * x, base)
    problems_N = tasks.problems(TASK, "id", jnp.arange(N))
    return base, policy, text.Row(np.asarray(jax.vmap(TASK.prompt)(problems_N)), None, np.arange(N, dtype=np.int32))


def suite(rows, at_a_time, mesh=None):
    return TextSuite(MODEL, TASK, [None] * N, rows, spelled, at_a_time, mesh)


def test_the_values_are_those_of_the_device_suite(given):
    base, policy, rows = given
    key, found = jax.random.key(3), suite(rows, N)
    own = found.measure(policy, base, found.samples(base, key), key)
    wanted = jax.jit(training.Suite(MODEL, (("id", TASK, "id"),), N, "id").measure)(policy, base, jax.random.fold_in(key, 0))
    assert set(own) == set(wanted) and 0 < own["success/id"] < 1
    for name, value in wanted.items():
        np.testing.assert_allclose(own[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("chunk", (0, 40))  # 40 of 51 entries: three positions at a time, of four
def test_divergences_are_those_of_a_loop_over_the_tokens_of_each_policys_own_samples(given, chunk):
    base, policy, rows = given
    rng, prompt_NxP = np.random.default_rng(2), rows[0]

    def completions(lengths):
        tokens = rng.integers(1, MODEL.vocab, (N, 4)).astype(np.int32)
        mask = (np.arange(4) < np.asarray(lengths)[:, None]).astype(np.float32)
        return models.Completions(jnp.asarray(tokens), jnp.zeros(mask.shape), jnp.asarray(mask))

    def each(samples):  # (log p, log p0) of every real token
        logits = [np.asarray(compiled.token_logits(MODEL, w, prompt_NxP, samples.tokens_NxT, PLAIN.pad), np.float64)
                  for w in (policy, base)]
        both = [x - scipy.special.logsumexp(x, axis=-1, keepdims=True) for x in logits]
        return [(both[0][n, t], both[1][n, t]) for n, t in np.argwhere(np.asarray(samples.mask_NxT) > 0)]

    made, drawn = completions([1, 4, 2, 3, 4, 1, 2, 2]), completions([1, 1, 2, 1, 1, 3, 1, 2])
    forward = sum(np.exp(q) @ (q - p) for p, q in each(drawn))
    reverse = sum(np.exp(p) @ (p - q) for p, q in each(made))
    entropy = sum(-np.exp(p) @ p for p, _ in each(made))
    found = evaluate.means(evaluate.divergence_sums(dataclasses.replace(MODEL, logprob_chunk=chunk), policy, base, prompt_NxP,
                                                      made, drawn, PLAIN.pad))
    wanted = {"kl_forward": forward / N, "kl_forward_token": forward / 12, "kl_reverse": reverse / N,
              "kl_reverse_token": reverse / 19, "entropy": entropy / 19}
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)


def test_parts_are_pooled_by_their_tokens_and_a_mesh_changes_nothing(given):
    base, policy, rows = given
    key, halves = jax.random.key(3), suite(rows, N // 2)
    made, drawn = halves.samples(policy, key), halves.samples(base, key)
    tokens = [float(part.mask_NxT.sum()) for part in made]
    alone = []
    for i, part in enumerate(made):
        few = dataclasses.replace(suite(jax.tree.map(lambda x, i=i: x[i * 4:i * 4 + 4], rows), 4), problems=[None] * 4)
        sums = few.programs[1](policy, base, few.rows_N.prompt_P, part, drawn[i])
        alone.append((float(sums["entropy"] / sums["tokens"]), few.reward([part])))
    pooled = halves.measure(policy, base, drawn, key)
    entropy, reward = zip(*alone)
    np.testing.assert_allclose(pooled["entropy"], np.dot(entropy, tokens) / np.sum(tokens), rtol=1e-6)
    assert tokens[0] != tokens[1] and pooled["success/id"] == np.mean(reward)
    mesh = sharding.make_mesh({"data": 2}, jax.devices()[:2])
    many = suite(rows, N // 2, mesh)
    spread = many.measure(policy, base, many.samples(base, key), key)
    for name, value in pooled.items():
        np.testing.assert_allclose(spread[name], value, rtol=1e-5, err_msg=name)


def test_rows_at_a_time_divide_the_problems(given):
    with pytest.raises(ValueError, match="3 rows at a time do not divide 8 problems"):
        suite(given[2], 3)
