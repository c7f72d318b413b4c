"""Calibration error against a loop over bins; its null covers calibrated policies and leaves overconfident ones out."""

import numpy as np
import pytest

from jaxpost.probes.policy import calibration


def by_hand(confidence, right, bins=10):
    """Independent: bins by comparison, means of each."""
    total = 0.0
    for b in range(bins):
        inside = [(c, r) for c, r in zip(confidence, right, strict=True)
                  if b / bins <= c and (c < (b + 1) / bins or (b == bins - 1 and c == 1))]
        if inside:
            c, r = np.mean(inside, axis=0)
            total += len(inside) * abs(r - c)
    return total / len(confidence)


def test_error_is_that_of_a_loop_over_bins_in_any_order():
    rng = np.random.default_rng(0)
    confidence, right = np.append(rng.random(99), 1.0), rng.random(100) < 0.5
    found = calibration.error(confidence, right)
    assert found == pytest.approx(by_hand(confidence, right), rel=1e-13)
    order = rng.permutation(100)
    assert calibration.error(confidence[order], right[order]) == pytest.approx(found, rel=1e-13)
    assert calibration.error(np.repeat(confidence, 2), np.repeat(right, 2)) == pytest.approx(found, rel=1e-13)
    assert calibration.error(np.asarray([1.0, 1.0, 0.0]), np.asarray([1, 1, 0])) == 0.0


def test_null_of_one_bin_is_the_binomial_deviation():
    """Equal confidences: E |X/N - p| of a binomial share, in closed form."""
    N, p = 64, 0.25
    value, lo, hi = calibration.null(np.full(N, p), np.random.default_rng(1))
    assert value == pytest.approx(np.sqrt(2 * p * (1 - p) / (np.pi * N)), rel=0.05)  # of the normal law
    assert lo < value < hi


def test_null_holds_calibrated_policies_and_not_overconfident_ones():
    rng, held, caught = np.random.default_rng(2), 0, 0
    for _ in range(60):
        confidence = rng.beta(2, 2, 200)
        _, lo, hi = calibration.null(confidence, rng)
        held += lo <= calibration.error(confidence, rng.random(200) < confidence) <= hi
        caught += calibration.error(confidence, rng.random(200) < 0.6 * confidence) > hi
    assert held >= 51 and caught == 60  # 95 % of 60 is 57; 51 is four deviations below


def test_interval_holds_the_value_and_one_prompt_has_none():
    rng = np.random.default_rng(3)
    confidence = rng.random(200)
    found = calibration.interval(confidence, rng.random(200) < confidence**2, rng)
    assert found.lo < found.value < found.hi
    assert np.isnan(calibration.interval(confidence[:1], np.asarray([1]), rng).lo)
    for bad in (1.2, np.nan):
        with pytest.raises(ValueError, match=f"all in .0, 1.; found .* to {bad}"):
            calibration.error(np.asarray([0.5, bad]), np.asarray([0, 1]))
