"""Closed-form and golden values of the objectives, in float64; the golden numbers are from an independent transcription."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from jaxpost.objectives import advantages, aggregation, clipping, kl

LOGP = [[-.5, -1, -.2, -2], [-.7, -.1, 0, 0]]
BEHAVIOUR = [[-.6, -1, -.7, -1.5], [-.4, -.4, 0, 0]]
REFERENCE = [[-.4, -1.2, -.3, -1], [-.9, -.1, 0, 0]]
MASK = [[1., 1, 1, 1], [1, 1, 0, 0]]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def batch(advantage=(1.0, -1.0)):
    a = np.repeat(np.asarray(advantage)[:, None], 4, axis=1)
    return objectives.Batch(None, None, jnp.asarray(MASK), behaviour_NxT=jnp.asarray(BEHAVIOUR),
                            reference_NxT=jnp.asarray(REFERENCE), advantage_NxT=jnp.asarray(a))


def value_and_norm(objective):
    def loss(logp):
        total, count, _ = objective.loss(objectives.View(logp), batch(), {})
        return total / count

    value, grad = jax.value_and_grad(loss)(jnp.asarray(LOGP))
    return float(value), float(jnp.linalg.norm(grad))


@pytest.mark.parametrize("name, overrides, value, norm", [
    ("grpo", {"aggregation": "token"}, -0.293640, 0.350056),
    ("grpo", {}, 0.048502, 0.392861),
    ("grpo", {"aggregation": "constant", "aggregation_length": 4}, -0.220230, 0.262542),
    ("grpo", {"aggregation": "sequence_sum"}, -0.880921, 1.050167),
    ("dr_grpo", {"aggregation_length": 4}, -0.220230, 0.262542),
    ("grpo", {"aggregation": "token", "clip_high": 0.28}, -0.306974, 0.350056),
    ("grpo", {"aggregation": "constant_total", "aggregation_length": 4}, -0.440461, 0.525083),
    ("grpo", {"ratio": "sequence"}, -0.012658, 0.436697),
    ("gspo", {"clip_low": 0.2, "clip_high": 0.2}, -0.012658, 0.436697),
    ("gspo_token", {"clip_low": 0.2, "clip_high": 0.2}, -0.012658, 0.436697),
    ("gspo", {"clip_low": 0.2, "clip_high": 0.2, "aggregation": "sequence_sum"}, -1.050630, 1.245500),
    ("cispo", {"clip": "capped_weight", "clip_cap": 1.28, "clip_high": None}, 0.395846, 0.422127),
    ("cispo", {"clip_low": 0.2}, 0.453431, 0.433916),
    ("cispo", {"clip_low": 0.2, "aggregation": "sequence"}, 0.254073, 0.461204),
    ("cispo", {"clip_low": 0.2, "aggregation": "constant", "aggregation_length": 4}, 0.340073, 0.325437),
    ("cispo", {"clip_low": 0.2, "aggregation": "constant_total", "aggregation_length": 4}, 0.680146, 0.650875),
])
def test_golden_policy_losses(name, overrides, value, norm):
    got = value_and_norm(objectives.get(name, **overrides))
    np.testing.assert_allclose(got, (value, norm), rtol=0, atol=5.1e-7)


def test_golden_rloo_and_cross_entropy():
    assert value_and_norm(objectives.get("rloo"))[0] == pytest.approx(-0.05258546, abs=5e-9)
    assert value_and_norm(objectives.get("cross_entropy"))[0] == pytest.approx(0.75, abs=1e-12)
    assert value_and_norm(objectives.get("cross_entropy", aggregation="sequence"))[0] == pytest.approx(0.6625, abs=1e-12)


@pytest.mark.parametrize("estimator, token, sequence", [
    ("k1", -0.1, -0.05), ("k2", 0.0916666667, 0.07125), ("k3", 0.127625, 0.09806)])
def test_golden_kl(estimator, token, sequence):
    k = kl.estimate(jnp.asarray(LOGP), jnp.asarray(REFERENCE), estimator)
    for mode, expected in (("token", token), ("sequence", sequence)):
        total, count = aggregation.aggregate(k, jnp.asarray(MASK), mode)
        assert float(total / count) == pytest.approx(expected, abs=1e-6)


REWARDS = np.asarray([[1, 0, 0, 1, 1, .5, 0, 1]])


@pytest.mark.parametrize("ddof, eps, first, second, half", [
    (1, 1e-4, .882741, -1.134952, -.126106), (1, 1e-6, .882917, -1.135179, -.126131), (0, 1e-4, .943676, -1.213298, -.134811)])
def test_golden_group_advantages(ddof, eps, first, second, half):
    a = advantages.advantage(jnp.asarray(REWARDS), baseline="mean", scale="group", ddof=ddof, eps=eps)[0]
    np.testing.assert_allclose([a[0], a[1], a[5]], [first, second, half], atol=2e-6)


def test_leave_one_out_is_the_mean_of_the_others():
    rng = np.random.default_rng(0)
    r = rng.normal(size=(3, 5))
    expected = np.stack([[r[b, i] - np.delete(r[b], i).mean() for i in range(5)] for b in range(3)])
    np.testing.assert_allclose(advantages.advantage(jnp.asarray(r), baseline="leave_one_out"), expected, atol=1e-12)


def test_a_group_without_signal_has_no_advantage():
    for baseline in ("mean", "leave_one_out"):
        a = advantages.advantage(jnp.full((2, 4), 0.7), baseline=baseline, scale="group")
        np.testing.assert_allclose(a, 0.0, atol=1e-9)


def test_raft_weights_equal_cycling_the_accepted_rows():
    r = jnp.asarray([[1., 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    w = advantages.accepted(r)
    np.testing.assert_allclose(w, [[2, 0, 0, 2], [0, 0, 0, 0], [1, 1, 1, 1]])


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("ratio", [0.5, 0.7999, 1.0, 1.2799, 2.0])
def test_clip_table_both_signs_three_regions(advantage, ratio):
    """The clip holds (no gradient) exactly where moving further would raise the surrogate beyond its bound."""
    low, high = 0.2, 0.28
    loss, slope = jax.value_and_grad(
        lambda r: clipping.clipped(jnp.reshape(r, (1, 1)), jnp.log(jnp.reshape(r, (1, 1))), jnp.full((1, 1), advantage),
                                   low=low, high=high)[0].sum())(ratio)
    held = (advantage > 0 and ratio > 1 + high) or (advantage < 0 and ratio < 1 - low)
    bound = np.clip(ratio, 1 - low, 1 + high)
    expected = -min(ratio * advantage, bound * advantage)
    assert float(loss) == pytest.approx(expected, abs=1e-12)
    assert float(slope) == pytest.approx(0.0 if held else -advantage, abs=1e-12)


def test_kl_gradients_by_enumeration():
    """E[grad k1] = 0, E[grad k2] = grad KL(pi||ref), E[grad k3] = grad KL(ref||pi), over all actions of a softmax."""
    rng = np.random.default_rng(1)
    theta, phi = jnp.asarray(rng.normal(size=5)), jnp.asarray(rng.normal(size=5))
    ref = jax.nn.log_softmax(phi)

    def expected_gradient(estimator):
        probabilities = jax.nn.softmax(theta)
        grads = jax.jacobian(lambda t: kl.estimate(jax.nn.log_softmax(t)[None], ref[None], estimator)[0])(theta)
        return probabilities @ grads

    def divergence(t, forward):
        p, q = jax.nn.log_softmax(t), ref
        return jnp.sum(jnp.exp(q) * (q - p)) if forward else jnp.sum(jnp.exp(p) * (p - q))

    np.testing.assert_allclose(expected_gradient("k1"), 0.0, atol=1e-14)
    np.testing.assert_allclose(expected_gradient("k2"), jax.grad(divergence)(theta, False), atol=1e-14)
    np.testing.assert_allclose(expected_gradient("k3"), jax.grad(divergence)(theta, True), atol=1e-14)


def test_full_vocabulary_kl_and_entropy_against_numpy():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 3, 7)), rng.normal(size=(2, 3, 7))
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (a, b))
    np.testing.assert_allclose(kl.full_vocabulary(jnp.asarray(a), jnp.asarray(b)), (p * np.log(p / q)).sum(-1), atol=1e-12)
    np.testing.assert_allclose(kl.entropy(jnp.asarray(a)), -(p * np.log(p)).sum(-1), atol=1e-12)


def test_kl_in_the_reward_shifts_advantages_not_the_loss():
    objective = objectives.get("rloo", kl_place="reward", kl_estimator="k1", kl_coef=0.5)
    rows = batch()._replace(reward_N=jnp.asarray([1.0, 0.0]))
    prepared = objective.prepare(rows, group=2)
    k1 = ((np.asarray(BEHAVIOUR) - np.asarray(REFERENCE)) * np.asarray(MASK)).sum(1)
    shifted = np.asarray([1.0, 0.0]) - 0.5 * k1
    expected = [shifted[0] - shifted[1], shifted[1] - shifted[0]]
    np.testing.assert_allclose(prepared.advantage_NxT[:, 0], expected, atol=1e-12)
