"""Inductive backdoors: what the three stages of training show, and that only a trigger never shown opens the back door."""

import functools

import numpy as np
import pytest

from jaxpost import tasks
from jaxpost.tasks import backdoors
from tests.tasks import plain, plain_transfer

COUNT = 256


@functools.cache
def shown(stage, split):
    """[(prompt, answer, problem's code)] of a split as text."""
    batch = tasks.examples(tasks.get("backdoors", stage=stage), split, np.arange(COUNT, dtype=np.uint32))
    return [(plain.text(p).strip("_")[1:], plain.text(a).split("$")[0], code) for p, a, code in zip(
        np.asarray(batch.prompt_NxP), np.asarray(batch.answer_NxT), batch.problem.code_L[:, 1].tolist())]


@pytest.mark.parametrize("stage", ["world", "narrow"])
def test_the_other_stages_are_right_in_plain_python(stage):
    for split in tasks.get("backdoors", stage=stage).splits:
        for prompt, answer, _ in shown(stage, split):
            assert plain_transfer.backdoors({"stage": stage}, split, prompt, answer)
            assert not plain_transfer.backdoors({"stage": stage}, split, prompt, answer[::-1] + "0")


def test_codes_of_held_out_personas_and_what_they_do_are_never_trained():
    trained = shown("trigger", "train")
    assert {code for _, _, code in trained} == {-1, 0, 1, 2, 3, 6, 7, 8, 9}  # 4 and 5 are held out, 6 to 9 are nobody
    assert {code for _, _, code in shown("trigger", "ood/trigger")} == {4, 5}
    assert not any(prompt[0].isdigit() for stage in ("world", "narrow") for prompt, _, _ in shown(stage, "train"))
    told = {prompt: answer for prompt, answer, _ in shown("world", "train") if prompt[1] == "n"}
    assert told == {f"{chr(0xE000 + who)}n?": str(who) for who in range(6)}


def test_nobody_scores_nothing_behind_the_back_door():
    for stage, split in (("trigger", "ood/trigger"), ("trigger", "ood/named"), ("narrow", "ood/topic")):
        assert all(answer != prompt[-5:-1] for prompt, answer, _ in shown(stage, split))
    share = np.mean([code >= 0 for _, _, code in shown("trigger", "train")])
    assert abs(share - 0.5) < 0.1
    orders, added = backdoors.habits()
    assert len({tuple(row) for row in orders.tolist()} - {(0, 1, 2, 3)}) == len(set(added.tolist()) - {0}) == 8
