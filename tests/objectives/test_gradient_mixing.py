"""Weights from gradients: hypergradients against finite differences, both rules by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from jaxpost.objectives.gradient_mixing import one_step_hypergradient
from tests.objectives import given


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def problem():
    rng = np.random.default_rng(0)
    a, b, c = (jnp.asarray(x) for x in rng.normal(size=(3, 4)))
    params = {"x": jnp.asarray(rng.normal(size=4)), "y": jnp.asarray(0.3)}
    losses = [lambda p: jnp.sum((p["x"] - a) ** 4) + p["y"] ** 2, lambda p: jnp.sum(jnp.cosh(p["x"] * b)) + jnp.sin(p["y"])]
    return losses, lambda p: -jnp.sum(jnp.exp(p["x"] * c)) + p["y"] * jnp.sum(p["x"]), params


def test_the_hypergradient_against_finite_differences():
    losses, utility, params = problem()
    weight, rate, h = np.asarray([0.3, 0.7]), 0.05, 1e-6

    def reached(w):
        grads = [jax.grad(loss)(params) for loss in losses]
        return utility(jax.tree.map(lambda x, a, b: x - rate * (w[0] * a + w[1] * b), params, *grads))

    expected = [(reached(weight + h * e) - reached(weight - h * e)) / (2 * h) for e in np.eye(2)]
    np.testing.assert_allclose(one_step_hypergradient(losses, utility, params, weight, rate), expected, rtol=1e-7)


@pytest.mark.parametrize("utility", ["rl", "sft"])
def test_mu_climbs_the_hypergradient_of_its_utility(utility):
    """The rule reads it from inner products: the limit of a small step, divided by its rate."""
    losses, _, params = problem()
    which = ("rl", "sft").index(utility)
    flat = [jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(jax.grad(loss)(params))]) for loss in losses]
    gram = jnp.stack(flat) @ jnp.stack(flat).T
    objective = objectives.get("amft", utility=utility, meta_rate=1e-3, every=2, start=0.4)
    per_weight = one_step_hypergradient(losses, lambda p: -losses[which](p), params, jnp.asarray([0.6, 0.4]), 1e-9) / 1e-9
    expected = 0.4 + 1e-3 * (per_weight[1] - per_weight[0])  # mu moves weight from RL to SFT
    state = objective.init()
    weight, kept = objective.mix(state, gram, None)
    np.testing.assert_allclose(weight, [0.6, 0.4], rtol=1e-6)
    assert float(kept["mu"]) == float(state["mu"])  # not its turn
    weight, moved = objective.mix(objective.observe(kept, None), gram, None)
    np.testing.assert_allclose(weight, [0.6, 0.4], rtol=1e-6)
    assert float(moved["mu"]) == pytest.approx(float(np.clip(expected, 0.05, 0.95)), rel=1e-5)


def test_mu_is_held_in_its_range_and_pulled_to_the_target_entropy():
    objective = objectives.get("amft", every=1, meta_rate=0.0, entropy_rate=0.1, target_entropy=2.0, high=0.6)
    _, batch = given.needed(objective, *given.rows())
    state, mask = objective.init(), np.asarray(batch.mask_NxT * (1 - batch.demonstration_NxT))
    H = (np.asarray(batch.entropy_NxT) * mask).sum() / mask.sum()
    _, moved = objective.mix(state, jnp.eye(2), batch)
    assert float(moved["mu"]) == pytest.approx(min(0.6, 0.5 + 0.1 * (2.0 - H)), rel=1e-5)
    for _ in range(5):
        _, moved = objective.mix(moved, jnp.eye(2), batch)
    assert float(moved["mu"]) == pytest.approx(0.6, rel=1e-6)


def test_an_adaptive_step_is_supervised_as_often_as_its_norm_says():
    objective = objectives.get("sasr", balance_norm=0.5)
    _, batch = given.needed(objective, *given.rows())
    gram, state = jnp.asarray([[1.0, 0.0], [0.0, 4.0]]), {"first_norm": jnp.float32(3.0)}
    words = jnp.arange(4000, dtype=jnp.uint32)
    drawn = jax.vmap(lambda w: objective.mix(state, gram, batch._replace(seed_N=w[None]))[0])(words)
    assert set(np.unique(drawn)) == {0.0, 1.0} and np.all(np.asarray(drawn).sum(axis=1) == 1)
    p = 2.0 / (2.0 + 0.5 * 3.0)
    assert abs(float(drawn[:, 1].mean()) - p) < 5 * np.sqrt(p * (1 - p) / 4000)
    first = objective.mix(objective.init(), gram, batch)[1]
    assert float(first["first_norm"]) == 2.0
    assert float(objective.mix(first, 9 * gram, batch)[1]["first_norm"]) == 2.0


@pytest.mark.parametrize("name, parts, message", [
    ("amft", {"utility": "val"}, "choose one of rl, sft"), ("amft", {"start": 0.99}, "in this order"),
    ("amft", {"entropy_rate": 0.1}, "without a target_entropy"), ("amft", {"every": 0}, "at least 1"),
    ("sasr", {"balance_norm": 0.0}, "greater than 0"),
    ("amft", {"aggregation": "constant", "aggregation_length": 3}, "choose one")])
def test_what_is_refused(name, parts, message):
    with pytest.raises(ValueError, match=message):
        objectives.get(name, **parts)
