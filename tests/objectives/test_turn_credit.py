"""Credit of turns: loops in float64, an enumerated world of two turns, GRPO where there is one turn."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from jaxpost.objectives import turn_credit
from tests.objectives import given


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(("name", "parts"), [
    ("turn_grpo", {"turn_discount": 0.7}), ("turn_grpo", {"compared": "group", "scale": "none"}), ("eapo", {"multiple": 4}),
    ("eapo", {"clip_low": 0.2, "clip_high": 0.2})])
def test_returns_advantages_ratios_and_loss_are_those_of_loops(name, parts):
    objective = given.recipe(name, **parts)
    view, batch = given.needed(objective, *given.rows(4, lengths=[6, 4, 5, 6, 1, 5, 2, 6]))
    ready = given.prepared(objective, batch)
    mask, turn, reward, score = (np.asarray(x) for x in (batch.mask_NxT, batch.turn_NxT, batch.turn_reward_NxU, batch.reward_N))
    N, U = reward.shape
    tokens = {(n, u): [t for t in range(given.T) if mask[n, t] and turn[n, t] == u] for n in range(N) for u in range(U)}
    live = [key for key in tokens if tokens[key]]
    R = {}
    for n in range(N):
        own = [u for u in range(U) if tokens[n, u]]
        left = {u: reward[n, u] for u in own}
        left[own[-1]] += score[n] - sum(left.values())
        for u in own:
            R[n, u] = sum(objective.turn_discount ** (v - u) * left[v] for v in own if v >= u)
    A = {}
    for n, u in live:
        of = [R[m, v] for m, v in live if m // 4 == n // 4 and objective.compared in ("group", {v == u: "turn"}.get(True))]
        spread = np.std(of, ddof=1) + objective.eps if objective.scale == "group" and len(of) > 1 else 1.0
        A[n, u] = (R[n, u] - np.mean(of)) / spread if len(of) > 1 else 0.0
    kept = live[:len(live) // objective.multiple * objective.multiple]
    assert objective.multiple == 1 or len(kept) < len(live)
    logp, old = np.asarray(view.logp_NxT), np.asarray(batch.behaviour_NxT)
    sums, counts = 0.0, 0.0
    for n, u in kept:
        at = tokens[n, u]
        np.testing.assert_allclose(np.asarray(ready.advantage_NxT)[n, at], A[n, u], atol=1e-12)
        d = logp[n, at] - old[n, at]
        r = np.exp(d) if objective.ratio == "token" else np.exp(np.full(len(at), d.mean()))
        loss = -np.minimum(r * A[n, u], np.clip(r, 1 - objective.clip_low, 1 + objective.clip_high) * A[n, u])
        sums, counts = (sums + loss.mean(), counts + 1) if objective.aggregation == "sequence" else (
            sums + loss.sum(), counts + len(at))
    total, count, _ = objective.loss(view, ready, {})
    assert float(count) == pytest.approx(counts) and float(total) == pytest.approx(sums, abs=1e-12)


@pytest.mark.parametrize("gamma", [1.0, 0.6])
def test_the_expected_gradient_is_that_of_an_enumerated_world(gamma):
    """Two turns of three actions, the second in the state that the first led to: each turn's policy climbs its own return."""
    rng = np.random.default_rng(1)
    first, later, logits = rng.normal(size=3), rng.normal(size=(3, 3)), jnp.asarray(rng.normal(size=(4, 3)))
    objective = objectives.get("turn_grpo", turn_discount=gamma, baseline="none", scale="none", ratio="none", clip_low=None,
                               clip_high=None)
    episodes = list(itertools.product(range(3), range(3)))
    rewards = jnp.asarray([[first[a], later[a, b]] for a, b in episodes])
    a_N, b_N = (jnp.asarray(x) for x in zip(*episodes, strict=True))

    def logp(logits):
        each = jax.nn.log_softmax(logits)
        return jnp.stack([each[0, a_N], each[1 + a_N, b_N]], axis=1)

    batch = objectives.Batch(None, None, jnp.ones((9, 2)), reward_N=rewards.sum(1), behaviour_NxT=logp(logits),
                             turn_NxT=jnp.tile(jnp.arange(2), (9, 1)), turn_reward_NxU=rewards)
    ready = objective.prepare(batch, 1)
    chance_N = jnp.exp(logp(logits).sum(1))

    def loss(x):
        each = [objective.loss(objectives.View(logp(x)[i:i + 1]), ready.where(slice(i, i + 1)), {})[0] for i in range(9)]
        return sum(chance_N[i] * each[i] for i in range(9))

    def climbed(x):
        pi, fixed = jax.nn.softmax(x), jax.nn.softmax(logits)
        value_3 = (fixed[1:] * later).sum(1)
        return (pi[0] * (first + gamma * value_3)).sum() + (fixed[0] * (pi[1:] * later).sum(1)).sum()

    np.testing.assert_allclose(jax.grad(loss)(logits), -jax.grad(climbed)(logits), atol=1e-14)
    if gamma == 1.0:
        whole = lambda x: sum(jnp.exp(logp(x).sum(1)[i]) * rewards[i].sum() for i in range(9))  # noqa: E731
        np.testing.assert_allclose(jax.grad(loss)(logits), -jax.grad(whole)(logits), atol=1e-14)


def test_one_turn_is_grpo_and_an_early_success_is_worth_more():
    view, batch = given.rows(5)
    one = batch._replace(turn_NxT=jnp.zeros_like(batch.turn_NxT), turn_reward_NxU=batch.reward_N[:, None])
    found = [objective.loss(view, given.prepared(objective, given.needed(objective, view, one)[1]), {})[0]
             for objective in (given.recipe("turn_grpo"), given.recipe("grpo", aggregation="token"))]
    assert float(found[0]) == pytest.approx(float(found[1]), rel=1e-14)
    turns = jnp.asarray([[0, 1, 1, 2], [0, 0, 0, 0], [0, 1, 1, 1], [0, 0, 1, 1]])
    late = objectives.Batch(None, None, jnp.ones((4, 4)), reward_N=jnp.asarray([1.0, 1, 0, 0]), behaviour_NxT=-jnp.ones((4, 4)),
                            turn_NxT=turns, turn_reward_NxU=jnp.asarray([[0, 0, 1.0], [1, 0, 0], [0] * 3, [0] * 3]))
    A = np.asarray(objectives.get("eapo", turn_discount=0.5).prepare(late, 4).advantage_NxT)
    assert A[1, 0] > A[0, 1] > A[0, 0] > A[2, 0] and A[1, 0] == pytest.approx(A[0, 3])


def test_shuffled_rewards_keep_their_sum_and_fall_to_live_turns_evenly():
    """Every order of a row's live turns by counting; the advantages are those of the moved rewards."""
    live = jnp.asarray([[True, False, True, True]] * 6000)
    reward = jnp.tile(jnp.asarray([[1.0, 9.0, 2.0, 4.0]]), (6000, 1))
    moved = np.asarray(turn_credit.at_random_turns(reward, live, jnp.arange(6000, dtype=jnp.uint32)))
    orders, counts = np.unique(moved, axis=0, return_counts=True)
    assert {tuple(order) for order in orders} == {(a, 0.0, b, c) for a, b, c in itertools.permutations((1.0, 2.0, 4.0))}
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(6000 * 5 / 36)
    objective = given.recipe("turn_grpo", shuffled=True)
    _, batch = given.needed(objective, *given.rows(4))
    there = (batch.turn_NxT[..., None] == jnp.arange(4)[None, None]) & (batch.mask_NxT > 0)[..., None]
    rest = batch.reward_N - jnp.where(there.any(1), batch.turn_reward_NxU, 0.0).sum(1)
    last = 3 - jnp.argmax(there.any(1)[:, ::-1], axis=1)
    whole = jnp.where(there.any(1), batch.turn_reward_NxU, 0.0) + rest[:, None] * (jnp.arange(4)[None] == last[:, None])
    by_hand = batch._replace(turn_reward_NxU=turn_credit.at_random_turns(whole, there.any(1), batch.seed_N))
    plain = given.prepared(given.recipe("turn_grpo"), by_hand)
    np.testing.assert_allclose(given.prepared(objective, batch).advantage_NxT, plain.advantage_NxT, atol=1e-12)
