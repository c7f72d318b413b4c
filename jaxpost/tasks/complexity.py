"""How much a learner has to bring along to generalise: intrinsic dimension, class margin, inductive-bias complexity.

The inductive-bias complexity of a task is -log2 of the probability that a hypothesis which fits the training data also
generalises, over a space of hypotheses that is made of the waves on a sphere that the data need (Boopathy et al.,
arXiv:2305.01034; the formula is that of their released code). It is a property of data: no model enters. With N points of m
dimensions inside the radius r, c classes, o = c - 1 outputs of size at most B, the smallest distance `delta` between points of
different classes, and the error epsilon that is allowed:

    K     = (sqrt((m - 1)^2 + 4 (2 pi r / delta)^2) - (m - 1)) / 2       highest frequency
    E     = C(m + K, m) + C(m + K - 1, m)                               waves up to it
    W     = r sqrt(m / 6) (2 pi^((m + 1) / 2) c / (Gamma((m + 1) / 2) N))^(1 / m)    how far a point is from the data
    bits  = (2 o c E - N o) (log2 B + log2(o) / 2 + log2(c) / 2 + log2(K sqrt(o) / r) - log2 epsilon + log2 W)

It grows with the exponential of m, so that log10 of it is given. Host side, float64.

Legend: N points of D coordinates, P prompt tokens, V vocabulary.
"""

import math
from typing import NamedTuple

import numpy as np

from jaxpost.tasks import base

NEIGHBOURS = 5  # of a point, that the dimension is read from
_AT_ONCE = 256  # points whose distances to all are held


class Complexity(NamedTuple):
    """Of a set of points with classes."""

    dimension: float  # m
    margin: float  # delta; inf where all points are of one class
    log10_bits: float  # -inf: the data leave nothing open; nan: one class, or points that all coincide


def intrinsic_dimension(points_NxD: np.ndarray, neighbours: int = NEIGHBOURS) -> float:
    """1 / mean_i,j log(r_ik / r_ij), j = 1 .. k - 1: maximum likelihood from r_ij, the distance to the j-th nearest point.

    Points that coincide count once. Estimates fall below the truth where the dimension is large against log N, and distances
    that tie, as those between sequences of tokens do, raise them; inf where all of them tie.

    Raises:
      ValueError: fewer different points than neighbours, and one more.
    """
    points_NxD = np.unique(np.asarray(points_NxD, np.float64), axis=0)
    if neighbours < 2 or len(points_NxD) <= neighbours:
        raise ValueError(f"{len(points_NxD)} different points and neighbours={neighbours}; expected at least 2 neighbours, and "
                         "more points than these")
    nearest_NxK = np.concatenate([np.sort(np.partition(rows, neighbours, axis=1)[:, :neighbours + 1], axis=1)[:, 1:]
                                  for rows in _distances(points_NxD)])
    mean = np.log(nearest_NxK[:, -1:] / nearest_NxK[:, :-1]).mean()
    return float(1 / mean) if mean > 0 else math.inf


def class_margin(points_NxD: np.ndarray, label_N: np.ndarray) -> float:
    """The smallest distance between points of different classes that do not coincide; inf where there are none."""
    points_NxD, label_N, least, first = np.asarray(points_NxD, np.float64), np.asarray(label_N), math.inf, 0
    for rows in _distances(points_NxD):
        differ = (label_N[first:first + len(rows), None] != label_N) & (rows > 0)
        least, first = min(least, rows[differ].min(initial=math.inf)), first + len(rows)
    return float(least)


def log10_bits(count: int, dimension: float, radius: float, classes: int, margin: float, error: float, bound: float = 1.0
               ) -> float:
    """log10 of the bits of the module's formula: `count` N, `bound` B.

    -inf where the data leave nothing open, or the error that is allowed is larger than what the formula bounds.
    """
    m, outputs = dimension, classes - 1
    frequency = (math.sqrt((m - 1) ** 2 + 4 * (2 * math.pi * radius / margin) ** 2) - (m - 1)) / 2
    log_waves = np.logaddexp(_log_choose(m + frequency, m), _log_choose(m + frequency - 1, m))
    log_space = math.log(2 * outputs * classes) + log_waves
    log_known = math.log(count * outputs)
    log_distance = 0.5 * math.log(m / 6) + math.log(radius) + (
        math.log(2) + (m + 1) / 2 * math.log(math.pi) + math.log(classes) - math.lgamma((m + 1) / 2) - math.log(count)) / m
    each = (math.log(bound) + 0.5 * math.log(outputs * classes) + math.log(frequency * math.sqrt(outputs) / radius)
            - math.log(error) + log_distance) / math.log(2)
    if log_space <= log_known or each <= 0:
        return -math.inf
    return (log_space + math.log1p(-math.exp(log_known - log_space)) + math.log(each)) / math.log(10)


def of_points(points_NxD: np.ndarray, label_N: np.ndarray, error: float = 0.01, dimension: float | None = None) -> Complexity:
    """Dimension, margin and complexity of points with classes; the radius is that of the largest point.

    Args:
      dimension: of the points, where it is known; None: estimated.

    Raises:
      ValueError: as `intrinsic_dimension`, or an error outside (0, 1).
    """
    if not 0 < error < 1:
        raise ValueError(f"error={error}: a share of wrong answers that is allowed, inside (0, 1)")
    dimension = intrinsic_dimension(points_NxD) if dimension is None else dimension
    margin = class_margin(points_NxD, label_N)
    radius = float(np.linalg.norm(np.asarray(points_NxD, np.float64), axis=1).max())
    classes = len(np.unique(label_N))
    if not (math.isfinite(margin) and math.isfinite(dimension)):
        return Complexity(dimension, margin, math.nan)
    return Complexity(dimension, margin, log10_bits(len(label_N), dimension, radius, classes, margin, error))


def points_of(task: base.Task, split: str, index_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(points f64[N, P V'], classes i64[N]) of a task's problems: prompts one-hot, over the V' tokens that occur, and one class
    for each different answer of the oracle. Two prompts that differ in h tokens are sqrt(2 h) apart.
    """
    drawn = base.examples(task, split, np.asarray(index_N, np.uint32))
    prompt_NxP, answer_NxT = np.asarray(drawn.prompt_NxP), np.asarray(drawn.answer_NxT)
    token_NxP = np.unique(prompt_NxP, return_inverse=True)[1].reshape(prompt_NxP.shape)
    points_NxD = np.eye(token_NxP.max() + 1)[token_NxP].reshape(len(prompt_NxP), -1)
    return points_NxD, np.unique(answer_NxT, axis=0, return_inverse=True)[1].reshape(-1)


def _distances(points_NxD: np.ndarray):
    """Distances of the next points to all, [at most _AT_ONCE, N], one after the other."""
    square_N = (points_NxD**2).sum(axis=1)
    for first in range(0, len(points_NxD), _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        square = square_N[some, None] + square_N - 2 * points_NxD[some] @ points_NxD.T
        yield np.sqrt(np.where(square > 1e-12 * square_N.max(initial=0.0), square, 0.0))


def _log_choose(n: float, k: float) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
