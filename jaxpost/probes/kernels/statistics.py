"""Statistics of kernel matrices, on the host in float64: drift, alignment, effective rank, and their errors.

    drift             |K - K0|_F / |K0|_F
    alignment         <K_c, L_c>_F / (|K_c|_F |L_c|_F), K_c = H K H, H = I - 1 1' / N (both axes are centred); with L = y y' of
                      one label it is y_c' K_c y_c / (|K_c|_F |y_c|^2)
    effective rank    exp(-sum p log p), p_i = lambda_i / sum lambda, over positive eigenvalues

Legend: N rows, M sketches.
Sources: Cortes, Mohri and Rostamizadeh 2012 (centred alignment); Kumar et al., arXiv:2310.06110 (alignment with labels; the
re-implementation that we read centres K along one axis only); Roy and Vetterli 2007 (effective rank).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.stats

from jaxpost.stats import Interval

GROUPS = 8  # of rows in the jackknife
PERMUTATIONS = 199  # fixed draws of the labels' order
_ROUNDING = 1e-13  # of a centred matrix, relative to the matrix: below it the matrix is constant


def drift(k: np.ndarray, k0: np.ndarray) -> float:
    """Relative Frobenius distance of a kernel from the initial one; NaN where that is zero."""
    size = np.linalg.norm(k0)
    return float(np.linalg.norm(k - k0) / size) if size > 0 else np.nan


def centred(k: np.ndarray) -> np.ndarray:
    """H K H; exactly 0 where only rounding is left of it."""
    left = k - k.mean(0, keepdims=True) - k.mean(1, keepdims=True) + k.mean()
    return left if np.linalg.norm(left) > _ROUNDING * np.linalg.norm(k) else np.zeros_like(left)


def alignment(k: np.ndarray, other: np.ndarray) -> float:
    """Cosine of the centred matrices; NaN where one of them is constant."""
    a, b = centred(k), centred(other)
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float((a * b).sum() / size) if size > 0 else np.nan


def effective_rank(k: np.ndarray) -> float:
    """exp of the entropy of the eigenvalues' shares; what rounding makes negative has none. NaN where nothing is positive."""
    if not np.isfinite(k).all():
        return np.nan
    values = np.linalg.eigvalsh((k + k.T) / 2)
    values = values[values > 0]
    if not len(values):
        return np.nan
    p = values / values.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def departure(moved: np.ndarray, line: np.ndarray) -> float:
    """|moved - line|_F / |moved|_F of a model's displacement and that of its linearisation; NaN where nothing moved."""
    size = np.linalg.norm(moved)
    return float(np.linalg.norm(moved - line) / size) if size > 0 else np.nan


def permuted_alignment(k: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """(mean, lo, hi) of `alignment` when the labels are those of other rows.

    The mean over all orders is exact, tr(K_c) tr(L_c) / ((N - 1) |K_c| |L_c|); 95 % from fixed draws.
    """
    a, b = centred(k), centred(labels)
    size = np.linalg.norm(a) * np.linalg.norm(b)
    if not size > 0:
        return np.nan, np.nan, np.nan
    rng = np.random.default_rng(0)
    drawn = [(a * b[np.ix_(order, order)]).sum() / size for order in (rng.permutation(len(a)) for _ in range(PERMUTATIONS))]
    return float(np.trace(a) * np.trace(b) / ((len(a) - 1) * size)), *np.quantile(drawn, (0.025, 0.975))


def over_rows(statistic: Callable[[np.ndarray], float], rows: int) -> Interval:
    """The statistic of all rows, with a delete-one-group jackknife interval; no ends below two rows a group.

    Args: statistic: of the indices of the rows that are kept.
    """
    everything = np.arange(rows)
    value = statistic(everything)
    if rows < 2 * GROUPS:
        return Interval(value, np.nan, np.nan)
    each = np.asarray([statistic(everything[everything % GROUPS != i]) for i in range(GROUPS)])
    half = scipy.stats.t.ppf(0.975, GROUPS - 1) * np.sqrt((GROUPS - 1) / GROUPS * ((each - each.mean()) ** 2).sum())
    return Interval(value, value - half, value + half)


def over_sketches(statistic: Callable[[np.ndarray], float], count: int) -> float:
    """How far the statistic of mean sketches lies from the exact one: |bias| + t standard errors of the delete-one jackknife.

    Args: statistic: of the indices of the sketches whose mean is taken; count: M. Returns: 0 for exact kernels (M = 1).
    """
    if count < 2:
        return 0.0
    everything = np.arange(count)
    value = statistic(everything)
    each = np.asarray([statistic(everything[everything != m]) for m in everything])
    error = np.sqrt((count - 1) / count * ((each - each.mean()) ** 2).sum())
    return float(abs((count - 1) * (each.mean() - value)) + scipy.stats.t.ppf(0.975, count - 1) * error)
