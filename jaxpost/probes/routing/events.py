"""When a sample is memorised and when it is generalised: events on a trajectory of measured steps (arXiv:2506.21551).

    memorised from t    at every later measured step loss <= eps and |loss - last loss| <= delta
    generalised from t  the earliest step after which mean accuracy > 0.8 with at most 1 error

The nulls put a sample's measured steps in random order: what shares of early samples the definitions give without any order
in time, in closed form.

Legend: P measured steps, N samples.
"""

from __future__ import annotations

import numpy as np
from scipy.special import comb

ACCURACY, ERRORS = 0.8, 1  # the paper's; the null's closed form is for one error
SHORTEST = 6  # steps after which one error leaves a mean accuracy above 0.8: 5/6


def memorised(loss_PxN: np.ndarray, eps: float, delta: float) -> np.ndarray:
    """Whether a sample is memorised by a step, bool[P, N]; a loss that is not finite is not memorised."""
    return np.logical_and.accumulate(_settled(loss_PxN, eps, delta)[::-1])[::-1]


def _settled(loss_PxN: np.ndarray, eps: float, delta: float) -> np.ndarray:
    loss = np.asarray(loss_PxN, np.float64)
    with np.errstate(invalid="ignore"):
        return (loss <= eps) & (np.abs(loss - loss[-1]) <= delta)


def memorised_null(loss_PxN: np.ndarray, eps: float, delta: float) -> np.ndarray:
    """Expected `memorised` when the steps before the last are in random order, float64[P, N].

    With b of the m earlier steps not settled, all of them precede place t with probability C(t, b) / C(m, b).
    """
    settled = _settled(loss_PxN, eps, delta)
    m, bad = len(settled) - 1, (~settled[:-1]).sum(0)
    place = np.arange(m + 1)[:, None]
    return settled[-1] * comb(place, bad) / comb(m, bad)


def generalised(correct_PxN: np.ndarray) -> np.ndarray:
    """Whether a sample is generalised by a step, bool[P, N]."""
    wrong = ~(np.asarray(correct_PxN) > 0.5)
    errors = np.cumsum(wrong[::-1], axis=0)[::-1]
    left = np.arange(len(wrong), 0, -1)[:, None]
    return np.logical_or.accumulate((errors <= ERRORS) & (left - errors > ACCURACY * left))


def generalised_null(correct_PxN: np.ndarray) -> np.ndarray:
    """Expected `generalised` when the measured steps are in random order, float64[P, N].

    With b errors in m steps: by place t it is no error from t on, or at most one from min(t, m - 6) on.
    """
    correct = np.asarray(correct_PxN) > 0.5
    m, b = len(correct), (~correct).sum(0)
    place = np.arange(m)[:, None]
    every = comb(m, b)
    clean = comb(place, b) / every
    if m < SHORTEST:
        return clean
    start = np.minimum(place, m - SHORTEST)
    one = (comb(start, b) + (m - start) * _below(start, b)) / every
    middle = place - start  # between the two places; no error after it
    both = (comb(start, b) + middle * _below(start, b)) / every
    return clean + one - both


def _below(start: np.ndarray, b: np.ndarray) -> np.ndarray:
    """C(start, b - 1), 0 for b = 0."""
    return np.where(b > 0, comb(start, np.maximum(b - 1, 0)), 0.0)
