"""Phases, measured orders, designed orders and annotators, against plain numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxpost import curricula
from jaxpost.curricula.base import Context, Feedback, Plan, Weights
from jaxpost.curricula.designer import designed

M = 12
DIFFICULTY = tuple(float(i % 3) for i in range(M))
EASY = np.argsort(DIFFICULTY, kind="stable")


@functools.cache
def programs(rule):
    """Compiled, for 3,000 draws."""
    plan = Plan(jnp.zeros(3000, jnp.uint32))
    sample = jax.jit(lambda state, key, step: rule.sample(state, key, plan, Context(step, 2))[1].index_B)
    return sample, jax.jit(rule.observe)


def draws(rule, state, step):
    return np.asarray(programs(rule)[0](state, jax.random.key(step), jnp.int32(step)))


def told(rule, state, item_B, reward_B, step):
    plan = Plan(jnp.asarray(item_B, jnp.uint32))
    reward_Bx2 = jnp.asarray(np.repeat(np.asarray(reward_B, np.float32)[:, None], 2, 1))
    return programs(rule)[1](state, Feedback(jnp.int32(step), plan, jnp.ones(reward_Bx2.shape), reward_Bx2), Weights())[0]


def test_progressive_context_looks_back_at_what_was_hard():
    rule = curricula.get("progressive_context", pool=M, difficulty=DIFFICULTY, steps=30, phases=3, review=0.4, floor=0.25)
    state = told(rule, rule.init(jax.random.key(0)), EASY[:6], [0, 0.5, 0.5, 1, 1, 0.8], 0)
    assert set(draws(rule, state, 9)) == set(EASY[:4])
    reward = dict(zip(EASY[:6], [0, 0.5, 0.5, 1, 1, 0.8]))
    for step, new, old in ((10, EASY[4:8], EASY[:4]), (29, EASY[8:], EASY[:8])):
        weight = np.zeros(M)
        weight[old] = [1 / max(reward.get(i, 0), 0.25) for i in old]
        weight = 0.4 * weight / weight.sum()
        weight[new] += 0.6 / len(new)
        found = np.bincount(draws(rule, state, step), minlength=M)
        live = weight > 0
        assert not found[~live].any() and stats.chisquare(found[live], 3000 * weight[live]).pvalue > 1e-3


def test_sari_orders_by_what_its_warm_up_measured():
    rule = curricula.get("sari", pool=M, steps=50, warm_up=0.2, start=0.25)
    state, rng = rule.init(jax.random.key(0)), np.random.default_rng(0)
    success, count = np.zeros(M), np.zeros(M)
    for step in range(12):
        item_B, reward_B = rng.permutation(M)[:6], rng.integers(0, 2, 6)
        state = told(rule, state, item_B, reward_B, step)
        if step < 10:
            success[item_B] += 2 * reward_B
            count[item_B] += 2
    np.testing.assert_array_equal(state["success_M"], success)
    order = np.argsort(-(1 + success) / (2 + count), kind="stable")
    assert set(draws(rule, state, 9)) == set(range(M))
    for step in (10, 30, 50):
        share = 0.25 + 0.75 * (step - 10) / 40
        assert set(draws(rule, state, step)) == set(order[:int(np.ceil(share * M - 1e-4))])


def test_a_designed_order_begins_in_the_middle_and_ends_next_to_it():
    point = np.array([0.0, 1, 2, 4, 9])[:, None]
    distance = np.abs(point - point.T)
    variance = (distance / distance.sum(axis=1, keepdims=True)).var(axis=1)
    order = designed(point)
    assert sorted(order) == list(range(5)) and order[0] == np.argmin(variance)
    assert order[-1] == min((i for i in range(5) if i != order[0]), key=lambda i: distance[order[0], i])
    assert list(order[1:-1]) == [i for i in np.argsort(variance) if i not in (order[0], order[-1])]
    rule = curricula.get("designer", pool=M, difficulty=DIFFICULTY, steps=30)
    kinds = [set(np.asarray(DIFFICULTY)[draws(rule, {}, step)]) for step in (0, 9, 10, 29)]
    assert kinds == [{float(designed(np.array([[0.0], [1], [2]]))[i])} for i in (0, 0, 1, 2)]


def test_an_annotator_is_asked_about_the_largest_losses_and_they_stay():
    rule = curricula.get("active_self_paced", pool=M, pace=1.0, growth=2.0, every=10, ask=2)
    state, rng, asked = rule.init(jax.random.key(0)), np.random.default_rng(1), set()
    for step in range(12):
        item_B, loss_B = rng.permutation(M)[:6], rng.uniform(0, 4, 6).astype(np.float32)
        pace = 1.0 if step < 10 else 2.0
        large = [i for i in np.argsort(-loss_B) if loss_B[i] >= pace and item_B[i] not in asked]
        asked |= {item_B[i] for i in large[:2]}
        plan, loss_Bx1 = Plan(jnp.asarray(item_B, jnp.uint32)), jnp.asarray(loss_B)[:, None]
        feedback = Feedback(jnp.int32(step), plan, jnp.ones((6, 1)), loss_BxG=loss_Bx1)
        state, weights = programs(rule)[1](state, feedback, Weights())
        np.testing.assert_array_equal(weights.keep_BxG[:, 0], [x < pace or i in asked for i, x in zip(item_B, loss_B)])
    assert set(np.flatnonzero(state["asked_M"])) == asked


@pytest.mark.parametrize("name, settings, message", [
    ("progressive_context", {"phases": 0}, "phases=0"), ("sari", {"warm_up": 1.0}, "shares above 0"),
    ("designer", {"prototypes": ((1.0,),)}, "1 prototypes for 3 arms"), ("active_self_paced", {"ask": -1}, "ask=-1")])
def test_mistakes_are_one_line(name, settings, message):
    known = {"pool": M, "difficulty": DIFFICULTY, "steps": 30}
    taken = {key: x for key, x in known.items() if key in curricula.rules.takes(name)}
    with pytest.raises(ValueError, match=message) as caught:
        curricula.get(name, **taken | settings)
    assert "\n" not in str(caught.value)
