"""PPO with a critic against float64 numpy: preparation, value loss, reward scaling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost.objectives import actor_critic
from tests.objectives import given
from tests.objectives.test_policy_gradient import gae


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_advantages_returns_and_loss_against_numpy():
    objective, view, batch = given.ready("ppo", seed=7, kl_coef=0.2, gamma=0.98)
    mask = np.asarray(batch.mask_NxT)
    value, behaviour, reference = (np.asarray(x) for x in (batch.value_NxT, batch.behaviour_NxT, batch.reference_NxT))
    reward = -0.2 * (behaviour - reference)
    last = mask.sum(1).astype(int) - 1
    reward[np.arange(len(mask)), last] += np.asarray(batch.reward_N)
    A = gae(reward * mask, value, mask, 0.98, 0.95)
    R = A + value
    live = A[mask > 0]
    A = (A - live.mean()) / np.sqrt(live.var(ddof=1) + 1e-8)
    np.testing.assert_allclose(batch.advantage_NxT, A * mask, atol=1e-12)
    np.testing.assert_allclose(batch.return_NxT * mask, R * mask, atol=1e-12)
    r = np.exp(np.asarray(view.logp_NxT) - behaviour)
    policy = np.maximum(-A * r, -A * np.clip(r, 0.8, 1.2))
    new = np.asarray(view.value_NxT)
    critic = 0.5 * np.maximum((new - R) ** 2, (np.clip(new, value - 0.2, value + 0.2) - R) ** 2)
    total, count, aux = objective.loss(view, batch, {})
    assert float(total / count) == pytest.approx(((policy + 0.1 * critic) * mask).sum() / mask.sum(), rel=1e-12)
    assert float(aux["value_loss"][0]) == pytest.approx((critic * mask).sum(), rel=1e-12)


@pytest.mark.parametrize("target", [-1.0, 1.0])
@pytest.mark.parametrize("moved", [-0.5, -0.1, 0.1, 0.5])
def test_the_value_clip_table(target, moved):
    """Held where the value has moved beyond the clip towards its target; the loss is the larger of the two."""
    loss, slope = jax.value_and_grad(lambda v: actor_critic.value_loss(v, 0.0, target, 0.2))(moved)
    held = abs(moved) > 0.2 and np.sign(moved) == np.sign(target) and abs(moved - target) < abs(np.sign(moved) * 0.2 - target)
    expected = 0.5 * max((moved - target) ** 2, (np.clip(moved, -0.2, 0.2) - target) ** 2)
    assert float(loss) == pytest.approx(expected, abs=1e-12)
    assert float(slope) == pytest.approx(0.0 if held else moved - target, abs=1e-12)
    assert float(actor_critic.value_loss(moved, 0.0, target, None)) == pytest.approx(0.5 * (moved - target) ** 2, abs=1e-12)


def test_rewards_are_scaled_by_all_scores_so_far():
    objective = given.recipe("ppo_max", kl_place="none", kl_estimator="k3", kl_coef=0.0)
    state, seen = objective.init(), []
    for seed in range(3):
        _, batch = given.rows(seed)
        batch = batch._replace(reward_N=jnp.asarray(np.random.default_rng(seed).normal(size=8)))
        seen += list(np.asarray(batch.reward_N))
        score = objective.score(batch, 0.0, state)
        np.testing.assert_allclose(score, np.asarray(batch.reward_N) / np.std(seen, ddof=1), rtol=1e-12)
        state = objective.observe(state, batch)


def test_the_policy_gets_no_gradient_from_the_critic_and_the_other_way_round():
    objective, view, batch = given.ready("ppo", value_coef=0.0)
    grads = given.differentiated(objective, view, batch)[2]
    assert not np.any(grads.value_NxT) and np.any(grads.logp_NxT)
    quiet = batch._replace(advantage_NxT=0 * batch.advantage_NxT)
    objective, view, _ = given.ready("ppo", value_coef=1.0)
    grads = given.differentiated(objective, view, quiet)[2]
    assert np.any(grads.value_NxT) and not np.any(grads.logp_NxT)


def test_equal_rewards_are_not_scaled_by_their_rounding():
    objective = given.recipe("ppo_max", kl_place="none", kl_estimator="k3", kl_coef=0.0, reward_low=-1.0)
    _, batch = given.rows()
    for value in (0.1, 0.3, 0.7):
        same = batch._replace(reward_N=jnp.full(8, value, jnp.float32))
        np.testing.assert_allclose(objective.score(same, 0.0, objective.init()), 2 * value - 1, rtol=1e-6)
    mixed = batch._replace(reward_N=jnp.asarray([0., 1] * 4))
    expected = np.asarray([-1, 1] * 4) / np.std([-1, 1] * 4, ddof=1)
    np.testing.assert_allclose(objective.score(mixed, 0.0, None), expected, rtol=1e-12)
