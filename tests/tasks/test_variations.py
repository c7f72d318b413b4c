"""Functional variations: what is static, what is drawn anew, and the gap between a policy's success on both."""

import numpy as np

from jaxpost import tasks
from jaxpost.tasks import variations

COUNT = 256


def parts(task, split):
    """[(template, numbers, names)] of a split."""
    made = tasks.examples(task, split, np.arange(COUNT, dtype=np.uint32)).problem  # the program of test_puzzles.py
    columns = [np.asarray(x).tolist() for x in (made.parent_S, made.sign_S, made.number_S, made.name_S)]
    return [((tuple(p), tuple(s)), tuple(n), tuple(who)) for p, s, n, who in zip(*columns)]


def test_originals_are_static_and_variations_keep_what_they_say():
    task = tasks.get("variations")
    train, variables = parts(task, "train"), parts(task, "ood/variables")
    assert len(set(train)) == 8 * 4 and len({template for template, _, _ in train}) == 8
    names = {row[:2]: set(row[2]) for row in train}  # of an original
    assert len(names) == 32 and len(set(variables)) > 200
    assert all(names[row[:2]].isdisjoint(row[2]) and len(set(row[2])) == 4 for row in variables)
    templates = {template for template, _, _ in train}
    assert {template for template, _, _ in parts(task, "id")} == templates
    assert templates.isdisjoint(template for template, _, _ in parts(task, "ood/templates"))
    assert {row[:2] for row in parts(task, "id")}.isdisjoint(names)


def test_without_originals_training_is_drawn_anew():
    task = tasks.get("variations", originals=0)
    assert list(task.splits) == ["train", "id", "ood/templates"]
    assert [int(tasks.knobs(task, split)["static"]) for split in task.splits] == [0, 0, 0]
    assert [int(tasks.knobs(tasks.get("variations"), split)["static"]) for split in ("train", "id")] == [1, 0]


def test_who_knows_the_originals_by_heart_has_the_whole_gap():
    found = variations.gap(np.ones(4), [[1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
    assert found == {"original": 1.0, "variation": 0.5, "gap": 0.5, "confidence": 0.25, "near_miss": 0.25}
