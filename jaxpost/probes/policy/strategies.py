"""Two in-context strategies that a policy may follow, by its own predictions: where between them it is, and what mixture it is.

    d(p, q) = KL(p | q) + KL(q | p), means over prompts
    relative distance = (clip((d(h, G) - d(h, M)) / d(G, M), -1, 1) + 1) / 2     0 generalising, 1 memorising
    weight = argmin over w in [0, 1] of the mean of KL(h | w M + (1 - w) G)

h is the policy's distribution, M and G are those of the memorising and the generalising Bayes predictor. Host, float64.

Legend: S seeds, N prompts, C answers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxpost.probes.policy import example_rows
from jaxpost.probes.rows.pooling import divide
from jaxpost.stats import Interval

_HALVINGS = 60  # of the interval that holds the weight: below its rounding


class Found(NamedTuple):
    """A statistic with its interval over prompts and how far float32 logits may move it, [S] each."""

    interval: Interval
    error: np.ndarray


def divergence(p_SxNxC: np.ndarray, q_SxNxC: np.ndarray) -> np.ndarray:
    """sum (p - q)(log p - log q), [S, N]; a chance of 0 in one of both is a distance of infinity."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = (p_SxNxC - q_SxNxC) * (np.log(p_SxNxC) - np.log(q_SxNxC))
    return np.where(p_SxNxC == q_SxNxC, 0.0, terms).sum(axis=-1)


def relative_distance(h: np.ndarray, memorising: np.ndarray, generalising: np.ndarray, rounding_SxN: np.ndarray) -> Found:
    """Where a policy is between the generalising (0) and the memorising (1) predictor. Source: arXiv:2506.17859.

    Args: distributions [S, N, C], positive; rounding: bound on the errors of the logits of h.
    """
    gap_SxN = divergence(h, generalising) - divergence(h, memorising)
    whole_SxN = divergence(generalising, memorising)
    distance = example_rows.jackknife(lambda a, b: (np.clip(a / b, -1, 1) + 1) / 2, gap_SxN, whole_SxN)
    moved_SxN = sum((np.abs(h - q) + h * np.abs(np.log(h / q))).sum(-1) for q in (memorising, generalising))
    return Found(distance, 0.5 * (2 * rounding_SxN * moved_SxN).mean(-1) / whole_SxN.mean(-1))


def weight(h: np.ndarray, memorising: np.ndarray, generalising: np.ndarray, rounding_SxN: np.ndarray
           ) -> tuple[Found, Found]:
    """(weight of the memorising predictor in the nearest mixture of both, KL(h | that mixture)) of a policy.

    The objective is convex in w: its slope is halved into. Interval of the weight: delete-one values by one Newton step of what
    the other prompts say.
    Args: as in `relative_distance`.
    """
    step = memorising - generalising

    def slope_SxN(w_S):
        return (h * step / (generalising + w_S[:, None, None] * step)).sum(axis=-1)

    low_S, high_S = np.zeros(len(h)), np.ones(len(h))
    for _ in range(_HALVINGS):
        middle_S = (low_S + high_S) / 2
        up = slope_SxN(middle_S).mean(axis=1) > 0
        low_S, high_S = np.where(up, middle_S, low_S), np.where(up, high_S, middle_S)
    w_S = np.where(np.isfinite(h).all(axis=(1, 2)), (low_S + high_S) / 2, np.nan)
    mixed = generalising + w_S[:, None, None] * step
    curvature_SxN = (h * step**2 / mixed**2).sum(-1)
    curvature_S, slope = curvature_SxN.sum(-1), slope_SxN(w_S)
    moved_S = divide((2 * rounding_SxN * (h * np.abs(step) / mixed).sum(-1)).sum(-1), curvature_S)
    left_SxN = slope.sum(-1, keepdims=True) - slope  # of the others: not 0 in sum where the weight is at an end
    without_SxN = np.clip(w_S[:, None] + divide(left_SxN, curvature_S[:, None] - curvature_SxN), 0, 1)
    kl_SxN = (h * np.log(h / mixed)).sum(-1)
    off_S = (2 * rounding_SxN * (h * (np.abs(np.log(h / mixed)) + 1)).sum(-1)).mean(-1)
    known_S = np.where(curvature_S > 0, w_S, np.nan)  # any weight gives the mixture of two predictors that are one
    return (Found(example_rows.delete_one(known_S, without_SxN), moved_S),
            Found(example_rows.jackknife(lambda x: x, kl_SxN), off_S))
