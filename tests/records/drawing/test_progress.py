"""Figures of progress beside the fit show the rows they name, of every arm, and are absent without them."""

import matplotlib
import numpy as np
import pytest

from jaxpost import records
from jaxpost.records.drawing import progress
from jaxpost.records.drawing.curves import Missing

STEPS = (0, 1, 10, 100)
CURVES = (("fit.accuracy", {"split": "train"}), ("fit.accuracy", {"split": "id"}), ("fit.loss", {"split": "train"}),
          ("fit.loss", {"split": "id"}), ("fourier.restricted_loss", {"params": "rule=x"}),
          ("fourier.excluded_loss", {"params": "rule=x;which=all"}), ("fourier.logit_share", {"params": "rule=x"}),
          ("fourier.gini", {"module_kind": "embed"}), ("fourier.gini", {"module_kind": "head"}))


def table(arms=("grok", "no-decay"), curves=CURVES):
    rows = []
    for place, (metric, columns) in enumerate(curves):
        for arm in arms:
            for step in STEPS:
                rows += [{"metric": metric, "arm": arm, "step": step, "seed": seed, "role": "seed", "granularity": "policy",
                          "value": 0.1 * place + 0.001 * step + 0.01 * seed, "null_lo": 0.0, "null_hi": 0.1,
                          "null_kind": "random_frequencies", "split": None, "params": None, "module_kind": None, **columns}
                         for seed in (0, 1, 2)]
    rows.append(rows[0] | {"metric": "fourier.excluded_loss", "params": "rule=x;which=single", "k": 1, "value": 99.0})
    made = records.measurement_table({name: [row.get(name) for row in rows] for name in rows[-1]})
    return records.summarise(made)


def test_every_arm_has_its_column_and_every_curve_its_values():
    with matplotlib.rc_context():
        drawn = progress.fourier_progress(table(), {})
    axes = drawn.figure.axes
    assert [axis.get_title() for axis in axes[:2]] == ["grok", "no-decay"]
    assert [len(axis.lines) for axis in axes[::2]] == [2, 4, 1, 2]
    first = axes[2].lines[2]  # the restricted loss
    np.testing.assert_array_equal(first.get_xdata(), [1, 10, 100])
    np.testing.assert_allclose(first.get_ydata(), [0.1 * 4 + 0.001 * step + 0.01 for step in (1, 10, 100)])
    assert max(axis.lines[-1].get_ydata().max() for axis in axes) < 2  # no single key among them
    assert "3 seeds" in drawn.caption and "random_frequencies" in drawn.caption and "Not shown" not in drawn.caption
    assert {metric for rows in drawn.rows for metric in rows["metric"].to_pylist()} == {metric for metric, _ in CURVES}


def test_further_arms_are_named_and_missing_measures_are_said():
    drawn = progress.fourier_progress(table(arms=("a", "b", "c", "d", "e")), {})
    assert len(drawn.figure.axes) == 16 and "Not shown: e." in drawn.caption
    with pytest.raises(Missing, match="fourier.restricted_loss was not measured"):
        progress.fourier_progress(table(curves=CURVES[:4]), {})


KERNEL = (("fit.r2", {"split": "train"}), ("fit.r2", {"split": "id"}), ("kernel.drift", {"params": "outputs=sum"}),
          ("kernel.linearised", {}), ("kernel.alignment.labels", {"params": "outputs=sum"}),
          ("fourier.excluded_loss", {}))


def test_kernels_have_a_column_an_arm_of_networks():
    drawn = progress.kernel_progress(table(arms=("rich", "lazy"), curves=KERNEL), {})
    axes = drawn.figure.axes
    assert sorted(axis.get_title() for axis in axes[:2]) == ["lazy", "rich"] and len(axes) == 6
    assert [len(axis.lines) for axis in axes[::2]] == [2, 2, 1] and axes[2].get_yscale() == "log"
    np.testing.assert_allclose(axes[2].lines[0].get_ydata(), [0.1 * 2 + 0.001 * step + 0.01 for step in (1, 10, 100)])
    assert {metric for rows in drawn.rows for metric in rows["metric"].to_pylist()} == {metric for metric, _ in KERNEL[:5]}
    with pytest.raises(Missing, match="kernel.drift and fit.r2 were not both measured"):
        progress.kernel_progress(table(curves=KERNEL[:2]), {})
