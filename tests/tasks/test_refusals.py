"""Answers that may refuse: what is a refusal against a reading of the text, and what each score makes of one."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import tasks
from jaxpost.tasks import members, refusals, vocab
from tests.tasks.test_worlds import fuzzed

COUNT = 256
MEMBERS = {"reasons": "chains(style='cot')", "answers": "addition(digits=2)"}


@functools.cache
def task(member, score):
    return tasks.get("refusals", member=MEMBERS[member], score=score)


@functools.cache
def drawn(member, score):
    return tasks.examples(task(member, score), "train", np.arange(COUNT, dtype=np.uint32))


@functools.cache
def judge(of):
    return jax.jit(jax.vmap(of.verify))


def refuses(tokens):
    """A completion up to its first `$`: `?`, or reasoning in the first brackets and then `?`."""
    return re.match(r"(\?|\[[^\]$]*\]\?)\$", vocab.decode(tokens)) is not None


@pytest.mark.parametrize("member", list(MEMBERS))
def test_scores_are_those_of_the_text(member):
    own = members.task_of(tasks.get, "refusals", "member", MEMBERS[member])
    problem = drawn(member, "right").problem
    rng, seen = np.random.default_rng(0), set()
    for answer in (drawn(member, "right").answer_NxT, drawn(member, "refused").answer_NxT):
        for tokens in (np.asarray(answer), fuzzed(rng, task(member, "right"), np.asarray(answer))):
            right = np.asarray(judge(own)(problem, tokens))
            refused = np.asarray([refuses(row) for row in tokens])
            assert not right[refused].any()
            for score, (of_right, of_refused) in refusals.VALUES.items():
                found = judge(task(member, score))(problem, tokens)
                np.testing.assert_array_equal(found, right * of_right + refused * of_refused)
            seen |= set(zip(right.tolist(), refused.tolist()))
    assert seen == {(1.0, False), (0.0, True), (0.0, False)}


def test_a_refusal_comes_after_any_part_of_the_reasoning():
    """Problems and reasoning are those of the member, and every share of the reasoning is drawn as often."""
    answer, refused = (np.asarray(drawn("reasons", score).answer_NxT) for score in ("right", "refused"))
    np.testing.assert_array_equal(drawn("reasons", "right").prompt_NxP, drawn("reasons", "refused").prompt_NxP)
    share = []
    for whole, part in zip(map(vocab.decode, answer), map(vocab.decode, refused)):
        thought, cut = whole[1:whole.index("]")], part[1:part.index("]")]
        assert thought.startswith(cut) and len(cut) > 0
        share.append((len(cut) - 0.5) / len(thought))
    assert abs(np.mean(share) - 0.5) < 5 * np.sqrt(1 / 12 / COUNT) and np.std(share) > 0.2
    assert {vocab.decode(row).rstrip("_") for row in np.asarray(drawn("answers", "refused").answer_NxT)} == {"?$"}


def test_the_family_is_the_members_with_guesses_of_its_own():
    of, own = task("reasons", "graded"), tasks.get("chains", style="cot")
    assert (of.prompt_len, of.completion_len, of.roles, list(of.splits)) == (
        own.prompt_len, own.completion_len, own.roles, list(own.splits))
    assert [task("answers", score).guess("id") for score in ("graded", "refused", "not_wrong")] == [0.5, 1.0, 1.0]
    assert task("answers", "right").guess("id") == tasks.get("addition", digits=2).guess("id")
    both = tasks.get("mixture", members=("refusals(member='addition(digits=2)', score='right')",
                                         "refusals(member='addition(digits=3)', score='refused')"))
    batch = tasks.examples(both, "train", np.arange(COUNT))
    assert jnp.all(jax.vmap(both.verify)(batch.problem, batch.answer_NxT) == 1)
    refused = np.asarray([refuses(row) for row in np.asarray(batch.answer_NxT)])
    np.testing.assert_array_equal(refused, np.asarray(batch.problem.member) == 1)


@pytest.mark.parametrize("options, message", [
    ({"score": "refuse"}, "unknown score of task 'refusals' 'refuse'.*did you mean 'refused'"),
    ({"member": "chain"}, "task 'chain' is not known; did you mean 'chains'"),
    ({"member": "chains(3)"}, "member 'chains\\(3\\)' of task 'refusals': expected NAME or NAME"),
    ({"member": "modular"}, "member='modular', expected a family in the shared vocabulary"),
])
def test_errors_name_what_was_found(options, message):
    with pytest.raises(ValueError, match=message):
        tasks.get("refusals", **options)
