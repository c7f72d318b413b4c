"""Events of curves, in closed form."""

import numpy as np
import pytest

from jaxpost.probes import trends


def sigmoid(step, centre, low=0.0, high=1.0, sharp=8.0):
    return low + (high - low) / (1 + np.exp(-sharp * (np.log(step) - np.log(centre))))


@pytest.mark.parametrize("centre", [5.0, 20.0, 90.0])
def test_the_half_change_of_a_symmetric_turn_is_its_centre(centre):
    grid = np.unique(np.geomspace(1, 1000, 400))
    for low, high in ((0.0, 1.0), (7.0, -2.0)):
        assert trends.half_change(grid, sigmoid(grid, centre, low, high)) == pytest.approx(centre, rel=0.02)


def test_the_half_change_counts_the_last_crossing_from_the_farthest_value():
    hump = [3.0, 6.0, 9.0, 5.0, 1.0]  # rises before it falls: the midpoint of 9 and 1 is crossed for good at 8
    assert trends.half_change([1, 2, 4, 8, 16], hump) == pytest.approx(8)
    wave = [0.0, 10.0, 0.0, 10.0, 10.0]
    assert trends.half_change([1, 2, 4, 8, 16], wave) == pytest.approx(np.sqrt(32))
    assert trends.half_change([1, 2, 4, 8, 16], 3 - 2 * np.asarray(hump)) == pytest.approx(8)  # any affine map
    for lost in ([], [2.0, 2.0, 2.0], [1.0, np.nan, 2.0]):
        assert np.isnan(trends.half_change([1, 2, 4][: len(lost)], lost))


def test_the_first_step_at_a_level():
    assert trends.first_reaching([1, 2, 4], [0.5, 0.99, 0.7], 0.99) == 2
    assert np.isnan(trends.first_reaching([1, 2], [0.1, 0.2], 0.99))
