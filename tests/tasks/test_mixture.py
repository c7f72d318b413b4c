"""Mixtures of families: shares, and that every problem is what its member says of it."""

import functools

import jax
import numpy as np
import pytest

from jaxpost import tasks
from jaxpost.tasks import mixture, traces, vocab
from tests.tasks import plain, plain_puzzles
from tests.tasks.test_worlds import fuzzed

COUNT = 256
MEMBERS = ("slabs", "gameable", "variations(sentences=3)")
REWARD = (plain.reward, plain.reward, plain_puzzles.reward)


@functools.cache
def task(weights):
    return tasks.get("mixture", members=MEMBERS, weights=weights)


@functools.cache
def drawn(weights, split):
    return tasks.examples(task(weights), split, np.arange(COUNT, dtype=np.uint32))


@functools.cache
def judge(weights):
    return jax.jit(jax.vmap(task(weights).verify))


def test_members_come_in_their_shares_and_are_judged_by_their_verifiers():
    graded, seen = set(), 0
    for split in task((2, 1, 1)).splits:
        batch = drawn((2, 1, 1), split)
        member, prompt, answer = (np.asarray(x) for x in (batch.problem.member, batch.prompt_NxP, batch.answer_NxT))
        seen = seen + np.bincount(member, minlength=3) if split in ("train", "id") else seen
        assert split in ("train", "id") or set(member) == {["slabs", "gameable", "variations"].index(split.split("/")[1])}
        assert (judge((2, 1, 1))(batch.problem, answer) == 1).all()
        assert not judge((2, 1, 1))(batch.problem, np.where(answer == vocab.EOS, vocab.PAD, answer)).any()
        assert ((prompt == vocab.PAD) == (np.cumsum(prompt == vocab.BOS, axis=1) == 0)).all()
        tokens = fuzzed(np.random.default_rng(0), task((2, 1, 1)), answer)
        own = split if split in ("train", "id") else "ood/" + split.split("/")[2]
        expected = [REWARD[i](MEMBERS[i].split("(")[0], {}, own, [int(t) for t in p if t], t) for i, p, t in zip(
            member, prompt, tokens.tolist())]
        np.testing.assert_array_equal(judge((2, 1, 1))(batch.problem, tokens), expected)
        graded |= set(expected)
    assert graded == {0.0, 1.0} and abs(seen / seen.sum() - [0.5, 0.25, 0.25]).max() < 0.06
    content = {s: {x.tobytes() for x in np.asarray(jax.vmap(task((2, 1, 1)).content)(drawn((2, 1, 1), s).problem))}
               for s in ("train", "id")}
    assert not content["train"] & content["id"]


def test_a_member_without_weight_is_not_drawn_and_shapes_stay():
    alone = task((0, 0, 1))
    assert list(alone.splits) == ["train", "id", "ood/variations/variables", "ood/variations/templates"]
    assert (alone.prompt_len, alone.completion_len, alone.vocab_size) == (
        task((2, 1, 1)).prompt_len, task((2, 1, 1)).completion_len, task((2, 1, 1)).vocab_size)
    bounds = [np.asarray(tasks.knobs(task(weights), "train")["bound_M"]) for weights in ((0, 0, 1), (1, 0, 0), (2, 1, 1))]
    np.testing.assert_array_equal(bounds, np.asarray([[0, 0, 4], [4, 4, 4], [2, 3, 4]]) * mixture.UNIT // 4)
    assert task((1, 0, 0)).guess("id") == 0.5  # that of slabs


def test_members_that_reason_keep_their_roles():
    both = tasks.get("mixture", members=("slabs", "slabs(simple=3)", "variations(style='cot')"))
    assert both.role is traces.role and "ood/slabs_1/simple_random" in both.splits
    assert task((2, 1, 1)).role is None


@pytest.mark.parametrize("options, message", [
    ({"members": ("slabs",)}, "expected two to six of NAME"),
    ({"members": ("slabs", "chain")}, "task 'chain' is not known; did you mean 'chains'"),
    ({"members": ("slabs", "chains(node=3)")}, "option 'node' is not known; did you mean 'nodes'"),
    ({"members": ("slabs", "chains(3)")}, "member 'chains\\(3\\)' of task 'mixture': expected NAME or NAME"),
    ({"members": ("slabs", "chains; slabs")}, "expected NAME or NAME"),
    ({"members": ("slabs", "modular")}, "members='modular', expected a family in the shared vocabulary"),
    ({"members": ("slabs", "chains"), "weights": (0, 0)}, r"weights=\(0, 0\), expected 2 whole numbers from 0 to 1000"),
])
def test_errors_name_what_was_found(options, message):
    with pytest.raises(ValueError, match=message):
        tasks.get("mixture", **options)
