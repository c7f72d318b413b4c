"""Answers that are kept: a policy that knows nothing has log-probability -n log V; rewards and their terms are by hand."""

import types

import jax
import numpy as np
import pytest

from experiments.harness.completions import HEADER, Answers
from jaxpost import models, tasks
from jaxpost.objectives import rewards
from jaxpost.tasks import vocab

MODEL = models.TransformerConfig(vocab=vocab.SIZE, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, ff=16)


class Kept:
    """A bundle and a mirror that remember."""

    def __init__(self):
        self.shards, self.tables = {}, []

    def write_completions(self, name, columns):
        self.shards[name] = columns

    def table(self, *given):
        self.tables.append(given)


@pytest.fixture(scope="module")
def asked():
    """What two seeds of a policy with all parameters zero answer to three problems, under a reward of two terms."""
    task = tasks.get("addition", digits=1)
    params = jax.tree.map(np.zeros_like, models.init(MODEL, jax.random.key(0)))
    terms = (rewards.Reward("correct", 1.0), rewards.Reward("finished", 0.5))
    arm = types.SimpleNamespace(name="grpo", source=types.SimpleNamespace(reward=terms))
    kept = Kept()
    answers = Answers(MODEL, task, "id", 3, kept, kept)
    for step, who in ((0, "base"), (7, arm)):
        answers(who, step, [5, 6], jax.tree.map(lambda x: np.stack([x, x]), params))
    return task, kept


def test_a_policy_that_knows_nothing_has_the_log_probability_of_chance(asked):
    columns = asked[1].shards["grpo-00007-seeds-5-6"]
    np.testing.assert_allclose(columns["logp"], -np.asarray(columns["tokens"]) * np.log(vocab.SIZE), rtol=1e-5)
    assert columns["seed"] == [5] * 3 + [6] * 3 and set(columns["step"]) == {7} and columns["problem"] == [0, 1, 2] * 2
    assert columns["answer"][:3] != columns["answer"][3:]  # a seed has its own noise
    assert columns["answer"] == asked[1].shards["base-00000-seeds-5-6"]["answer"]


def test_prompts_are_text_and_rewards_the_weighed_terms(asked):
    task, kept = asked
    columns = kept.shards["grpo-00007-seeds-5-6"]
    problems_N = tasks.problems(task, "id", np.arange(3))
    wanted = ["".join(vocab.decode([t]) for t in np.asarray(task.prompt(jax.tree.map(lambda x, i=i: x[i], problems_N))) if t)
              for i in range(3)]
    assert columns["prompt"][:3] == wanted
    for reward, parts, finished in zip(columns["reward"], columns["parts"], columns["finished"]):
        terms = {key: float(value) for key, value in (part.split("=") for part in parts.split(";"))}
        assert set(terms) == {"correct", "finished"} and terms["finished"] == float(finished)
        assert reward == pytest.approx(terms["correct"] + 0.5 * terms["finished"])
    assert kept.shards["base-00000-seeds-5-6"]["parts"] == [None] * 6
    name, seed, step, what, header, lines = kept.tables[-1]
    assert (name, seed, step, what, header, len(lines)) == ("grpo", 6, 7, "completions", HEADER, 3)


def test_none_are_asked_for():
    kept = Kept()
    Answers(MODEL, None, "id", 0, kept, kept)("base", 0, [1], {})
    assert not kept.shards and not kept.tables
