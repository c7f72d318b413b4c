"""What SEC, PLR and cycles by losses learn and draw by under each of their options, and DOTS, against plain numpy.

Feedback with an item drawn twice, rows that do not count, and NaN where nothing may be read.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import curricula
from jaxpost.curricula.base import Context, Feedback, Plan, Weights

M, B, G, T = 6, 4, 3, 5
KNOWN = {"pool": M, "difficulty": (0.0, 0.0, 1.0, 1.0, 2.0, 2.0)}


def feedbacks(steps=4):
    rng = np.random.default_rng(0)
    for step in range(steps):
        index = np.array([[0, 2, 0, 3], [4, 1, 1, 0], [2, 2, 5, 0], [3, 0, 4, 4]][step])
        used = rng.integers(0, 2, (B, G)) * 1.0
        used[:, 0] = 1
        reward, advantage = rng.uniform(size=(B, G)), rng.normal(size=(B, G))
        counted = (np.arange(T) < rng.integers(1, T + 1, (B, G, 1))) * 1.0
        entropy = np.where(counted > 0, rng.uniform(size=(B, G, T)), np.nan)
        reward, advantage = (np.where(used > 0, x, np.nan) for x in (reward, advantage))
        given = map(jnp.asarray, (used, reward, advantage, used, used, counted, entropy))
        feedback = Feedback(step, Plan(jnp.asarray(index, jnp.uint32)), *given)
        yield feedback, (index, used > 0, reward, advantage, counted > 0, entropy)


def frequencies(rule, state, key_of, draws=4000):
    sample = jax.jit(jax.vmap(lambda key: rule.sample(state, key, curricula.blank(key, 1), Context(0, G))[1].index_B[0]))
    item_K = np.asarray(sample(jax.random.split(jax.random.key(1), draws)))
    return np.bincount(key_of(item_K), minlength=3) / draws


@pytest.mark.parametrize("learns", ["advantage", "unnormalised", "progress"])
def test_what_sec_learns(learns):
    rule = curricula.get("sec", rate=0.3, learns=learns, **KNOWN)
    state, q, last = rule.init(jax.random.key(0)), np.zeros(3), {}
    for feedback, (index, used, reward, advantage, *_) in feedbacks():
        state, _ = rule.observe(state, feedback, Weights())
        learned = np.zeros(3)
        for a in range(3):
            places = [(b, g) for b in range(B) for g in range(G) if index[b] // 2 == a and used[b, g]]
            if places and learns == "progress":
                success = np.mean([reward[place] for place in places])
                learned[a], last[a] = success - last.get(a, success), success
            elif places:
                group = [reward[b][used[b]].mean() for b in range(B)]
                learned[a] = np.mean([abs(advantage[b, g] if learns == "advantage" else reward[b, g] - group[b])
                                      for b, g in places])
        q = 0.7 * q + 0.3 * learned
        np.testing.assert_allclose(state["q_A"], q, atol=1e-6)
    assert rule.needs == {"advantage" if learns == "advantage" else "reward"}


@pytest.mark.parametrize("draws, wanted", [
    ("boltzmann", np.exp([0.6, 0.6, -0.2]) / np.exp([0.6, 0.6, -0.2]).sum()), ("clipped", np.array([0.6, 0.6, 0.05]) / 1.25),
    ("greedy", np.array([0.45, 0.45, 0.1]))])
def test_how_sec_draws(draws, wanted):
    rule = curricula.get("sec", draws=draws, floor=0.05, epsilon=0.3, **KNOWN)
    state = rule.init(jax.random.key(0)) | {"q_A": jnp.asarray([0.6, 0.6, -0.2])}
    np.testing.assert_allclose(frequencies(rule, state, lambda item: item // 2), wanted, atol=4 * 0.5 / 4000**0.5)


@pytest.mark.parametrize("scored_by", ["absolute_advantage", "positive_advantage", "entropy", "max_reward"])
def test_what_replay_scores(scored_by):
    rule = curricula.get("plr", pool=M, rate=0.5, scored_by=scored_by)
    state, score, best = rule.init(jax.random.key(0)), {}, {}
    for feedback, (index, used, reward, advantage, counted, entropy) in feedbacks():
        state, _ = rule.observe(state, feedback, Weights())
        for item in set(index):
            places = [(b, g) for b in range(B) for g in range(G) if index[b] == item and used[b, g]]
            best[item] = max([reward[place] for place in places] + [best.get(item, -np.inf)])
            value = {"absolute_advantage": np.mean([abs(advantage[place]) for place in places]),
                     "positive_advantage": np.mean([max(advantage[place], 0) for place in places]),
                     "entropy": np.mean([entropy[place][counted[place]].mean() for place in places]),
                     "max_reward": best[item] - np.mean([reward[place] for place in places])}[scored_by]
            score[item] = (score[item] + value) / 2 if item in score else value
        np.testing.assert_allclose(state["score_M"], [score.get(item, 0) for item in range(M)], atol=1e-6)


def test_dots_draws_by_the_distance_of_the_difficulty_from_a_half():
    rule = curricula.get("dots", pool=3, temperature=0.2)
    state = rule.init(jax.random.key(0))
    feedback = Feedback(0, Plan(jnp.array([0, 1, 0], jnp.uint32)), jnp.ones((3, 2)), jnp.array([[1, 1], [1, 0], [1, 0.0]]))
    state, _ = rule.observe(state, feedback, Weights())
    weight = np.exp(-np.abs(np.array([4 / 6, 2 / 4, 1 / 2]) - 0.5) / 0.2)
    np.testing.assert_allclose(frequencies(rule, state, lambda item: item), weight / weight.sum(), atol=4 * 0.5 / 4000**0.5)


@pytest.mark.parametrize("name", ["cyclical_losses", "cyclical_self_paced"])
def test_cycles_score_the_pool_in_steps_that_do_not_train(name):
    """Eleven epochs of four or five steps, of which the first two score six problems in batches of four."""
    steps, epochs = 48, (0.25, 0.5, 1, 0.5, 0.25, 0.5, 1, 0.5, 0.25, 0.5, 1)
    rule, loss, rng, subsets = curricula.get(name, pool=M, steps=steps), np.ones(M), np.random.default_rng(0), {}
    state = rule.init(jax.random.key(0))
    for step in range(steps):
        epoch = step * 11 // steps
        within = step - min(s for s in range(steps) if s * 11 // steps == epoch)
        key = jax.random.key(step)
        state, plan = rule.sample(state, key, curricula.blank(key, B), Context(step))
        scored = within < 2 and (epoch == 0 or name == "cyclical_self_paced")
        index, loss_Bx1 = np.asarray(plan.index_B), rng.uniform(0.1, 2, (B, 1))
        assert bool(plan.train) == (not scored)
        state, _ = rule.observe(state, Feedback(step, plan, jnp.ones((B, 1)), loss_BxG=jnp.asarray(loss_Bx1)), Weights())
        if scored:
            np.testing.assert_array_equal(index, (within * B + np.arange(B)) % M)
            loss[index] = loss_Bx1[:, 0]
        else:
            subsets.setdefault(epoch, set()).update(index)
        np.testing.assert_allclose(state["loss_M"], loss, rtol=1e-6)
    assert all(len(subset) <= max(1, int(epochs[epoch] * M)) for epoch, subset in subsets.items())


@pytest.mark.parametrize("favours", ["easy", "hard", "exponential", "random"])
def test_what_cycles_by_losses_favour(favours):
    """The only item of a subset of one, over runs."""
    loss = np.array([0.3, 1.0, 2.0])
    rule = curricula.get("cyclical_losses", pool=3, steps=100, start=0.34, favours=favours, rate=0.8)
    state = rule.init(jax.random.key(0)) | {"loss_M": jnp.asarray(loss)}
    first = jax.jit(jax.vmap(lambda word: rule.sample(state | {"word": word}, jax.random.key(0), curricula.blank(
        jax.random.key(0), 1), Context(5))[1].index_B[0]))
    weight = {"easy": 1 / loss, "hard": loss, "exponential": np.exp(-0.8 * loss), "random": loss**0}[favours]
    share = np.bincount(first(jnp.arange(4000, dtype=jnp.uint32)), minlength=3) / 4000
    np.testing.assert_allclose(share, weight / weight.sum(), atol=4 * 0.5 / 4000**0.5)


def test_cycles_that_scoring_leaves_no_step_to_train_are_refused():
    rule = curricula.get("cyclical_self_paced", pool=M, steps=30)
    with pytest.raises(ValueError, match="takes 2 steps, and 30 steps are 11 epochs of 2; nearest valid: 33 steps"):
        rule.sample(rule.init(jax.random.key(0)), jax.random.key(0), curricula.blank(jax.random.key(0), B), Context(0))


@pytest.mark.parametrize("name, settings, message", [
    ("cyclical_losses", {"pool": 3, "steps": 9, "favours": "loss"}, "favours='loss'"),
    ("sec", {"draws": "epsilon"}, "draws='epsilon' is not known"), ("sec", {"learns": "progres"}, "did you mean 'progress'"),
    ("sec", {"floor": 0.0}, "floor=0.0"), ("plr", {"scored_by": "maxmc"}, "scored_by='maxmc' is not known"),
    ("dots", {"temperature": 0.0}, "temperature=0.0: expected")])
def test_mistakes_are_named(name, settings, message):
    with pytest.raises(ValueError, match=f"curriculum '{name}': .*{message}"):
        curricula.get(name, **{key: KNOWN[key] for key in KNOWN if key in curricula.rules.takes(name)} | settings)
