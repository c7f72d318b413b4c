"""An item that a step draws twice, rows that do not count, and settings out of range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import curricula
from jaxpost.curricula.base import Feedback, Plan, Weights

POOL = {"pool": 4, "difficulty": (0.0, 0.0, 1.0, 1.0)}


def observed(rule, index, reward, used):
    """The state after one step of two rows an item."""
    feedback = Feedback(0, Plan(jnp.array(index, jnp.uint32)), jnp.array(used), jnp.array(reward))
    return rule.observe(rule.init(jax.random.key(0)), feedback, Weights())[0]


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [2, 1, 0]])
def test_two_visits_of_a_step_are_one_whatever_their_order(order):
    index, reward = np.array([1, 1, 3]), np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    used = np.ones((3, 2))
    rule = curricula.get("progressive_context", steps=10, **POOL)
    np.testing.assert_allclose(observed(rule, index[order], reward[order], used)["reward_M"], [0, 0.25, 0, 0])
    rule = curricula.get("ghpo_next_visit", pool=4)
    np.testing.assert_array_equal(observed(rule, index[order], reward[order], used)["level_M"], [0, 0, 0, 1])
    np.testing.assert_array_equal(observed(rule, [3, 3], np.zeros((2, 2)), np.ones((2, 2)))["level_M"], [0, 0, 0, 1])
    rule = curricula.get("adcl", pool=4, chunks=2)
    np.testing.assert_allclose(observed(rule, index[order], reward[order], used)["score_M"], [0, 0.25, 0, 0])


def test_a_missing_reward_of_a_row_that_does_not_count_is_not_read():
    reward, used = [[1.0, np.nan], [0.0, np.nan]], [[1.0, 0.0], [1.0, 0.0]]
    rules = (curricula.get("sari", pool=4, steps=10), curricula.get("saturn", levels=(("a", (1, 2)),)),
             curricula.get("progressive_context", steps=10, **POOL))
    states = [observed(rule, [0, 2], reward, used) for rule in rules]
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(states))
    np.testing.assert_array_equal(states[0]["success_M"], [1, 0, 0, 0])
    assert float(states[1]["success"]) == 1


@pytest.mark.parametrize("name, settings", [
    ("sec", {"temperature": 0.0}), ("sec", {"rate": -1.0}), ("dump", {"window": 0}), ("dump", {"window": 2.5}),
    ("dump", {"temperature": float("nan")}), ("tscl_online", {"epsilon": 2.0}), ("tscl_window", {"window": 0}),
    ("tscl_online", {"temperature": -1.0}), ("knapsack", {"window": 0}), ("knapsack", {"known": -1}), ("gvm", {"least": 0}),
    ("gvm", {"alpha": -1.0}), ("gvm", {"average": 1})])
def test_numbers_out_of_range_are_refused_when_built(name, settings):
    (key, value), = settings.items()
    known = POOL if name in ("sec", "dump") or name.startswith("tscl") else {"pool": 4}
    with pytest.raises(ValueError, match=f"curriculum '{name}': .*{key}={value}.*expected"):
        curricula.get(name, **known, **settings)


@pytest.mark.parametrize("name, settings, expected", [
    ("sec", {"rate": True}, "a finite number; nearest valid: 1.0"), ("sec", {"temperature": float("inf")}, "a finite number"),
    ("sec", {"decay_undrawn": 2}, "True or False"), ("tscl_online", {"absolute": "no"}, "True or False; nearest valid: False"),
    ("dump", {"window": 2.5}, "a whole number; nearest valid: 2"),
    ("dump", {"difficulty": 1.0}, "a list (each a finite number)")])
def test_values_of_another_kind_are_refused_when_built(name, settings, expected):
    (key, value), = settings.items()
    with pytest.raises(ValueError) as refused:
        curricula.for_run({name: settings}, POOL)
    assert str(refused.value) == f"curriculum '{name}': {key}={value!r}, expected {expected}"
