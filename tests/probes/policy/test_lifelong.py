"""Lifelong metrics against hand-computed sequences and plain loops; what nothing changes reads 0."""

import numpy as np
import pytest

from jaxpost.probes.policy import lifelong

# three tasks in turn; rows: before, after the first, second and third stage
SCORES = np.asarray([[0.2, 0.1, 0.3], [0.8, 0.3, 0.3], [0.6, 0.9, 0.1], [0.4, 0.6, 0.7]])


def test_a_sequence_by_hand():
    pm = (((0.6 - 0.8) + (0.4 - 0.8)) / 2 + (0.6 - 0.9)) / 2
    assert lifelong.performance_maintenance(SCORES) == pytest.approx(pm, rel=1e-14)
    forward = [(0.3 - 0.1) / 0.4, 0.0, (0.1 - 0.3) / 0.4]
    assert lifelong.forward_transfer(SCORES) == pytest.approx(np.mean(forward), rel=1e-14)
    backward = [(0.6 - 0.8) / 1.4, (0.4 - 0.6) / 1.0, (0.6 - 0.9) / 1.5]
    assert lifelong.backward_transfer(SCORES) == pytest.approx(np.mean(backward), rel=1e-14)


def test_stacked_sequences_are_loops_and_scale_leaves_contrasts():
    rng = np.random.default_rng(0)
    many = rng.random((4, 5, 4))
    for found in (lifelong.performance_maintenance, lifelong.forward_transfer, lifelong.backward_transfer):
        np.testing.assert_allclose(found(many), [found(one) for one in many], rtol=1e-14)
        assert found(np.tile(many[0, :1], (5, 1))) == 0.0  # no stage changed anything
    np.testing.assert_allclose(lifelong.backward_transfer(7 * many), lifelong.backward_transfer(many), rtol=1e-13)
    np.testing.assert_allclose(lifelong.performance_maintenance(many + 3), lifelong.performance_maintenance(many), atol=1e-14)
    np.testing.assert_allclose(lifelong.contrast(many[0], many[1]), -lifelong.contrast(many[1], many[0]))


def test_curves_against_an_expert():
    curve = np.linspace(0, 1, 40)
    assert lifelong.relative_performance(curve, curve) == 1.0 and lifelong.relative_performance(curve / 2, curve) == 0.5
    assert lifelong.sample_efficiency(curve, curve) == 1.0
    fast = np.minimum(4 * curve, 1.0)  # the same saturation, early
    windows = [np.mean(fast[i:i + 8]) for i in range(33)]
    assert lifelong.saturation(fast) == (pytest.approx(max(windows)), int(np.argmax(windows)) + 8)
    assert lifelong.sample_efficiency(fast, curve) == pytest.approx(
        max(windows) / np.mean(curve[-8:]) * 40 / (np.argmax(windows) + 8))
    assert lifelong.sample_efficiency(curve / 10, curve) == 0.0 == lifelong.sample_efficiency(curve[::-1], curve)


@pytest.mark.parametrize(("call", "expected"), [
    (lambda: lifelong.performance_maintenance(SCORES[1:]), r"shape \(3, 3\); expected"),
    (lambda: lifelong.backward_transfer(SCORES - 1), "score of -0.[0-9]; shift"),
    (lambda: lifelong.relative_performance(np.ones(3), np.ones(4)), "3 and 4 points"),
    (lambda: lifelong.sample_efficiency(np.ones(5), np.zeros(5)), "saturates at 0"),
])
def test_what_is_not_defined_is_refused(call, expected):
    with pytest.raises(ValueError, match=expected):
        call()
    assert np.isnan(lifelong.contrast(np.zeros(2), np.zeros(2))).all()
