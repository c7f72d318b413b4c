"""Lifelong-learning metrics of a sequence of tasks, as plain functions of a score matrix (PM, FT, BT) or of curves (RP, SE).

    R[k, j]  score on task j after k stages of training; stage k trains task k - 1, row 0 is the start
    PM       performance maintenance: what later training takes from a task, mean_j mean_{k > j + 1} (R[k, j] - R[j + 1, j])
    FT, BT   forward and backward transfer: contrast of R[a, b] and R[a + 1, b] over b > a (not yet trained) and b < a (trained)
    RP       relative performance: sum of the scores over the sum of a single-task expert's, over as much experience
    SE       sample efficiency: (saturation / expert's) (expert's experience to saturation / own)

    contrast(before, after) = (after - before) / (after + before), in [-1, 1] for scores that are not negative

A score here is one evaluation. Differs from the package of the source: a block of evaluations has one entry, so that the
reference of PM ("most recent evaluation right after learning") is R[j + 1, j], and it does not enter the mean.

Source: arXiv:2301.07799 (metrics), the package l2metrics (defaults).
Legend: K stages, which are tasks too; leading axes are independent sequences.
"""

from __future__ import annotations

import numpy as np

from jaxpost.probes import base, catalog

PAPER = "arXiv:2301.07799"
_SUCCESS = "R[k, j] policy.success on the task of stage j + 1 (split id) after k stages of the arm's chain"
_ALGORITHM = "plain arithmetic of success rates, float64"
METRICS = (
    base.Metric("lifelong.pm", f"mean over tasks j but the last of mean_(k > j + 1) (R[k, j] - R[j + 1, j]), {_SUCCESS}", "1",
                PAPER, "unchanged: 0, later training takes nothing", "none", _ALGORITHM, higher_is_better=True),
    base.Metric("lifelong.ft", f"mean over stages a and later tasks b > a, not yet trained, of (R[a + 1, b] - R[a, b]) / "
                f"(R[a + 1, b] + R[a, b]), {_SUCCESS}", "1", PAPER, "unchanged: 0, a task is no easier for another", "none",
                _ALGORITHM, higher_is_better=True),
    base.Metric("lifelong.bt", f"mean over stages a and earlier tasks b < a of (R[a + 1, b] - R[a, b]) / "
                f"(R[a + 1, b] + R[a, b]), {_SUCCESS}", "1", PAPER, "unchanged: 0, an earlier task keeps its score", "none",
                _ALGORITHM, higher_is_better=True),
)
base.register(*METRICS)


def performance_maintenance(scores: np.ndarray) -> np.ndarray:
    """PM of R[..., K + 1, K]; negative where tasks are forgotten. Unit: that of the score. Raises: ValueError: shape, K < 2."""
    R, K = _matrix(scores)
    changes = [(R[..., j + 2:, j] - R[..., j + 1, j, None]).mean(-1) for j in range(K - 1)]
    return np.mean(changes, axis=0)


def forward_transfer(scores: np.ndarray) -> np.ndarray:
    """FT of R[..., K + 1, K]: mean contrast of tasks before they are trained, NaN where both scores of a pair are 0.

    Raises: ValueError: shape, K < 2, or a negative score.
    """
    return _transfer(scores, lambda a, b: b > a)


def backward_transfer(scores: np.ndarray) -> np.ndarray:
    """BT of R[..., K + 1, K]: mean contrast of tasks that were trained before; otherwise as `forward_transfer`."""
    return _transfer(scores, lambda a, b: b < a)


def contrast(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(after - before) / (after + before), NaN where both are 0. Raises: ValueError: a negative score (shift it first)."""
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if (least := min(before.min(), after.min())) < 0:
        raise ValueError(f"a contrast of scores is not defined for a score of {least:g}; shift scores to 0 or more first")
    return np.divide(after - before, after + before, out=np.full(np.shape(after + before), np.nan), where=after + before > 0)


def relative_performance(scores_T: np.ndarray, expert_T: np.ndarray) -> np.ndarray:
    """RP: sum of the scores along a learning curve over that of a single-task expert, over the last axis.

    Raises: ValueError: curves of other lengths.
    """
    own, expert = np.asarray(scores_T, np.float64), np.asarray(expert_T, np.float64)
    if own.shape[-1] != expert.shape[-1]:
        raise ValueError(f"curves of {own.shape[-1]} and {expert.shape[-1]} points; relative performance is of equal lengths")
    return own.sum(-1) / expert.sum(-1)


def saturation(scores_T: np.ndarray) -> tuple[float, int]:
    """(largest moving average of a curve, points until its window ends): flat window of floor(T / 5) points, 1 to 100."""
    x = np.asarray(scores_T, np.float64)
    window = min(max(len(x) // 5, 1), 100)
    means = np.convolve(x, np.full(window, 1 / window), mode="valid")
    return float(means.max()), int(means.argmax()) + window


def sample_efficiency(scores_T: np.ndarray, expert_T: np.ndarray) -> float:
    """SE of two learning curves [T], [T']: 0 where the saturation is below a fifth of the expert's, or the curve falls.

    "Falls" is a negative least-squares slope over the points. Raises: ValueError: an expert that saturates at 0 or below.
    """
    own, when = saturation(scores_T)
    expert, expert_when = saturation(expert_T)
    if expert <= 0:
        raise ValueError(f"the expert saturates at {expert:g}; sample efficiency needs a score above 0")
    falls = len(scores_T) > 1 and np.polyfit(np.arange(len(scores_T)), np.asarray(scores_T, np.float64), 1)[0] < 0
    return 0.0 if own < 0.2 * expert or falls else (own / expert) * (expert_when / when)


def _matrix(scores: np.ndarray) -> tuple[np.ndarray, int]:
    R = np.asarray(scores, np.float64)
    if R.ndim < 2 or R.shape[-1] < 2 or R.shape[-2] != R.shape[-1] + 1:
        raise ValueError(f"a score matrix of shape {R.shape}; expected [..., K + 1, K], K >= 2: before and after K stages")
    return R, R.shape[-1]


def _transfer(scores: np.ndarray, wanted) -> np.ndarray:
    R, K = _matrix(scores)
    return np.mean([contrast(R[..., a, b], R[..., a + 1, b]) for a in range(K) for b in range(K) if wanted(a, b)], axis=0)


catalog.add(
    __name__,
    catalog.Entry("lifelong", "what a sequence of tasks keeps and carries over: maintenance, forward and backward transfer",
                  lane="offline", where="made from success at the ends of an arm's chain, if its stages train several tasks",
                  metrics=tuple(metric.id for metric in METRICS)),
    catalog.Statistic(
        "lifelong", "A sequence of tasks", ("lifelong",),
        "What later stages take from a task that was learned (PM, a difference of success), and what a stage does to tasks "
        "that come later (FT) or came before (BT), as contrasts. All are made of success at the ends of an arm's stages.",
        "A stage that learned nothing forgets nothing: read success after each stage beside them. A contrast of two small "
        "success rates is large whatever moved. Three tasks make three pairs: the interval is over seeds, not over tasks.",
        "maintenance and backward transfer of a sequence whose earlier tasks lose a growing share",
        extremes={
            "lifelong.pm": ("0: later training takes nothing; above 0 it helps", "below 0: tasks are forgotten"),
            "lifelong.ft": ("a stage makes later tasks easier", "below 0: harder"),
            "lifelong.bt": ("a stage helps earlier tasks", "below 0: they are forgotten"),
        }),
)
