"""The figure of routing and accuracy on one time axis: which panels there are, what is in them, and why it may be missing."""

import matplotlib
import numpy as np
import pyarrow as pa
import pytest

from jaxpost import records
from jaxpost.records.drawing import trajectories
from jaxpost.records.drawing.curves import Missing
from jaxpost.records.drawing.style import RC

STEPS = (0, 1, 10, 100)


def table(arms=("moe", "dense"), routed=("moe",)):
    """Estimates over two seeds; the distance of all samples falls from 9 to 6, that of memorised ones exists from step 10."""
    found = []
    for arm in arms:
        for i, step in enumerate(STEPS):
            for seed in (0, 1):
                at = {"arm": arm, "role": "seed", "step": step, "seed": seed, "dtype": "fp32", "params": None, "split": None,
                      "null_kind": None, "null_value": np.nan, "null_lo": np.nan, "null_hi": np.nan, "status": "ok"}
                found += [at | {"metric": "fit.accuracy", "granularity": "experiment", "split": split,
                                "value": share * i / 3 + 0.01 * seed} for split, share in (("train", 0.9), ("id", 0.5))]
                if arm not in routed:
                    continue
                null = {"granularity": "global", "null_kind": "equal_load", "null_value": 10.5, "null_lo": 10.0,
                        "null_hi": 11.0}
                for over in ("all", "memorised"):
                    here = over == "all" or step >= 10
                    found.append(at | null | {"metric": "pathway.distance", "params": f"over={over};threshold=0.7",
                                              "value": 9.0 - i + 0.1 * seed if here else None,
                                              "status": "ok" if here else "absent"})
                found.append(at | null | {"metric": "pathway.cosine", "params": "over=all", "value": 0.1 * i,
                                          "null_value": 0.0, "null_lo": -0.2, "null_hi": 0.2})
    return records.summarise(records.measurement_table({name: [r[name] for r in found] for name in found[0]}))


def drawn(rows):
    with matplotlib.rc_context(RC):
        found = trajectories.pathway_trajectories(rows, {})
        return found, found.figure.axes


def curves(axis):
    return {(tuple(line.get_xdata()), tuple(np.round(line.get_ydata(), 6))) for line in axis.get_lines()}


def test_an_arm_is_a_column_and_shares_its_time_axis():
    found, axes = drawn(table())
    assert [axis.get_title(loc="left") for axis in axes[:2]] == ["dense", "moe"] and len(axes) == 6
    assert {axis.get_xscale() for axis in axes} == {"symlog"} and axes[-1].get_xlabel() == "optimizer step"
    accuracy = sorted(tuple(np.round(line.get_ydata(), 6)) for line in axes[1].get_lines())
    assert accuracy == [(0.005, 0.171667, 0.338333, 0.505), (0.005, 0.305, 0.605, 0.905)]
    assert curves(axes[3]) == {(STEPS, (10.5,) * 4), (STEPS, (9.05, 8.05, 7.05, 6.05)), ((10, 100), (7.05, 6.05))}
    assert curves(axes[5]) == {(STEPS, (0.0,) * 4), (STEPS, (0, 0.1, 0.2, 0.3))}
    assert [text.get_text() for text in axes[2].texts] == ["no router"]
    assert "2 seeds" in found.caption and "equal_load" in found.caption
    assert {len(rows) for rows in found.rows} == {16, 6, 4}


def test_null_and_values_are_inside_the_axes_and_bands_are_drawn():
    _, axes = drawn(table())
    low, high = axes[3].get_ylim()
    assert low < 6.05 and high > 11
    bands = [path.get_extents() for collection in axes[3].collections for path in collection.get_paths()]
    assert any((b.y0, b.y1) == (10, 11) for b in bands) and len(bands) == 3  # the null, and two bands of seeds


def test_without_routing_or_accuracy_it_is_missing_with_a_reason():
    with pytest.raises(Missing, match="not both measured"):
        drawn(table(routed=()))
    rows = table()
    with pytest.raises(Missing, match="not both measured"):
        drawn(rows.filter(pa.compute.not_equal(rows["metric"], "fit.accuracy")))


def test_many_arms_are_cut_and_named():
    arms = tuple(f"moe-{i}" for i in range(7))
    found, axes = drawn(table(arms, arms))
    assert len(axes) == 3 * trajectories.MOST_COLUMNS and "Not shown: moe-5, moe-6" in found.caption
