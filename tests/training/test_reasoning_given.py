"""Answers behind given reasoning: a scripted policy against plain Python, rows against plain numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models, tasks, training
from jaxpost.models import DRAW
from jaxpost.probes import base, catalog
from jaxpost.tasks import vocab
from jaxpost.training import reasoning_given

from ..probes.trajectories import as_rows, ids

BEGIN, END = (vocab.TOKEN[mark] for mark in "[]")
TASK = tasks.get("chains", nodes=(3, 3), ood_nodes=(4, 4), style="cot")
T = TASK.completion_len
MODEL = models.TransformerConfig(vocab=TASK.vocab_size, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, ff=16)
SHARES = (0.25, 0.5, 0.75)
SAID = [[3, 1, 4, 1], [7], [2, 2, 2], [5, 9, 2, 6, 5], [], [4, 4]]  # reasoning of each problem; the answer is its largest digit
NEXT = np.asarray([1, 2, 0, 4, 5, 3])  # two splits of three problems
PROBLEM = {"said": jnp.asarray([row + [0] * (6 - len(row)) for row in SAID]), "length": jnp.asarray([len(r) for r in SAID])}


def oracle(problem, key):
    """`[`, the digits, `]`, the answer, the end; the problem without digits has an answer alone."""
    t, n = jnp.arange(T), problem["length"]
    digit = vocab.DIGIT + problem["said"][jnp.clip(t - 1, 0, 5)]
    tokens = jnp.where(t == 0, BEGIN, jnp.where(t <= n, digit, jnp.where(t == n + 1, END, 0)))
    tokens = jnp.where(t == n + 2, vocab.DIGIT + problem["said"].max(), jnp.where(t == n + 3, vocab.EOS, tokens))
    return jnp.where(n > 0, tokens, jnp.where(t == 0, vocab.DIGIT, jnp.where(t == 1, vocab.EOS, 0))).astype(jnp.int32)


def verify(problem, tokens_T):
    """The token before the end is the largest digit of the problem."""
    end = jnp.argmax(tokens_T == vocab.EOS)
    return (tokens_T[end - 1] == vocab.DIGIT + problem["said"].max()).astype(jnp.float32)


def scripted(config, params, prompt_NxP, key, *, length, eos, pad, forced_NxT):
    """A policy that ends reasoning at once and answers with the largest digit so far; without reasoning it answers 0."""
    columns = []
    for t in range(length):
        so_far = jnp.stack(columns, 1) if columns else jnp.zeros((len(SAID), 0), jnp.int32)
        thinks = so_far[:, 0] == BEGIN if t else jnp.zeros(len(SAID), bool)
        ended, answered = (so_far == END).any(1), (so_far[:, -1] != END) if t else thinks
        best = jnp.where((so_far >= vocab.DIGIT) & (so_far < vocab.DIGIT + 10), so_far, vocab.DIGIT).max(1, initial=vocab.DIGIT)
        done = (so_far == eos).any(1)
        own = jnp.where(thinks & ~ended, END, jnp.where((thinks & answered) | (~thinks & (t > 0)), eos, best))
        own = jnp.where(done, pad, own)
        columns.append(jnp.where(forced_NxT[:, t] == DRAW, own, forced_NxT[:, t]).astype(jnp.int32))
    tokens_NxT = jnp.stack(columns, 1)
    return models.Completions(tokens_NxT, 0.0 * tokens_NxT, jnp.ones(tokens_NxT.shape))


@pytest.fixture
def asked(monkeypatch):
    """(shares) -> Given of the scripted policy."""
    monkeypatch.setattr(models, "sample", scripted)
    task = dataclasses.replace(TASK, verify=verify, oracle=oracle)

    def ask(shares):
        prompt_NxP, key = jnp.zeros((len(SAID), 2)), jax.random.key(1)
        return jax.device_get(reasoning_given.answers(MODEL, {}, task, PROBLEM, prompt_NxP, NEXT, key, shares))

    return ask


@pytest.mark.parametrize("shares", [SHARES, (0.5, 1.0)])
def test_answers_are_worth_what_a_plain_loop_says(asked, shares):
    def says(reasoning, share):  # a problem without reasoning gives none
        return max(reasoning[:int(share * len(reasoning))], default=0)

    found = asked(shares)
    for i, j in enumerate(NEXT):
        own, other = (max(SAID[k], default=0) for k in (i, j))
        for k, share in enumerate(shares):
            assert found.reward_NxK[i, k] == float(says(SAID[i], share) == own), (i, share)
            assert found.another_NxK[i, k] == float(says(SAID[j], share) == own), (i, share)
        assert found.followed_N[i] == 1.0 and found.free_N[i] == float(other == 0)  # it answers from the reasoning alone
        assert found.conflict_N[i] == (own != other)


def test_rows_are_those_of_plain_numpy_and_conflicts_alone_are_followed(asked):
    class Suite:
        def given_reasoning(self, params, key, shares):
            return {"id": asked(shares)}

    probe = catalog.get("given_reasoning", subject=catalog.Subject(suite=Suite()), shares=SHARES)
    values = {name: np.stack([x, x]) for name, x in
              probe.measure(base.Context({base.PARAMS: {}}), {}, jax.random.key(0))[1].items()}
    values["id/followed_N"][1] = [1, 0, 0, 1, 0, 0]
    values["id/conflict_N"][:] = [True, False, True, True, False, False]
    rows = as_rows(probe.finalize(values, {}, arm="a", step=1, seeds=[1, 2], conditional_on="d", row_ids=ids))
    given = asked(SHARES)
    for k, share in enumerate(SHARES):
        row, _ = (r for r in rows if r["metric"] == "policy.success_given_reasoning" and r["params"] == f"share={share:g}")
        assert row["value"] == pytest.approx(given.reward_NxK[:, k].mean()) and row["null_kind"] == "another"
        assert row["null_value"] == pytest.approx(given.another_NxK[:, k].mean())
    own, second = (r for r in rows if r["metric"] == "policy.follows_reasoning")
    assert (own["value"], own["n_units"], own["null_kind"]) == (1.0, 3, "free") and second["value"] == pytest.approx(2 / 3)
    values["id/conflict_N"][:] = False
    rows = as_rows(probe.finalize(values, {}, arm="a", step=1, seeds=[1, 2], conditional_on="d", row_ids=ids))
    none, _ = (r for r in rows if r["metric"] == "policy.follows_reasoning")
    assert none["status"] == "absent" and "fewer than two prompts" in none["status_reason"]


def test_a_suite_gives_each_split_its_own_reasoning():
    task = tasks.get("chains", nodes=(2, 3), ood_nodes=(4, 4), style="cot")
    plain = tasks.get("chains", nodes=(2, 3), ood_nodes=(4, 4))
    model = dataclasses.replace(MODEL, vocab=task.vocab_size)
    suite = training.Suite(model, (("id", task, "id"), ("ood", task, "ood/length"), ("second", plain, "id")), 6, "id")
    params, key = models.init(model, jax.random.key(0)), jax.random.key(3)
    given = jax.jit(suite.given_reasoning, static_argnums=2)(params, key, (1.0,))
    assert set(given) == {"id", "ood"} and given["ood"].reward_NxK.shape == (6, 1)
    for split, label in (("id", "id"), ("ood/length", "ood")):  # the next problem of the same split, that of the last the first
        drawn = tasks.examples(task, split, jnp.arange(6))
        label_6 = np.asarray(jax.vmap(task.verify)(jax.tree.map(lambda x: jnp.roll(x, -1, axis=0), drawn.problem),
                                                   drawn.answer_NxT))
        np.testing.assert_array_equal(given[label].conflict_N, label_6 == 0)


@pytest.mark.parametrize(("splits", "problems", "expected"), [
    ([], 8, "no split has answers with reasoning"), ([("id", TASK)], 1, "problems=1 a split: .* at least 2")])
def test_what_cannot_be_given_is_refused(splits, problems, expected):
    with pytest.raises(ValueError, match=expected):
        reasoning_given.check(splits, problems)
    for shares in ((), (0.5, 0.25), (0.0, 1.0), (0.5, 1.5)):
        with pytest.raises(ValueError, match="expected shares that grow inside"):
            catalog.get("given_reasoning", subject=catalog.Subject(suite=training.Suite(MODEL, (), 2, "id")), shares=shares)
