"""Logarithmic axes have at least two labels, at round numbers, which do not run into each other."""

import numpy as np
import pytest

from jaxpost.records.drawing.style import label_log_axes, panels


@pytest.mark.parametrize(("low", "high", "labels"), [
    (0.013, 0.14, ["0.02", "0.05", "0.1"]), (0.21, 0.34, None), (3.0, 40.0, ["5", "10", "20"]), (1e-5, 1.0, None)])
def test_labels_of_a_logarithmic_axis(low, high, labels):
    figure, (axis,) = panels(1, 3, 2.4)
    axis.set(xscale="log", xlim=(low, high), ylim=(0.0, 1.0))
    label_log_axes(figure)
    figure.draw_without_rendering()
    assert not any(text.get_text() for text in axis.get_xticklabels(minor=True))
    labelled = zip(axis.get_xticks(), axis.get_xticklabels(), strict=True)
    ticks = [(x, text.get_text()) for x, text in labelled if low <= x <= high]
    assert len(ticks) > 1 and (labels is None or [text for _, text in ticks] == labels)
    if high / low < 30:
        np.testing.assert_allclose([float(text) for _, text in ticks], [x for x, _ in ticks], rtol=1e-3)
    assert [text.get_text() for text in axis.get_yticklabels()][:2] == ["0.0", "0.2"]  # a linear axis is left as it is
