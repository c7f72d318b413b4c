"""Score matrices of chains of stages, from planted success rates: which arms are sequences, what enters, what is absent."""

import numpy as np
import pytest

from experiments.harness import lifelong
from experiments.harness.claims import End
from experiments.harness.stages import Stage
from jaxpost.records import measurement_table

STAGES = {
    "a": Stage(steps=2), "b": Stage(steps=3, task="later", start=("a",)), "c": Stage(steps=2, task="last", start=("b",)),
    "again": Stage(steps=2, start=("a",)), "soup": Stage(task="later", start=("a", "b")),
}
ENDS = {"a": End(2), "b": End(3, "later"), "c": End(2, "last"), "again": End(2), "soup": End(0, "later")}
SCORES = np.asarray([[0.2, 0.1, 0.3], [0.8, 0.3, 0.3], [0.6, 0.9, 0.1], [0.4, 0.6, 0.7]])


def table(scores=SCORES):
    rows = [{"metric": "policy.success", "arm": arm, "role": "seed", "seed": 5, "step": step, "granularity": "policy",
             "split": split, "value": value, "conditional_on": "d"}
            for (arm, step), line in zip((("base", 0), ("a", 2), ("b", 3), ("c", 2)), scores, strict=True)
            for split, value in zip(("id", "later", "last"), line, strict=True)]
    rows.append(rows[0] | {"arm": "a", "step": 1, "value": 0.99})  # a measured step before the end
    rows.append(rows[0] | {"conditional_on": "other"})
    return measurement_table({name: [row[name] for row in rows] for name in rows[0]})


def test_only_chains_that_train_each_task_once_are_sequences():
    assert {arm: lifelong.sequence(arm, STAGES) for arm in STAGES} == {
        "a": [], "b": ["a", "b"], "c": ["a", "b", "c"], "again": [], "soup": []}


def test_rows_are_the_metrics_of_success_at_the_ends_of_the_stages():
    found = lifelong.columns(table(), STAGES, ENDS, "d")
    got = {(arm, metric): value for arm, metric, value in zip(found["arm"], found["metric"], found["value"], strict=True)}
    assert got["c", "lifelong.pm"] == pytest.approx(-0.3) and got["b", "lifelong.pm"] == pytest.approx(-0.2)
    assert got["c", "lifelong.bt"] == pytest.approx(np.mean([-0.2 / 1.4, -0.2 / 1.0, -0.3 / 1.5]))
    assert got["b", "lifelong.ft"] == pytest.approx(0.2 / 0.4)
    assert len(got) == 6 and set(found["seed"]) == {5} and set(found["conditional_on"]) == {"d"}
    assert found["step"][found["arm"].index("c")] == 2 and "stages=a+b+c" in found["params"]
    measurement_table(found)


def test_a_contrast_of_nothing_is_absent_and_no_sequence_gives_no_rows():
    still = SCORES.copy()
    still[:, 2] = 0
    found = lifelong.columns(table(still), STAGES, ENDS, "d")
    row = next(i for i, name in enumerate(found["metric"]) if name == "lifelong.ft" and found["arm"][i] == "c")
    assert found["value"][row] is None and found["status"][row] == "absent"
    assert "both of a contrast" in found["status_reason"][row]
    assert lifelong.columns(table(), {"a": STAGES["a"]}, ENDS, "d") == {}
