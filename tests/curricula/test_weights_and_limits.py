"""Rules that limit, hint, scale and select: against plain numpy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import curricula
from jaxpost.curricula import utility
from jaxpost.curricula.base import Context, Feedback, Plan, Weights

M, B, G, T = 12, 4, 3, 5
PLAN = Plan(jnp.asarray([3, 1, 7, 2], jnp.uint32))


def feedback(reward_BxG, step=0, plan=PLAN, **more):
    return Feedback(jnp.int32(step), plan, jnp.ones(np.shape(reward_BxG)), jnp.asarray(reward_BxG, jnp.float32), **more)


def knob(rule, state, name, step=0, group=G):
    return np.asarray(rule.sample(state, jax.random.key(0), PLAN, Context(step, group))[1].knobs[name])


def test_limits_along_training():
    staged = curricula.get("staged_length", tokens=(8, 16, 24), steps=9)
    assert [int(staged.at(t)) for t in (0, 2, 3, 6, 20)] == [8, 8, 16, 24, 24]
    times = curricula.get("interaction_horizon", first=10, most=30, turn=4, gap=1, every=5)
    assert [int(times.at(t)) for t in (0, 4, 5, 10, 15)] == [39, 39, 79, 119, 119]
    plus = curricula.get("interaction_horizon", growth="additive")
    assert [int(plus.at(t)) for t in (0, 1, 25)] == [10, 11, 30]


def test_clpo_keeps_what_is_between_and_holds_hard_groups_less():
    rule = curricula.get("clpo", hard=0.34)
    weights = rule.observe({}, feedback([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]), Weights())[1]
    np.testing.assert_array_equal(weights.keep_BxG, np.repeat([[0], [1], [1], [0]], G, 1))
    np.testing.assert_array_equal(weights.kl_BxG, np.repeat([[0.5], [0.5], [1], [1]], G, 1))
    assert np.asarray(rule.observe({}, feedback(np.ones((B, G))), Weights())[1].keep_BxG).all()


def test_hints_go_up_after_failure_and_down_after_success():
    rule, level = curricula.get("ghpo_next_visit", pool=M), np.zeros(M, int)
    state, rng = rule.init(jax.random.key(0)), np.random.default_rng(0)
    for step in range(12):
        reward = rng.uniform(size=(B, G)) < 0.25
        np.testing.assert_allclose(knob(rule, state, "hint_share"), np.array([0, 0.25, 0.5, 0.75])[level[np.asarray(PLAN[0])]])
        state, _ = rule.observe(state, feedback(reward, step), Weights())
        for item, r in zip(np.asarray(PLAN.index_B), reward):
            level[item] = np.clip(level[item] + (-1 if r.any() else 1), 0, 3)
    assert level.max() > 1


def test_scaffolding_fades_and_differs_within_a_group():
    rule = curricula.get("scaffold", steps=100, slope=20.0, middle=0.3, most=0.8)
    for step in (0, 30, 80):
        wanted = 0.8 * np.array([1, 0.5, 0]) / (1 + np.exp(20 * (step / 100 - 0.3)))
        np.testing.assert_allclose(knob(rule, {}, "hint_share", step), np.tile(wanted, (B, 1)), atol=1e-6)
    with pytest.raises(ValueError, match="a group has 1; set group to at least 2"):
        knob(rule, {}, "hint_share", group=1)


def test_quotas_share_the_tokens_of_a_step_by_need():
    rule, need = curricula.get("reasoning_quota", pool=M, average=20, least=2, rate=0.25), np.full(M, 20.0)
    state, rng = rule.init(jax.random.key(0)), np.random.default_rng(1)
    for step in range(3):
        length = rng.integers(2, 60, (B, G)).astype(np.float32)
        state, _ = rule.observe(state, feedback(np.zeros((B, G)), step, length_BxG=jnp.asarray(length)), Weights())
        need[np.asarray(PLAN.index_B)] += 0.25 * (length.mean(axis=1) - need[np.asarray(PLAN.index_B)])
    budget, own = knob(rule, state, "length_budget"), need[np.asarray(PLAN.index_B)]
    assert budget.sum() == 20 * B and np.abs(budget - (2 + 18 * B * own / own.sum())).max() < 1


def test_tokens_of_d3s_are_those_of_large_advantage_and_entropy():
    rng = np.random.default_rng(2)
    advantage, entropy = rng.normal(size=(B, G)).astype(np.float32), rng.uniform(size=(B, G, T)).astype(np.float32)
    counted = (np.arange(T) < rng.integers(1, T + 1, (B, G))[..., None]).astype(np.float32)
    seen = feedback(np.zeros((B, G)), 5, advantage_BxG=jnp.asarray(advantage), counted_BxGxT=jnp.asarray(counted),
                    entropy_BxGxT=jnp.asarray(entropy))
    options = {"first": 0.25, "last": 0.75, "steps": 10}
    rows = curricula.get("d3s", **options).observe({}, seen, Weights())[1].train_BxG
    weights = curricula.get("d3s_tokens", first_tokens=0.2, last_tokens=0.6, **options).observe({}, seen, Weights())[1]
    np.testing.assert_array_equal(weights.train_BxG, rows)
    live = counted * np.asarray(rows)[..., None]
    score = np.where(live > 0, np.abs(advantage)[..., None] * entropy, -1)
    least = np.sort(score.reshape(-1))[::-1][int(round(0.4 * live.sum())) - 1]
    np.testing.assert_array_equal(weights.token_BxGxT, score >= least)


def test_the_value_of_prompts_is_a_ridge_regression_and_chooses_near_its_target():
    rule = curricula.get("pcl", width=2, candidates=3, memory=0.5, ridge=0.1, target=0.4, pool=M)
    table = np.random.default_rng(3).normal(size=(M, 2)).astype(np.float32)
    context = Context(0, G, lambda index: jnp.asarray(table)[index])
    sample = jax.jit(lambda state, key: rule.sample(state, key, PLAN, context))
    state, a, b = rule.init(jax.random.key(0)), np.zeros((3, 3)), np.zeros(3)
    for step in range(3):
        state, plan = sample(state, jax.random.key(step))
        feature = np.c_[table, np.ones(M)]
        value = feature @ np.linalg.solve(a + 0.1 * np.eye(3), b)
        if step:  # all of the pool are candidates
            assert set(np.asarray(plan.index_B)) == set(np.argsort(np.abs(value - 0.4))[:B])
        reward = (np.arange(B * G).reshape(B, G) % (step + 2) == 0).astype(np.float32)
        state, _ = rule.observe(state, feedback(reward, step, plan), Weights())
        x = feature[np.asarray(plan.index_B)]
        a, b = 0.5 * a + x.T @ x, 0.5 * b + x.T @ reward.mean(axis=1)
    np.testing.assert_allclose(state["b_F"], b, atol=1e-5)
    np.testing.assert_allclose(state["a_FxF"], a, atol=1e-4)


def test_utility_and_diversity_of_logits():
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(8, 3, 6)).astype(np.float32)
    np.testing.assert_allclose(jax.vmap(utility.nuclear_norm)(jnp.asarray(logits)), np.linalg.norm(logits, "nuc", axis=(1, 2)),
                               rtol=1e-6)
    for rank, shape in ((2, (48, 300)), (1, (300, 48)), (0, (4, 6))):  # rounding of a Gram matrix would add 5e-3 of the sum
        low = (rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))).astype(np.float32)
        np.testing.assert_allclose(utility.nuclear_norm(jnp.asarray(low)), np.linalg.norm(low.astype(float), "nuc"), rtol=1e-5)
    rule = curricula.get("uds", keep=1, among=4, alpha=5.0, buffer=2, rows=2, columns=4)
    state, chosen = rule.init(jax.random.key(0)), []
    observe = jax.jit(rule.observe)
    projected = np.asarray(utility.project(jax.random.key(state["word"]), jnp.asarray(logits), 2, 4))
    for step in range(2):
        seen = Feedback(jnp.int32(step), PLAN, jnp.ones((8, 1)), logits_BxTxV=jnp.asarray(logits))
        state, weights = observe(state, seen, Weights())
        for first in (0, 4):
            far = [np.mean([np.linalg.norm(projected[i] - projected[j]) for j in chosen[-2:]]) if chosen else 0
                   for i in range(first, first + 4)]
            best = first + int(np.argmax(np.linalg.norm(logits[first:first + 4], "nuc", axis=(1, 2)) + 5 * np.array(far)))
            chosen.append(best)
            np.testing.assert_array_equal(np.flatnonzero(weights.keep_BxG[first:first + 4, 0]), [best - first])
    signs = [np.asarray(jax.random.rademacher(jax.random.split(jax.random.fold_in(jax.random.key(state["word"]), side))[0],
                                              (size,), jnp.float32)) for side, size in ((0, 3), (1, 6))]
    turned = np.fft.fft(logits * signs[0][:, None], axis=1).real / np.sqrt(3)
    places = [np.asarray(jax.random.randint(jax.random.split(jax.random.fold_in(jax.random.key(state["word"]), side))[1],
                                            (count,), 0, size)) for side, count, size in ((0, 2, 3), (1, 4, 6))]
    turned = np.fft.fft(turned[:, places[0]] * signs[1], axis=2).real / np.sqrt(6)
    np.testing.assert_allclose(projected, turned[:, :, places[1]].reshape(8, -1), atol=1e-5)


@pytest.mark.parametrize("name, settings, message", [
    ("staged_length", {}, r"tokens=\(\), steps=0"), ("interaction_horizon", {"gap": 1}, "0 <= gap < turn"),
    ("interaction_horizon", {"growth": "fast"}, "valid: multiplicative, additive"), ("clpo", {"relief": -1}, "relief=-1"),
    ("ghpo_next_visit", {"pool": 4, "shares": (2.0,)}, r"shares=\(2.0,\)"), ("scaffold", {}, "steps=0"),
    ("reasoning_quota", {"pool": 4, "least": 0}, "least=0"), ("pcl", {}, "width=0"), ("uds", {"keep": 9}, "keep=9")])
def test_mistakes_are_one_line(name, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        curricula.get(name, **settings)
    assert "\n" not in str(caught.value)


def climbed(worth, first, reach, balance=0.2):
    """The targets of a hill climb that keeps a dictionary of what it has seen, until it stops; as its paper words it."""
    at, heading, seen, path, before = 0, 1, {}, [], None
    while True:
        path.append(first + at)
        right, refused = worth(first + at)
        seen[at] = (1 - balance) * right / (22 - refused) + balance * (22 - refused) / 22
        if before is not None and seen[at] < seen[before]:
            heading = -heading
        before, onward = at, at + heading
        if abs(onward) > reach or onward in seen and seen[onward] < seen[at]:
            return path
        at = onward


@pytest.mark.parametrize("peak, reach", [(12, 16), (3, 16), (8, 16), (7, 16), (14, 2), (1, 3)])
def test_the_target_of_refusals_climbs_to_where_they_are_most_useful(peak, reach):
    """22 rollouts a target in two steps of 11 that count; a twelfth has no score."""
    def worth(target):  # (right answers, refusals) of 22
        return 14 - abs(round(target) - peak), 4

    rule = curricula.get("auto_cei", first=8.0, step=1.0, every=22, reach=reach)
    observe, used = jax.jit(rule.observe), jnp.ones((B, G)).at[0, 0].set(0)
    state, path = rule.init(jax.random.key(0)), []
    while not state["settled"]:
        path.append(float(knob(rule, state, "length_budget")))
        right, refused = worth(path[-1])
        for score in np.repeat([1, 0.5, 0], [right, refused, 22 - right - refused]).reshape(2, 11):
            seen = feedback(np.r_[np.nan, score].reshape(B, G))._replace(used_BxG=used)
            state, weights = observe(state, seen, Weights())
    assert path == climbed(worth, 8, reach) and all(x is None for x in weights)
    assert path[-1] == np.clip(peak, 8 - reach, 8 + reach)
