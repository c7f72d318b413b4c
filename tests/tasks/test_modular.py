"""Modular arithmetic against Python integers: answers, splits that partition everything, random labels, tables."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import tasks
from jaxpost.tasks import base, modular, vocab

PLAIN = {"add": lambda a, b, p: (a + b) % p, "subtract": lambda a, b, p: (a - b) % p,
         "multiply": lambda a, b, p: a * b % p, "squares": lambda a, b, p: (a * a + b * b) % p}
ALL = tuple(PLAIN)


def read(shown):
    """(operator, a, b, c) of every row, from tokens alone."""
    names = list(modular.OPERATORS)
    for prompt, answer in zip(np.asarray(shown.prompt_NxP), np.asarray(shown.answer_NxT), strict=True):
        a, op, b, equals = (int(x) for x in prompt)
        assert equals == modular.EQUALS and answer[1] == vocab.EOS
        yield names[op - modular.OPERATOR], a - modular.NUMBER, b - modular.NUMBER, int(answer[0]) - modular.NUMBER


@pytest.mark.parametrize(("p", "operators"), [
    (11, ALL), *(pytest.param(*x, marks=pytest.mark.slow) for x in ((7, ("add",)), (12, ("multiply", "subtract"))))])
def test_answers_are_those_of_python_and_the_splits_are_every_problem_once(p, operators):
    task = tasks.get("modular", modulus=p, operators=operators)
    found = []
    for split in task.splits:
        for op, a, b, c in read(tasks.table(task, split)):
            assert c == PLAIN[op](a, b, p)
            found.append((op, a, b))
    assert sorted(found) == sorted(itertools.product(operators, range(p), range(p)))
    assert task.vocab_size == modular.NUMBER + p


def test_drawn_examples_lie_in_the_table_of_their_split_and_reach_all_of_it():
    task = tasks.get("modular", modulus=7, operators=("add", "subtract"))
    for split in task.splits:
        listed = set(read(tasks.table(task, split)))
        assert set(read(tasks.examples(task, split, jnp.arange(2000)))) == listed


def test_operands_that_commute_share_a_fold_and_others_need_not():
    task = tasks.get("modular", modulus=23, operators=("add", "subtract"))
    train = {(op, a, b) for op, a, b, _ in read(tasks.table(task, "train"))}
    pairs = [(a, b) for a, b in itertools.product(range(23), repeat=2) if a < b]
    assert all((("add", a, b) in train) == (("add", b, a) in train) for a, b in pairs)
    assert any((("subtract", a, b) in train) != (("subtract", b, a) in train) for a, b in pairs)


def test_the_fraction_is_that_of_the_hash_range_and_folds_are_nested():
    tables = {f: {(a, b) for _, a, b, _ in read(tasks.table(tasks.get("modular", modulus=61, train_fraction=f), "train"))}
              for f in (0.3, 0.6)}
    facts = 61 * 62 / 2
    for fraction, pairs in tables.items():
        drawn = sum(a <= b for a, b in pairs) / facts
        assert abs(drawn - fraction) < 4 * (fraction * (1 - fraction) / facts) ** 0.5
    assert tables[0.3] < tables[0.6]


def test_random_labels_change_answers_only_and_follow_no_rule():
    true, random = (tasks.get("modular", modulus=31, labels=labels) for labels in modular.LABELS)
    for split in true.splits:
        a, b = (tasks.table(task, split) for task in (true, random))
        np.testing.assert_array_equal(a.prompt_NxP, b.prompt_NxP)
        c = np.asarray(b.answer_NxT[:, 0]) - modular.NUMBER
        assert c.min() >= 0 and c.max() < 31
        agree = (a.answer_NxT[:, 0] == b.answer_NxT[:, 0]).mean()
        assert abs(agree - 1 / 31) < 4 * (1 / 31 / len(c)) ** 0.5 * 2**0.5  # pairs share a label: half as many draws
        counts = np.bincount(c, minlength=31)
        assert counts.max() < 4 * counts.mean()
    found = {(a, b): c for split in random.splits for _, a, b, c in read(tasks.table(random, split))}
    assert all(found[a, b] == found[b, a] for a, b in found)


def test_verify_accepts_the_answer_alone_and_guess_is_the_commonest():
    task = tasks.get("modular", modulus=13, operators=("multiply",))
    for split in task.splits:
        shown = tasks.table(task, split)
        verify = jax.jit(jax.vmap(task.verify))
        np.testing.assert_array_equal(verify(shown.problem, shown.answer_NxT), 1.0)
        best = 0.0
        for token in range(-1, task.vocab_size + 1):
            constant = np.tile(np.asarray([token, vocab.EOS], np.int32), (len(shown.answer_NxT), 1))
            best = max(best, float(verify(shown.problem, constant).mean()))
        assert best == pytest.approx(task.guess(split))
        np.testing.assert_array_equal(verify(shown.problem, shown.answer_NxT.at[:, 1].set(vocab.PAD)), 0.0)


def test_data_is_seekable_and_pinned():
    task = tasks.get("modular")
    order = np.random.default_rng(0).integers(0, 64, 64)
    whole = tasks.examples(task, "id", jnp.arange(64))
    chex.assert_trees_all_equal(tasks.examples(task, "id", order), jax.tree.map(lambda x: x[order], whole))
    found = {split: tasks.digest(task, split, 64)[:12] for split in task.splits}
    assert found == {"train": "4be989610f91", "id": "5e07a82fd8c2"}, "raise modular.VERSION if this was meant"


@pytest.mark.parametrize(("options", "message"), [
    ({"modulus": 2}, "modulus=2, expected an integer from 3 to 1024"),
    ({"operators": ("plus",)}, "unknown operator of task 'modular' 'plus'"),
    ({"operators": ("subtrct",)}, "did you mean 'subtract'"),
    ({"operators": ()}, "expected at least one and none twice"),
    ({"train_fraction": 1.0}, "expected a number between 0 and 1"),
    ({"modulus": 3, "train_fraction": 1e-9}, "one that leaves a problem to 'train'"),
    ({"labels": "noise"}, "labels='noise'"),
])
def test_errors_name_what_was_found(options, message):
    with pytest.raises(ValueError, match=message):
        tasks.get("modular", **options)


def test_a_family_that_cannot_list_its_problems_says_so():
    with pytest.raises(ValueError, match="task 'addition' cannot list its problems"):
        tasks.table(tasks.get("addition"), "train")
    with pytest.raises(ValueError, match="task 'modular': split 'test' is not known"):
        tasks.table(tasks.get("modular"), "test")


def test_the_hash_extends_the_fold():
    content = jnp.asarray(np.random.default_rng(1).integers(0, 99, (200, 5)), jnp.int32)
    np.testing.assert_array_equal(jax.vmap(base.hash_of)(content) & 1, jax.vmap(base.fold_of)(content))
