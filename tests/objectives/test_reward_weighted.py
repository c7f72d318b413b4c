"""Reward-weighted regression against loops in float64, a draw of copies, and an enumerated policy that it tilts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from jaxpost.objectives import reward_weighted
from tests.objectives import given


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def loop(reward_BxG, temperature, over, floor):
    """Weights as a loop over rows says."""
    out = np.zeros(reward_BxG.shape)
    for b, g in np.ndindex(*reward_BxG.shape):
        rows = reward_BxG[b] if over == "group" else reward_BxG.ravel()
        kept = [r for r in rows if not np.isnan(r) and (floor is None or r > floor)]
        if (r := reward_BxG[b, g]) in kept:
            copies = reward_BxG.shape[1] if over == "group" else len(kept)
            out[b, g] = copies * np.exp(r / temperature) / sum(np.exp(k / temperature) for k in kept)
    return out


@pytest.mark.parametrize("over", list(reward_weighted.OVER))
@pytest.mark.parametrize("floor", [None, -1.0])
@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_weights_are_those_of_a_loop_and_of_a_mean_of_one(over, floor, temperature):
    reward = np.asarray([[1.0, -1.0, 0.25, np.nan, -1.0], [-1.0, -1.0, -1.0, -1.0, np.nan], [0.5, 0.5, -0.5, 2.0, -3.0]])
    found = np.asarray(reward_weighted.weights(jnp.asarray(reward), temperature, over, floor))
    np.testing.assert_allclose(found, loop(reward, temperature, over, floor), rtol=1e-12, atol=1e-300)
    extreme = reward_weighted.weights(jnp.asarray([[1e4, -1e4, 1e4, 0.0]]), 1e-2, over, floor)
    np.testing.assert_allclose(extreme, [[2.0, 0, 2, 0]] if floor is None or over == "group" else [[1.5, 0, 1.5, 0]])


def test_a_draw_of_copies_has_the_weights_as_its_mean():
    """G rows drawn anew with p ~ exp(R / temperature), 40,000 times."""
    reward, rng = np.asarray([1.0, 0.2, -0.6, -1.0]), np.random.default_rng(0)
    p = np.exp(reward[:3] / 0.5) / np.exp(reward[:3] / 0.5).sum()
    copies = rng.multinomial(4, p, size=40_000).mean(axis=0)
    found = np.asarray(reward_weighted.weights(jnp.asarray(reward[None]), 0.5, "group", -1.0))[0]
    np.testing.assert_allclose(found[:3], copies, atol=5 * np.sqrt(4 * 0.25 / 40_000))
    assert found[3] == 0


def test_the_expected_loss_is_least_at_the_tilted_policy():
    """All 12 answers of two tokens, weighted by their chance under q: the gradient vanishes at p ~ q exp(R / temperature)."""
    rng = np.random.default_rng(2)
    reward, log_q = rng.normal(size=12), jax.nn.log_softmax(jnp.asarray(rng.normal(size=12)))
    objective = objectives.get("reward_weighted_regression", reward_temperature=0.7, aggregation="sequence_sum")
    batch = objectives.Batch(None, None, jnp.ones((12, 1)), reward_N=jnp.asarray(reward), behaviour_NxT=log_q[:, None])
    ready = objective.prepare(batch, 1)

    def loss(logits):
        logp = jax.nn.log_softmax(logits)
        each = [objective.loss(objectives.View(logp[i:i + 1, None]), ready.where(slice(i, i + 1)), {})[0] for i in range(12)]
        return sum(jnp.exp(log_q[i]) * each[i] for i in range(12))

    np.testing.assert_allclose(jax.grad(loss)(log_q + jnp.asarray(reward) / 0.7), 0, atol=1e-14)
    assert np.abs(jax.grad(loss)(log_q)).max() > 1e-2


def test_rows_below_the_floor_do_not_count():
    view, batch = given.rows(3, N=4)
    batch = batch._replace(reward_N=jnp.asarray([1.0, -1.0, 0.4, np.nan]))
    objective = given.recipe("auto_cei")
    ready = given.prepared(objective, given.needed(objective, view, batch)[1])
    total, count, _ = objective.loss(view, ready, {})
    w = loop(np.asarray(batch.reward_N)[None], 0.5, "group", -1.0)[0]
    mask, logp = np.asarray(batch.mask_NxT), np.asarray(view.logp_NxT)
    assert float(count) == mask[[0, 2]].sum()
    gradient = jax.grad(lambda x: objective.loss(view._replace(logp_NxT=x), ready, {})[0])(view.logp_NxT)
    np.testing.assert_allclose(gradient, -w[:, None] * mask, atol=1e-12)
    assert float(total) == pytest.approx(-(w[:, None] * mask).sum()) and np.isfinite(logp).all()


def test_turns_are_weighted_by_their_own_reward():
    objective = given.recipe("rise", reward_temperature=0.8)
    view, batch = given.needed(objective, *given.rows(6))
    ready = np.asarray(given.prepared(objective, batch).advantage_NxT)
    mask, turn, reward = (np.asarray(x) for x in (batch.mask_NxT, batch.turn_NxT, batch.turn_reward_NxU))
    for n in range(len(mask)):
        own = sorted({int(u) for t, u in enumerate(turn[n]) if mask[n, t] and u >= 0})
        worth = {u: reward[n, u] for u in own}
        worth[own[-1]] += float(batch.reward_N[n]) - sum(worth.values())
        for t in range(given.T):
            expected = np.exp(worth[int(turn[n, t])] / 0.8) if mask[n, t] and turn[n, t] >= 0 else 0.0
            assert ready[n, t] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("name", "parts", "message"), [
    ("auto_cei", {"reward_temperature": 0.0}, "reward_temperature=0.0 must be above 0"),
    ("auto_cei", {"over": "rows"}, "over='rows'|over 'rows'"), ("rise", {"scale": "group"}, "scale='group' has no effect"),
    ("reward_weighted_regression", {"baseline": "mean"}, "baseline='mean' has no effect"),
    ("reward_weighted_regression", {"rejected": "left_out"}, "no row is rejected"),
    ("auto_cei", {"dual_clip": 3.0}, "not negative|has no effect")])
def test_parts_that_nothing_reads_are_refused(name, parts, message):
    with pytest.raises(ValueError, match=message):
        objectives.get(name, **parts)
