"""Distillation against float64 numpy, its limits, and the sampled form against the expectation that it estimates."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from jaxpost.objectives import kl
from tests.objectives import given


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def divergence(p, q, w):
    """Of log-probabilities: w = 0 forward, 1 reverse."""
    if w in (0, 1):
        a, b = (q, p) if w == 0 else (p, q)
        return (np.exp(a) * (a - b)).sum(-1)
    m = np.log(w * np.exp(q) + (1 - w) * np.exp(p))
    return w * (np.exp(q) * (q - m)).sum(-1) + (1 - w) * (np.exp(p) * (p - m)).sum(-1)


def test_jensen_shannon_with_entries_that_cannot_be_taken():
    """-inf in one, in the other and in both, against numpy over the entries left; d/dz of p's logits in closed form."""
    rng = np.random.default_rng(0)
    z, y, w = rng.normal(size=(3, 6)), rng.normal(size=(3, 6)), 0.3
    z[0, 1] = z[1, 2] = y[1, 3] = z[2, 4] = y[2, 4] = -np.inf
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (z, y))
    m = w * q + (1 - w) * p
    over_m = [np.log(np.where(x > 0, x, 1) / np.where(x > 0, m, 1)) for x in (p, q)]
    value = (w * q * over_m[1] + (1 - w) * p * over_m[0]).sum(-1)
    slope = [(1 - u) * x * (x_m - (x * x_m).sum(-1, keepdims=True)) for u, x, x_m in ((w, p, over_m[0]), (1 - w, q, over_m[1]))]
    np.testing.assert_allclose(kl.jensen_shannon(jnp.asarray(z), jnp.asarray(y), w), value, rtol=1e-12)
    gradients = jax.grad(lambda z, y: kl.jensen_shannon(z, y, w).sum(), (0, 1))(jnp.asarray(z), jnp.asarray(y))
    for computed, closed in zip(gradients, slope):
        np.testing.assert_allclose(computed, closed, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name, parts, w", [
    ("distillation", {}, 0), ("on_policy_distillation", {}, 1), ("gkd", {}, 0.5), ("gkd", {"teacher_weight": 0.2}, 0.2)])
def test_against_numpy(name, parts, w):
    objective, view, batch = given.ready(name, **parts)
    p, q, keep = log_softmax(np.asarray(view.logits_NxTxV)), log_softmax(np.asarray(view.reference_NxTxV)), batch.mask_NxT > 0
    total, count, aux = objective.loss(view, batch, {})
    assert float(total / count) == pytest.approx(divergence(p, q, w)[keep].mean(), rel=1e-12)
    assert float(aux["reverse_kl"][0] / aux["reverse_kl"][1]) == pytest.approx(divergence(p, q, 1)[keep].mean(), rel=1e-12)
    grads = given.differentiated(objective, view, batch)[2]
    assert np.any(grads.logits_NxTxV) and not np.any(grads.reference_NxTxV)


def test_the_ends_of_the_mixture_are_the_two_divergences():
    _, view, batch = given.ready("gkd")
    for w, other in ((1e-7, "forward"), (1 - 1e-7, "reverse")):
        near = given.recipe("gkd", teacher_weight=w).loss(view, batch, {})
        end = given.recipe("gkd", divergence=other, teacher_weight=None).loss(view, batch, {})
        assert float(near[0]) / min(w, 1 - w) == pytest.approx(float(end[0]), rel=1e-4)


def test_the_sampled_form_has_the_gradient_of_the_reverse_kl_in_expectation():
    """Over all single-token samples of the policy: E[grad] = grad KL(p || q)."""
    rng = np.random.default_rng(0)
    theta, q = jnp.asarray(rng.normal(size=4)), jax.nn.log_softmax(jnp.asarray(rng.normal(size=4)))
    exact = jax.grad(lambda t: jnp.sum(jax.nn.softmax(t) * (jax.nn.log_softmax(t) - q)))(theta)
    objective, logp, total = given.recipe("on_policy_distillation_sampled"), jax.nn.log_softmax(theta), 0.0
    for pair in itertools.product(range(4), repeat=2):
        index, one = jnp.asarray(pair), jnp.ones((2, 1))
        batch = objective.prepare(objectives.Batch(None, None, one, reward_N=jnp.asarray([1.0, 0.0]),
                                                   behaviour_NxT=logp[index][:, None], reference_NxT=q[index][:, None]), 2)

        def loss(t, index=index, batch=batch):
            s, count, _ = objective.loss(objectives.View(jax.nn.log_softmax(t)[index][:, None]), batch, {})
            return s / count

        total = total + float(np.exp(logp[index].sum())) * jax.grad(loss)(theta)
    np.testing.assert_allclose(total, exact, atol=1e-14)


def test_the_sampled_form_credits_every_token_with_its_own_ratio_and_no_reward():
    objective, _, batch = given.ready("on_policy_distillation_sampled")
    expected = np.asarray((batch.reference_NxT - batch.behaviour_NxT) * batch.mask_NxT)
    np.testing.assert_allclose(batch.advantage_NxT, expected, atol=1e-13)


@pytest.mark.parametrize("name, parts, message", [
    ("gkd", {"teacher_weight": 1.0}, "between 0 and 1"), ("distillation", {"teacher_weight": 0.5}, "the others take None"),
    ("distillation", {"demonstrated": True}, "no effect with rows"), ("gkd", {"divergence": "jsd"}, "choose one of forward")])
def test_what_is_refused(name, parts, message):
    with pytest.raises(ValueError, match=message):
        objectives.get(name, **parts)
