"""Expected calibration error of answers, its null and its interval: does a policy that says p answer right in a share p?

    ECE = sum_b |sum_{i in b} (right_i - confidence_i)| / N,   b bins of equal width of the confidence

A finite sample of a perfectly calibrated model has ECE above 0: the null draws right_i ~ Bernoulli(confidence_i) of the same
confidences. The bootstrap's resamples carry that bias once more, so that its lower end is conservative.

Source of the binned error: Naeini et al. 2015; Guo et al. 2017.
Legend: N prompts, D draws, B bins.
"""

from __future__ import annotations

import numpy as np

from jaxpost.stats import Interval

BINS = 10
DRAWS = 999


def error(confidence_N: np.ndarray, right_N: np.ndarray, bins: int = BINS) -> float:
    """ECE of confidences in [0, 1] and outcomes 0 or 1. Raises: ValueError: a confidence outside [0, 1], no prompt."""
    return float(_errors(right_N - confidence_N, _member(confidence_N, bins)))


def null(confidence_N: np.ndarray, rng: np.random.Generator, bins: int = BINS) -> tuple[float, float, float]:
    """(mean, 2.5 %, 97.5 %) of the ECE of a perfectly calibrated model of these confidences, over DRAWS draws."""
    right_DxN = rng.random((DRAWS, len(confidence_N))) < confidence_N
    found_D = _errors(right_DxN - confidence_N, _member(confidence_N, bins))
    return float(found_D.mean()), *map(float, np.quantile(found_D, (0.025, 0.975)))


def interval(confidence_N: np.ndarray, right_N: np.ndarray, rng: np.random.Generator, bins: int = BINS) -> Interval:
    """ECE with its 95 % percentile bootstrap over prompts; ends NaN for one prompt."""
    N, value = len(confidence_N), np.asarray(error(confidence_N, right_N, bins))
    if N < 2:
        return Interval(value, np.asarray(np.nan), np.asarray(np.nan))
    weight_DxN = rng.multinomial(N, np.full(N, 1 / N), size=DRAWS)
    found_D = _errors(weight_DxN * (right_N - confidence_N), _member(confidence_N, bins))
    return Interval(value, *np.quantile(found_D, (0.025, 0.975)))


def _member(confidence_N: np.ndarray, bins: int) -> np.ndarray:
    """One column a bin, [N, B]; a confidence of 1 is in the last."""
    if not confidence_N.size or not ((confidence_N >= 0) & (confidence_N <= 1)).all():
        raise ValueError(f"{confidence_N.size} confidences, expected at least one and all in [0, 1]"
                         + (f"; found {confidence_N.min():g} to {confidence_N.max():g}" if confidence_N.size else ""))
    return np.eye(bins)[np.minimum((confidence_N * bins).astype(int), bins - 1)]


def _errors(difference_xN: np.ndarray, member_NxB: np.ndarray) -> np.ndarray:
    return np.abs(difference_xN @ member_NxB).sum(-1) / len(member_NxB)
