"""Weights of reward terms: influences from autodiff, a bandit by enumeration, hypervolumes by inclusion and exclusion."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from jaxpost.objectives import reward_weighting
from tests.objectives import given

CLIP, FACTORS = 0.3, np.asarray([1.0, 0.6, 1.0])  # the second term's gradient is shorter than CLIP


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def bandit():
    """(logits, chances, objective, batch, log-probabilities): five actions, one row each, three terms of the reward."""
    logits, terms = np.random.default_rng(0).normal(size=5), np.random.default_rng(1).normal(size=(5, 3))
    objective = objectives.get("gradient_weighted_rewards", start=(0.5, 0.3, 0.2), ratio="none", clip_low=None, clip_high=None,
                               weight_rate=0.4, weight_temperature=0.5, gradient_clip=CLIP)
    logp = lambda x: jax.nn.log_softmax(x)[:, None]  # noqa: E731
    batch = objectives.Batch(None, None, jnp.ones((5, 1)), reward_N=jnp.asarray(terms.sum(1)), behaviour_NxT=logp(logits),
                             term_NxK=jnp.asarray(terms), term_weight_NxK=jnp.tile(jnp.asarray(FACTORS), (5, 1)))
    return logits, terms, objective, batch, logp


def test_the_step_is_the_mixture_of_the_terms_own_gradients_and_weights_follow_their_influence():
    """Each L_k by finite differences of - mean_a A_k(a) log pi(a), A_k the normalised rewards of term k; w by hand."""
    logits, terms, objective, batch, logp = bandit()
    ready = objective.prepare(batch, 5)
    state = objective.init()
    _, pull = jax.vjp(lambda x: objective.loss(objectives.View(logp(x)), ready, state)[0] / 5, jnp.asarray(logits))
    own = np.asarray(jax.vmap(lambda e: pull(e)[0])(jnp.eye(3)))
    A = FACTORS * (terms - terms.mean(0)) / (terms.std(0, ddof=1) + 1e-4)

    def climbed(x, k):
        return -(np.log(np.exp(x) / np.exp(x).sum()) * A[:, k]).mean()

    h = 1e-6 * np.eye(5)
    numeric = np.asarray([[(climbed(logits + d, k) - climbed(logits - d, k)) / 2e-6 for d in h] for k in range(3)])
    np.testing.assert_allclose(own, numeric, atol=1e-9)
    clipped = [g * min(1.0, CLIP / np.linalg.norm(g)) for g in own]
    assert {np.linalg.norm(g) > CLIP for g in own} == {True, False}
    influence = np.asarray([sum(g @ other for other in clipped) for g in clipped])
    expected = np.asarray([0.5, 0.3, 0.2]) * np.exp(0.8 * influence)
    weight, moved = objective.mix(state, jnp.asarray(own @ own.T), ready)
    np.testing.assert_allclose(weight, expected / expected.sum(), rtol=1e-6)
    np.testing.assert_allclose(np.exp(moved["log_weight_K"]), weight, rtol=1e-6)


def test_without_a_rate_the_terms_add_up_to_one_advantage():
    """sum_k w_k L_k of an unclipped surrogate is linear in the advantage: GDPO's, with w for the reward's weights."""
    objective = given.recipe("gradient_weighted_rewards", start=(0.75, 0.25), weight_rate=0.0, clip_low=None, clip_high=None)
    view, batch = given.needed(objective, *given.rows(3))
    batch = batch._replace(term_weight_NxK=jnp.ones((8, 2)), weight_N=jnp.linspace(0.5, 2.0, 8))
    total_K, count_K, _ = objective.loss(view, given.prepared(objective, batch), objective.init())
    single = given.recipe("gdpo", whiten="none", clip_low=None, clip_high=None)
    ready = given.prepared(single, batch._replace(term_weight_NxK=jnp.tile(jnp.asarray([0.75, 0.25]), (8, 1))))
    ready = ready._replace(advantage_NxT=ready.advantage_NxT * batch.weight_N[:, None])
    total, count, _ = single.loss(view, ready, {})
    weight, _ = objective.mix(objective.init(), jnp.ones((2, 2)), batch)
    assert float((weight * total_K).sum()) == pytest.approx(float(total), rel=1e-6)
    np.testing.assert_allclose(count_K, count)


def volume(points, reference):
    """Of the union of boxes from the reference to each point, by inclusion and exclusion."""
    total = 0.0
    for size in range(1, len(points) + 1):
        for some in itertools.combinations(points, size):
            total -= (-1) ** size * np.prod(np.maximum(np.min(some, axis=0) - reference, 0.0))
    return total


@pytest.mark.parametrize("K", [1, 2, 3])
def test_hypervolume_is_that_of_a_union_of_boxes(K):
    rng = np.random.default_rng(K)
    points, reference = rng.normal(size=(6, K)), rng.normal(size=K) - 0.5
    points[1] = points[0]
    got = reward_weighting.hypervolume(jnp.asarray(points), jnp.asarray(reference))
    assert float(got) == pytest.approx(volume(points, reference), rel=1e-12)
    moved = reward_weighting.hypervolume(jnp.asarray(points[::-1] + 3), jnp.asarray(reference + 3))
    assert float(moved) == pytest.approx(float(got), rel=1e-12)


def test_a_front_keeps_the_points_that_no_other_dominates_and_when_full_the_largest_volume():
    rng, reference = np.random.default_rng(5), np.zeros(2)
    front, seen = jnp.zeros((4, 2)), []
    add = jax.jit(reward_weighting.with_point)
    for point in np.concatenate([rng.uniform(0, 0.3, (4, 2)), rng.uniform(0.2, 1.0, (8, 2))]):
        before = [x for x in np.asarray(front) if x.any()]
        front, gain = add(front, jnp.asarray(point), jnp.asarray(reference))
        assert float(gain) == pytest.approx(volume([*before, point], reference) - volume(before, reference), abs=1e-12)
        seen.append(point)
        best = max(volume(some, reference) for some in itertools.combinations(
            [*before, point], min(4, len(before) + 1)))
        assert volume(list(np.asarray(front)), reference) == pytest.approx(best, rel=1e-12)
    assert volume(list(np.asarray(front)), reference) <= volume(seen, reference)


def test_the_reward_is_scaled_by_what_the_batch_before_added():
    objective = given.recipe("hypervolume_rewards")
    view, batch = given.needed(objective, *given.rows(2))
    batch = batch._replace(mask_NxT=batch.mask_NxT.at[3].set(0.0), term_NxK=batch.term_NxK.at[5, 1].set(jnp.nan))
    first = given.prepared(objective, batch)
    state = objective.observe(objective.init(), first)
    rows, terms = [n for n in range(8) if n != 3], np.asarray(batch.term_NxK)
    v = np.asarray([terms[rows, 0].mean(), np.nanmean(terms[rows, 1])])
    factor = np.clip(0.5 + 1.5 * np.tanh(v.prod()), 0.5, 2.0)
    assert float(state["factor"]) == pytest.approx(factor, rel=1e-6) and 0.5 < factor < 2.0
    second = objective.prepare(batch, given.GROUP, state=state)
    np.testing.assert_allclose(second.advantage_NxT, float(state["factor"]) * first.advantage_NxT, rtol=1e-12)
    again = objective.observe(state, batch)
    assert float(again["factor"]) == 0.5  # the same performance adds nothing
    nothing = objective.observe(state, batch._replace(mask_NxT=jnp.zeros_like(batch.mask_NxT)))
    assert all(np.array_equal(nothing[name], state[name]) for name in state)
    scaled = given.recipe("hypervolume_rewards", scale="group", eps=0.0)
    whole = [scaled.prepare(batch, given.GROUP, state=s).advantage_NxT for s in (scaled.init(), state)]
    np.testing.assert_allclose(*whole, rtol=1e-12)  # the caution: a standard deviation takes the factor away


@pytest.mark.parametrize("name, parts, message", [
    ("gradient_weighted_rewards", {"start": (0.5, 0.6)}, "with sum 1"),
    ("gradient_weighted_rewards", {"start": (1.0,)}, "two or more"),
    ("gradient_weighted_rewards", {"weight_temperature": 0.0}, "greater than 0"),
    ("gradient_weighted_rewards", {"whiten": "row"}, "choose one of none"),
    ("gradient_weighted_rewards", {"weight_rate": 0.0, "gradient_clip": 2.0}, "keeps the weights"),
    ("hypervolume_rewards", {"capacity": 65}, "a whole number from 1 to 64"),
    ("hypervolume_rewards", {"reference_point": (0.0,)}, "two or more terms"),
    ("hypervolume_rewards", {"reference_point": (0.0, float("nan"))}, "each a finite number"),
    ("hypervolume_rewards", {"kl_place": "reward", "kl_coef": 0.1}, "put the KL in the loss")])
def test_what_is_refused(name, parts, message):
    with pytest.raises(ValueError, match=message):
        objectives.get(name, **parts)
