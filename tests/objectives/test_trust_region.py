"""Bounds other than a clip against float64 numpy: both signs of A, both sides, held tokens without gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from jaxpost.objectives import trust_region
from tests.objectives import given


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def binary_kl(q, p):
    return q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))


@pytest.mark.parametrize("name, d", [("dppo_tv", lambda q, p: np.abs(p - q)), ("dppo_kl", binary_kl)])
def test_dppo_holds_what_has_moved_too_far_and_would_go_on(name, d):
    objective, view, batch = given.ready(name, N=32, divergence_limit=0.02)
    batch = batch._replace(behaviour_NxT=jnp.minimum(batch.behaviour_NxT, -1e-3))
    logp, old, A, mask = (np.asarray(x) for x in (view.logp_NxT, batch.behaviour_NxT, batch.advantage_NxT, batch.mask_NxT))
    p, q, keep = np.exp(logp), np.exp(old), mask > 0
    held = (np.where(A > 0, p > q, p < q)) & (d(q, p) > 0.02) & keep
    weight = np.minimum(np.exp(logp - old), 20) * ~held
    total, count, aux = objective.loss(view, batch, {})
    assert float(total / count) == pytest.approx((-weight * A * logp)[keep].mean(), rel=1e-12)
    grads = np.asarray(given.differentiated(objective, view, batch)[2].logp_NxT)
    np.testing.assert_allclose(grads[keep], (-weight * A)[keep], atol=1e-13)
    sides = {(sign, bool(away)) for sign, away in zip(np.sign(A[keep & (d(q, p) > 0.02)]), held[keep & (d(q, p) > 0.02)])}
    assert sides >= {(1.0, True), (1.0, False), (-1.0, True), (-1.0, False)}
    assert float(aux["clipped"][0]) == (held | (keep & (np.exp(logp - old) > 20))).sum()


def test_a_binary_divergence_is_below_that_of_the_vocabulary_and_finite():
    rng = np.random.default_rng(0)
    a, b = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in rng.normal(size=(2, 50, 6)))
    kl = (np.exp(b) * (b - a)).sum(-1)
    assert (trust_region.binary_divergence(a[:, 0], b[:, 0], "kl") <= kl + 1e-12).all()
    assert (trust_region.binary_divergence(a[:, 0], b[:, 0], "tv") <= np.abs(np.exp(a) - np.exp(b)).sum(-1) / 2 + 1e-12).all()
    edge = jnp.asarray([0.0, -1e-9, -100.0], jnp.float32)
    assert np.isfinite(trust_region.binary_divergence(edge[:, None], edge[None], "kl")).all()


def test_gmpo_is_the_geometric_mean_of_bounded_ratios():
    objective, view, batch = given.ready("gmpo", N=16, log_clip_low=0.2, log_clip_high=0.3)
    total, count, _ = objective.loss(view, batch, {})
    grads = np.asarray(given.differentiated(objective, view, batch)[2].logp_NxT)
    expected = 0.0
    for n in range(16):
        keep = np.asarray(batch.mask_NxT[n]) > 0
        A = float(batch.advantage_NxT[n, 0])
        log_ratio = np.asarray(view.logp_NxT - batch.behaviour_NxT)[n][keep]
        bounded = np.minimum(log_ratio, 0.3) if A > 0 else np.maximum(log_ratio, -0.2)
        x = -np.prod(np.exp(bounded)) ** (1 / keep.sum()) * A
        expected += x
        np.testing.assert_allclose(grads[n][keep], np.where(bounded == log_ratio, x / keep.sum(), 0.0), atol=1e-13)
    assert float(total / count) == pytest.approx(expected / 16, rel=1e-12)


@pytest.mark.parametrize("name, parts, message", [
    ("gmpo", {"ratio": "token"}, "ratio='token' has no effect"), ("gmpo", {"log_clip_low": 0.0}, "must be greater than 0"),
    ("dppo_tv", {"divergence": "tvd"}, "choose one of tv, kl"), ("dppo_kl", {"divergence_limit": 0.0}, "greater than 0")])
def test_what_is_refused(name, parts, message):
    with pytest.raises(ValueError, match=message):
        objectives.get(name, **parts)
