"""Addition against Python integers."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import tasks
from jaxpost.tasks import addition, base, vocab

COUNT = 256


def rows(task, split):
    """(a text, b text, answer text) of the first examples."""
    batch = tasks.examples(task, split, jnp.arange(COUNT))
    for prompt, answer in zip(np.asarray(batch.prompt_NxP), np.asarray(batch.answer_NxT), strict=True):
        left, right = vocab.decode(prompt).strip("_^=").split("+")
        yield left, right, vocab.decode(answer).strip("_")


@pytest.mark.parametrize("digits,reverse", [(1, True), (3, True), (3, False), (20, True)])
def test_answers_are_sums(digits, reverse):
    task = tasks.get("addition", digits=digits, reverse=reverse)
    for split in task.splits:
        width = digits + (split == "ood/operand_length")
        for a, b, answer in rows(task, split):
            total = str(int(a) + int(b)).zfill(width + 1)
            assert (len(a), len(b)) == (width, width)
            assert answer == (total[::-1] if reverse else total) + "$"


def test_longer_operands_are_truly_longer():
    assert all(a[0] != "0" and b[0] != "0" for a, b, _ in rows(tasks.get("addition"), "ood/operand_length"))


def test_a_carry_leaves_every_position():
    for a, b, _ in rows(tasks.get("addition"), "ood/carry"):
        assert all(int(a[-n:]) + int(b[-n:]) >= 10**n for n in (1, 2, 3))


def test_all_operands_occur_about_equally_often():
    first = np.asarray([[int(digit) for digit in a + b] for a, b, _ in rows(tasks.get("addition"), "train")])
    assert abs(np.bincount(first.ravel(), minlength=10) / first.size - 0.1).max() < 0.05


def test_swapped_operands_are_in_the_same_fold_and_both_folds_are_used():
    folds = []
    for a, b in itertools.product(range(100), repeat=2):
        digits = [jnp.asarray([x % 10, x // 10, 0]) for x in (a, b)]
        if a < b and (a + b) % 37 == 0:
            one, other = (base.fold_of(addition._content(addition.Problem(*pair, 2))) for pair in (digits, digits[::-1]))
            assert one == other
            folds.append(int(one))
    assert 0.3 < np.mean(folds) < 0.7


@pytest.mark.parametrize("split", ["train", "ood/operand_length", "ood/carry"])
def test_guess_is_the_most_frequent_sum(split):
    """Enumerates every pair of the unfolded split at n = 2."""
    low, high = (100, 1000) if split == "ood/operand_length" else (0, 100)
    a, b = np.arange(low, high)[:, None], np.arange(low, high)[None, :]
    total = a + b
    if split == "ood/carry":
        total = total[(a % 10 + b % 10 >= 10) & (a // 10 + b // 10 >= 9)]
    best = np.bincount(total.ravel()).max() / total.size
    np.testing.assert_allclose(tasks.get("addition", digits=2).guess(split), best, rtol=1e-12)


def test_every_wrong_digit_and_the_other_order_score_zero():
    task = tasks.get("addition", digits=2)
    problem = addition.Problem(jnp.asarray([7, 4, 0], "i4"), jnp.asarray([5, 2, 0], "i4"), 2)  # 47 + 25 = 072
    right = vocab.encode("270$_")
    assert task.verify(problem, jnp.asarray(right)) == 1.0
    assert task.verify(problem, jnp.asarray(vocab.encode("072$_"))) == 0.0
    for place in range(4):
        wrong = list(right)
        wrong[place] += 1
        assert task.verify(problem, jnp.asarray(wrong)) == 0.0
    assert base.exact(jnp.asarray(vocab.encode("270$9")), jnp.asarray(right)) == 1.0
