"""The figure of success by how much reasoning there is: panels, points and nulls at the last step, and when it is absent."""

import matplotlib
import numpy as np
import pytest

from jaxpost import records
from jaxpost.records.drawing.curves import Missing
from jaxpost.records.drawing.reasoning import reasoning
from jaxpost.records.drawing.style import RC


def table(*metrics):
    """Two seeds of two arms at two steps; success is param / 10 at the last step, its null half of it, step 1 is 0."""
    rows = [{"arm": arm, "role": "seed", "step": step, "seed": seed, "metric": metric, "granularity": "policy", "split": split,
             "params": f"{key}={at};more=x", "value": step // 9 * (at / 10 + 0.001 * seed), "null_kind": "another",
             "null_value": at / 20, "null_lo": 0.0, "null_hi": 1.0, "status": "ok"}
            for arm in ("grpo", "sft") for step in (1, 9) for seed in (0, 1) for split in ("id", "ood/length")
            for metric, key, values in metrics for at in values]
    return records.summarise(records.measurement_table({name: [row[name] for row in rows] for name in rows[0]}))


CUT = ("policy.interrupted_success", "budget", (8, 0, 4))
GIVEN = ("policy.success_given_reasoning", "share", (1.0, 0.5))


def test_each_panel_has_the_last_step_of_every_arm_in_order_with_its_null():
    with matplotlib.rc_context(RC):
        drawn = reasoning(table(CUT, GIVEN), {})
    cut, given = drawn.figure.axes
    assert cut.get_xlabel() == "tokens of reasoning before the cut" and "(another)" in drawn.caption
    for axis, x in ((cut, [0, 4, 8]), (given, [0.5, 1.0])):
        for value, null in zip(axis.lines[::2], axis.lines[1::2], strict=True):
            np.testing.assert_allclose(value.get_xdata(), x)
            np.testing.assert_allclose(value.get_ydata(), np.asarray(x) / 10 + 0.0005, atol=1e-9)
            np.testing.assert_allclose(null.get_ydata(), np.asarray(x) / 20)
        assert len(axis.lines) == 4


def test_one_measure_is_one_panel_and_none_is_said():
    with matplotlib.rc_context(RC):
        assert len(reasoning(table(GIVEN), {}).figure.axes) == 1
        with pytest.raises(Missing, match="no estimates of policy.interrupted_success or"):
            reasoning(table(("policy.success", "k", (1,))), {})
