"""The fact store against a plain one: answers, what is told, which inferences are trained on, held out or OOD."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import tasks
from jaxpost.tasks import facts, vocab
from tests.tasks import plain

SMALL = {"composition": {"entities": 12, "relations": 5, "degree": 4, "ratio": 2.0},
         "comparison": {"problem": "comparison", "entities": 9, "attributes": 3, "values": 4, "ratio": 2.5}}


def content_of(prompt):
    return (prompt[0], *sorted(prompt[2::2], reverse=True)) if len(prompt) == 5 else tuple(prompt)


def inferred(task, split):
    found = tasks.table(task, split)
    return np.asarray(found.prompt_NxP)[np.asarray(facts.inferred_of(found.problem))].tolist()


@pytest.mark.parametrize("problem", SMALL)
def test_tables_are_those_of_plain_python_and_training_tells_every_fact(problem):
    options = SMALL[problem]
    task = tasks.get("facts", **options)
    for split in task.splits:
        shown = tasks.table(task, split)
        for prompt, answer in zip(np.asarray(shown.prompt_NxP).tolist(), np.asarray(shown.answer_NxT).tolist(), strict=True):
            assert plain.reward("facts", options, split, [t for t in prompt if t], answer) == 1.0
            assert len(answer) == 2 and answer[1] == vocab.EOS
    told = np.asarray(tasks.table(task, "train").problem.prompt_P)[:, 0] == vocab.PAD
    assert told.sum() == (12 * 4 if problem == "composition" else 9 * 3)
    names = {name for row in tasks.table(task, "train").prompt_NxP[told].tolist() for name in row if name}
    for split in task.splits:
        rows = inferred(task, split)
        assert len({tuple(row) for row in rows}) == len(rows) and {t for row in rows for t in row} - names <= {3, 4}


@pytest.mark.parametrize("problem", SMALL)
def test_a_larger_ratio_adds_inferences_and_nothing_else(problem):
    small, large = (tasks.get("facts", **SMALL[problem] | {"ratio": ratio}) for ratio in (1.0, 2.0))
    few, many = ({tuple(row) for row in inferred(task, "train")} for task in (small, large))
    assert few < many and abs(len(many) / len(few) - 2) < 0.1
    for split in ("id", "ood/facts"):
        np.testing.assert_array_equal(tasks.table(small, split).prompt_NxP, tasks.table(large, split).prompt_NxP)
    contents = [{content_of(row) for row in inferred(large, split)} for split in large.splits]
    assert not (contents[0] & contents[1]) and not (contents[0] & contents[2]) and not (contents[1] & contents[2])


def test_what_lies_between_is_the_bridge_or_the_values():
    told = {split: tasks.table(tasks.get("facts", **SMALL[split]), "train") for split in SMALL}
    fact = {problem: {tuple(t for t in prompt if t): answer[0] for prompt, answer in
                      zip(x.prompt_NxP.tolist(), x.answer_NxT.tolist()) if not prompt[0]} for problem, x in told.items()}
    for problem, x in told.items():
        for made, answer in zip(zip(x.problem.prompt_P.tolist(), x.problem.between_2.tolist()), x.answer_NxT[:, 0].tolist()):
            prompt, between = made
            if prompt[0] == vocab.PAD:
                assert between == [vocab.PAD] * 2
            elif problem == "composition":
                assert between == [fact[problem][tuple(prompt[:2])], vocab.PAD]
                assert answer == fact[problem][between[0], prompt[2]]
            else:
                assert between == [fact[problem][prompt[i], prompt[0]] for i in (2, 4)]


@pytest.mark.parametrize("problem", SMALL)
def test_verify_accepts_the_answer_alone_and_guess_is_the_commonest(problem):
    task = tasks.get("facts", **SMALL[problem])
    verify = jax.jit(jax.vmap(task.verify))
    for split in task.splits:
        shown = tasks.table(task, split)
        right_NxV = []
        for token in range(-1, task.vocab_size + 1):
            constant = np.tile(np.asarray([token, vocab.EOS], np.int32), (len(shown.answer_NxT), 1))
            right_NxV.append(np.asarray(verify(shown.problem, constant)))
        groups = shown.prompt_NxP[:, 0].tolist() if problem == "comparison" else [0] * len(constant)
        best = sum(np.stack(right_NxV)[:, np.asarray(groups) == group].sum(axis=1).max() for group in set(groups))
        assert best / len(constant) == pytest.approx(task.guess(split))
        np.testing.assert_array_equal(verify(shown.problem, shown.answer_NxT.at[:, 1].set(vocab.PAD)), 0.0)
        drawn = tasks.examples(task, split, jnp.arange(64))
        listed = {tuple(row) for row in shown.prompt_NxP.tolist()}
        assert {tuple(row) for row in drawn.prompt_NxP.tolist()} <= listed
        difficulty = {task.difficulty(jax.tree.map(lambda x: x[-1], shown.problem)).item()}
        assert difficulty == {2.0}


@pytest.mark.parametrize(("options", "expected"), [
    ({}, {"train": "e2ff7e97b995", "id": "608334a8ca1c", "ood/facts": "7410e62afdc3"}),
    ({"problem": "comparison"}, {"train": "415fcba1ff85", "id": "a92dda32da46", "ood/facts": "f73780714ae4"}),
])
def test_data_is_pinned(options, expected):
    task = tasks.get("facts", **options)
    assert {split: tasks.digest(task, split, 256)[:12] for split in task.splits} == expected, "raise facts.VERSION if meant"


@pytest.mark.parametrize(("options", "message"), [
    ({"problem": "comparision"}, "did you mean 'comparison'"),
    ({"degree": 13}, "degree=13, expected an integer from 1 to 12"),
    ({"ratio": 18.0}, r"ratio=18.0, expected at most 6.01: 1287 inferences for 214 facts in distribution"),
    ({"held_out": 1.0}, "held_out=1.0, expected a number between 0 and 1"),
    ({"entities": 4, "relations": 2, "degree": 1, "ratio": 0.3}, "one with a problem in '"),
])
def test_errors_name_what_was_found(options, message):
    with pytest.raises(ValueError, match=message):
        tasks.get("facts", **options)
