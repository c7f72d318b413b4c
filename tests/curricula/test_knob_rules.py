"""Rules that set knobs of the task: levels, boxes, regions and Gaussians, against plain numpy on recorded feedback."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from jaxpost import curricula
from jaxpost.curricula import goal_gan, mixture, randomised, riac, spdl
from jaxpost.curricula.base import Context, Feedback, Plan, Weights

KNOBS = (("width", 1, 4), ("depth", 0, 2))


def seen(rule, state, plan, reward_B, step=0):
    """The state after a group of two rollouts an item with the given mean rewards."""
    reward_Bx2 = jnp.asarray(np.repeat(np.asarray(reward_B, np.float32)[:, None], 2, 1))
    return programs(rule)[1](state, Feedback(jnp.int32(step), plan, jnp.ones(reward_Bx2.shape), reward_Bx2), Weights())[0]


@functools.cache
def programs(rule):
    """Compiled: of few shapes, and as eager ones by tests/curricula/test_rules.py."""
    sample = jax.jit(lambda state, key, plan, step: rule.sample(state, key, plan, Context(step, 2))[1])
    return sample, jax.jit(rule.observe)


def planned(rule, state, seed, count, step=0):
    key = jax.random.key(seed)
    return programs(rule)[0](state, key, Plan(jnp.zeros(count, jnp.uint32)), jnp.int32(step))


def test_stages_and_levels_of_saturn():
    levels = (("width", (1, 2, 4)), ("depth", (0, 0, 2)))
    staged = curricula.get("masked_spans", levels=levels, steps=9)
    found = [{k: int(x[0]) for k, x in planned(staged, {}, 0, 2, step).knobs.items()} for step in (0, 2, 3, 8, 20)]
    assert [(x["width"], x["depth"]) for x in found] == [(1, 0), (1, 0), (2, 0), (4, 2), (4, 2)]
    saturn, reached = curricula.get("saturn", levels=levels, threshold=0.5, every=8), []
    state = saturn.init(jax.random.key(0))
    for mean in (1.0, 0.0, 1.0, 0.75, 1.0, 1.0, 1.0):  # four rollouts a step: judged every second one, on (1, 0), (1, .75), ...
        plan = planned(saturn, state, 0, 2)
        reached.append(int(plan.knobs["width"][0]))
        state = seen(saturn, state, plan, [mean, mean])
    assert reached == [1, 1, 1, 1, 2, 2, 4]  # exactly half is not enough
    assert saturn.knobs == (("width", 1, 4), ("depth", 0, 2))


def test_the_box_of_adr_moves_as_its_queues_say():
    rule = curricula.get("adr", knobs=KNOBS, start=(2, 1), queue=4, low=0.2, high=0.8)
    state, box = rule.init(jax.random.key(0)), np.array([2.0, 1, 2, 1])
    total, count, rng = np.zeros(4), np.zeros(4), np.random.default_rng(0)
    for step in range(60):
        plan = planned(rule, state, step, 6)
        which, value = np.asarray(plan.knobs[randomised.BOUND]), np.stack([plan.knobs["width"], plan.knobs["depth"]], axis=1)
        assert (value >= box[:2]).all() and (value <= box[2:]).all()
        assert all(value[i, w % 2] == box[w] for i, w in enumerate(which) if w < 4)
        reward = np.where(value[:, 0] >= 4, 0.0, rng.uniform(0.7, 1.0, 6)).astype(np.float32)
        state, before = seen(rule, state, plan, reward), box.copy()
        for w, r in zip(which, reward):
            if w < 4:
                total[w], count[w] = total[w] + r, count[w] + 1
        for w in range(4):
            if count[w] >= 4:
                outwards = (total[w] / count[w] >= 0.8) * 1 - (total[w] / count[w] <= 0.2) * 1
                box[w] = max(before[w] - outwards, (1, 0)[w]) if w < 2 else min(before[w] + outwards, (4, 2)[w - 2])
                total[w] = count[w] = 0
        box[2:] = np.maximum(box[2:], box[:2])
        np.testing.assert_array_equal(state["bound_2D"], box)
    assert box[0] == 1 and box[1] == 0 and box[3] == 2 and box[2] in (3, 4)  # width 4 is never solved
    draws = np.asarray(planned(rule, state, 99, 3000).knobs[randomised.BOUND])
    assert stats.chisquare(np.bincount(draws, minlength=5), 3000 * np.array([0.125] * 4 + [0.5])).pvalue > 1e-3


def test_progress_of_a_region_and_its_cut():
    reward, inside = np.array([0.0, 1, 1, 0, 1, 1, 9]), np.array([1.0, 1, 0, 1, 1, 1, 0])
    early, late = [0.0, 1], [0.0, 1, 1]
    np.testing.assert_allclose(riac.progress(reward, inside), abs(np.mean(late) - np.mean(early)), rtol=1e-6)
    assert riac.progress(reward, np.eye(7)[0]) == 0
    rule = curricula.get("riac", knobs=KNOBS, points=20, cuts=8, regions=4, explore=0.0, mutate=0.0)
    state = rule.init(jax.random.key(3))
    points = []
    for step in range(4):  # the first knob's upper half is learned, the rest is not
        plan = planned(rule, state, step, 5)
        unit = np.stack([(np.asarray(plan.knobs["width"]) - 0.5) / 4, (np.asarray(plan.knobs["depth"]) + 0.5) / 3], axis=1)
        reward = np.where(unit[:, 0] > 0.5, step / 3, 0.1).astype(np.float32)
        points += zip(unit, reward)
        state = seen(rule, state, plan, reward, step)
    task, reward = np.array([p for p, _ in points]), np.array([r for _, r in points])
    key = jax.random.fold_in(jax.random.key(state["word"]), 20)
    which = np.asarray(jax.random.randint(jax.random.fold_in(key, 0), (8,), 0, 2))
    place = np.asarray(jax.random.uniform(jax.random.fold_in(key, 1), (8,)))

    def alp(x):
        return abs(x[len(x) // 2:].mean() - x[:len(x) // 2].mean()) if len(x) > 1 else 0.0

    sides = [task[:, w] < p for w, p in zip(which, place)]
    score = [len(reward[s]) * len(reward[~s]) * abs(alp(reward[s]) - alp(reward[~s])) if 2 <= s.sum() <= 18 else -1
             for s in sides]
    best = int(np.argmax(score))
    assert int(state["live"]) == 2
    np.testing.assert_allclose(state["high_RxD"][0, which[best]], place[best], rtol=1e-6)
    np.testing.assert_allclose(state["low_RxD"][1, which[best]], place[best], rtol=1e-6)
    for r, side in enumerate((sides[best], ~sides[best])):
        assert int(state["count_R"][r]) == side.sum()
        np.testing.assert_allclose(state["reward_RxW"][r, :side.sum()], reward[side], rtol=1e-6)
        np.testing.assert_allclose(state["alp_R"][r], alp(reward[side]), atol=1e-6)
    only = state | {"alp_R": jnp.asarray([0.0, 1, 0, 0])}
    value = np.concatenate([planned(rule, only, seed, 5).knobs[KNOBS[which[best]][0]] for seed in range(40)])
    assert value.min() >= np.floor(rule.range[0][0, which[best]] + place[best] * (4, 3)[which[best]])


def test_the_update_of_spdl_is_the_constrained_maximum():
    rule = curricula.get("spdl", knobs=(("width", 1, 4),), most_kl=0.2, iterations=200, every=50)
    rng = np.random.default_rng(2)
    old = spdl.Gaussian(jnp.asarray([0.2]), jnp.log(jnp.asarray([0.2])))
    task = rng.normal(0.2, 0.2, (50, 1)).astype(np.float32)
    value, alpha = (task[:, 0] > 0.25).astype(np.float32), 0.01

    def divergence(x, mean, std):
        return 0.5 * (np.exp(2 * x[1]) / std**2 + (x[0] - mean) ** 2 / std**2 - 1 - 2 * (x[1] - np.log(std)))

    def worth(x):
        ratio = stats.norm(x[0], np.exp(x[1])).pdf(task[:, 0]) / stats.norm(0.2, 0.2).pdf(task[:, 0])
        return (ratio * value).mean() - alpha * divergence(x, 1.0, 0.05)

    best = optimize.minimize(lambda x: -worth(x), [0.2, np.log(0.2)], method="SLSQP",
                             constraints={"type": "ineq", "fun": lambda x: 0.2 - divergence(x, 0.2, 0.2)})
    new = rule.moved(old, jnp.asarray(task), jnp.asarray(value), jnp.float32(alpha))
    found = np.array([float(new.mean_D[0]), float(new.log_std_D[0])])
    assert divergence(found, 0.2, 0.2) <= 0.2 + 1e-4 and worth([0.2, np.log(0.2)]) + 0.05 < worth(found)
    np.testing.assert_allclose(worth(found), -best.fun, rtol=0.01)


@pytest.mark.slow
def test_a_generator_makes_tasks_like_those_of_intermediate_success():
    rule = curricula.get("goal_gan", knobs=(("width", 1, 20),), every=60, kept=60, noise=0.0, old=0.25)
    state, good, error = rule.init(jax.random.key(4)), [], 5 * np.sqrt(0.3 * 0.7 / 300)  # five standard errors
    for step in range(2):
        width = np.asarray(planned(rule, state, step, 300).knobs["width"])[:60] if step == 0 else 1 + np.arange(60) % 20
        assert len(set(width)) > 10  # uniform before the first training
        plan = Plan(jnp.zeros(60, jnp.uint32), None, {"width": jnp.asarray(width)})
        state = seen(rule, state, plan, np.where(width > 14, 0.5, np.where(width > 8, 0.0, 0.8)), step)
        good = [w for w in width if w > 14]
    kept = np.asarray(state["task_NxD"])[np.asarray(state["good_N"]) > 0, 0]
    np.testing.assert_allclose(np.sort(kept), (np.sort(np.float32(good)) - 0.5) / 20, atol=1e-6)
    found = np.asarray(planned(rule, state, 77, 300).knobs["width"])
    assert bool(state["trained"]) and (found > 14).mean() > 0.25 + 0.75 * (0.3 + error)  # above a uniform generator
    (weight, _), *_ = reversed(state["generator"])
    lowest = state | {"generator": [*state["generator"][:-1], (weight, jnp.full(1, -1e6))]}
    found = np.asarray(planned(rule, lowest, 78, 300).knobs["width"])
    assert set(found) == {1, *good} and abs((found > 14).mean() - 0.25) < error


def test_the_loss_of_a_discriminator_with_labels():
    rng = np.random.default_rng(5)
    layers = [(rng.normal(size=(1, 3)), rng.normal(size=3)), (rng.normal(size=(3, 1)), rng.normal(size=1))]
    real, made, good = rng.uniform(size=(4, 1)), rng.uniform(size=(6, 1)), np.array([1.0, 0, 1, 0])

    def judge(x):
        return (np.maximum(x @ layers[0][0] + layers[0][1], 0) @ layers[1][0] + layers[1][1])[:, 0]

    wanted = np.mean([(d - 1) ** 2 if y else (d + 1) ** 2 for d, y in zip(judge(real), good)]) + np.mean((judge(made) + 1) ** 2)
    as_jax = jax.tree.map(jnp.asarray, (layers, real, good, made))
    np.testing.assert_allclose(goal_gan.discriminator_loss(*as_jax), wanted, rtol=1e-5)


def test_covariances_of_a_mixture_choose_its_component():
    """The ring and the fit are ALP-GMM's; here a mixture of three components far apart is given."""
    rule = curricula.get("covar_gmm", knobs=(("width", 0, 9),), fit=30, kept=60, components=3, explore=0.1)
    state, reward_W = rule.init(jax.random.key(7)), np.random.default_rng(0).uniform(size=60).astype(np.float32)
    last_F = np.arange(129, 99, -1) % 60
    beside = rule.beside(state | {"reward_W": jnp.asarray(reward_W)}, jnp.asarray(last_F))
    np.testing.assert_allclose(beside, np.c_[np.linspace(1, 0, 30), reward_W[last_F]], atol=1e-6)
    covariance = [[[1e-6, 0, 0], [0, 1, c], [0, c, 1]] for c in (-0.5, 0.2, 0.6)]
    mean = [[x, 0.5, 0.5] for x in (0.05, 0.55, 0.95)]  # the middles of widths 0, 5 and 9
    fitted = mixture.Mixture(*map(jnp.asarray, ([0.4, 0.3, 0.3], mean, covariance)))
    np.testing.assert_allclose(rule.worth(fitted), [0, 0.2, 0.6])
    assert np.allclose(curricula.get("covar_gmm", knobs=rule.knobs, absolute=True).worth(fitted), [0.5, 0.2, 0.6])
    found = np.bincount(planned(rule, state | {"mixture": fitted}, 1, 3000).knobs["width"], minlength=10)
    wanted = np.full(10, 0.01) + 0.9 * np.array([0, 0, 0, 0, 0, 0.25, 0, 0, 0, 0.75])
    assert stats.chisquare(found, 3000 * wanted).pvalue > 1e-3


@pytest.mark.parametrize("name, settings, message", [
    ("saturn", {}, r"levels=\(\): expected"),
    ("saturn", {"levels": (("width", (1, 2)), ("depth", (1,)))}, "as many values of each"),
    ("masked_spans", {"levels": (("width", (1, 2)),)}, "steps=0: the stages need"),
    ("adr", {"knobs": KNOBS, "start": (9, 0)}, r"start=\(9, 0\): expected a value within its range"),
    ("riac", {"knobs": KNOBS, "explore": 0.9, "mutate": 0.2}, "shares of which the sum is at most 1"),
    ("spdl", {"knobs": KNOBS, "target": (0.5,)}, r"target=\(0.5,\): expected a share of its range for each of the 2 knobs")])
def test_mistakes_are_one_line(name, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        curricula.get(name, **settings)
    assert "\n" not in str(caught.value)
