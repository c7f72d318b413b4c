"""Intervals, tests and verdicts at the unit that was randomised: the seed, and above it the base.

Host side, float64 numpy and scipy. Replicates lie on the last axis; leading axes are independent statistics. One
replicate has a mean and no interval: the ends are NaN, which row writers store as absent.

Legend: S seeds, B bases, A arms, T points of a trajectory.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.stats

DIRECTIONS = ("greater", "less", "equivalent")


class Interval(NamedTuple):
    """Point estimate and confidence interval; `lo` and `hi` are NaN when there are too few replicates for one."""

    value: np.ndarray
    lo: np.ndarray
    hi: np.ndarray


def _with_error(value, error, df: int, level: float) -> Interval:
    half = scipy.stats.t.ppf(0.5 + level / 2, df) * error
    return Interval(value, value - half, value + half)


def _no_interval(value) -> Interval:
    return Interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))


def t_interval(x_S, level: float = 0.95) -> Interval:
    """Student's t interval of the mean over the last axis: mean +- t_{S-1} * sd / sqrt(S), sd with divisor S - 1.

    Args: x_S float[..., S], one value a seed. Returns: Interval; ends NaN for S = 1. Raises: ValueError for S = 0.
    At five seeds a percentile bootstrap covers 84 % where this covers 95 % (normal replicates).
    """
    x_S = np.asarray(x_S, np.float64)
    n = x_S.shape[-1] if x_S.ndim else 0
    if n == 0:
        raise ValueError(f"t_interval: expected at least one replicate on the last axis; found shape {x_S.shape}")
    if n == 1:
        return _no_interval(x_S.mean(-1))
    return _with_error(*_mean_and_error(x_S), n - 1, level)


def _mean_and_error(x_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard error) over the last axis; of equal values that value and exactly 0, which sums miss by rounding."""
    equal = np.ptp(x_S, axis=-1) == 0
    error = x_S.std(-1, ddof=1) / np.sqrt(x_S.shape[-1])
    return np.where(equal, x_S[..., 0], x_S.mean(-1))[()], np.where(equal, 0.0, error)[()]


def paired_difference(a_S, b_S, level: float = 0.95) -> Interval:
    """t interval of the mean of a - b, seed by seed (the same seeds, in the same order)."""
    a_S, b_S = np.asarray(a_S, np.float64), np.asarray(b_S, np.float64)
    if a_S.shape != b_S.shape:
        raise ValueError(f"paired_difference: seeds must pair; found shapes {a_S.shape} and {b_S.shape}")
    return t_interval(a_S - b_S, level)


def t_pvalue(x_S, threshold: float, direction: str, equivalence_margin: float = 0.0) -> np.ndarray:
    """One-sided one-sample t test of "mean is `direction` than threshold" over the last axis.

    Of direction "equivalent": the larger p of the two tests "greater than -margin" and "less than margin".
    NaN for one replicate. A sample without any spread has p = 0 on the claimed side, 1 on the other and 0.5 on the
    threshold itself. Source of the equivalence test: Schuirmann 1987.
    """
    _check_direction(direction)
    if direction == "equivalent":
        return np.maximum(t_pvalue(x_S, -equivalence_margin, "greater"), t_pvalue(x_S, equivalence_margin, "less"))
    x_S = np.asarray(x_S, np.float64)
    n = x_S.shape[-1]
    if n < 2:
        return np.full(x_S.shape[:-1], np.nan)
    mean, error = _mean_and_error(x_S)
    distance = (mean - threshold) * (1.0 if direction == "greater" else -1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(error > 0, distance / error, np.where(distance == 0, 0.0, np.sign(distance) * np.inf))
    return scipy.stats.t.sf(t, n - 1)


def holm(p) -> np.ndarray:
    """Holm's step-down adjusted p-values, in the order given: running maximum of (m - rank) * p, at most 1.

    Raises: ValueError when a p-value is absent (NaN): a claim without a test cannot be corrected silently.
    """
    p = np.asarray(p, np.float64)
    if p.ndim != 1 or np.isnan(p).any():
        raise ValueError(f"holm: expected a vector of p-values without NaN; found {p}")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def jackknife_pairs(pairs_SxS, level: float = 0.95) -> Interval:
    """Mean of a symmetric pair statistic over unordered pairs, with the delete-one-seed jackknife interval.

    The pairs share seeds, so S(S-1)/2 of them are not as many replicates. With theta_-i the mean without seed i,
    se^2 = (S - 1)/S * sum_i (theta_-i - mean theta_-i)^2, and the interval is t with S - 1 degrees of freedom. A
    nominal 95 % covers about 89 % at six seeds, 90 % at ten (normal seeds, products of pairs); pairs taken as
    independent, 50 %.

    Args: pairs_SxS float[..., S, S]; only entries i < j are read. Returns: Interval; ends NaN below three seeds
    (without one of two seeds no pair is left). Raises: ValueError for fewer than two seeds. Source: Arvesen 1969.
    """
    pairs = np.asarray(pairs_SxS, np.float64)
    n = pairs.shape[-1]
    if n < 2 or pairs.shape[-2:] != (n, n):
        raise ValueError(f"jackknife_pairs: expected [..., S, S] with S >= 2; found shape {pairs.shape}")
    i, j = np.triu_indices(n, 1)
    upper = pairs[..., i, j]
    mean = upper.mean(-1)
    if n == 2:
        return _no_interval(mean)
    without = np.stack([upper[..., (i != s) & (j != s)].mean(-1) for s in range(n)])
    error = np.sqrt((n - 1) / n * ((without - without.mean(0)) ** 2).sum(0))
    return _with_error(mean, error, n - 1, level)


def hierarchical_interval(x_BxS, level: float = 0.95) -> Interval:
    """Interval that generalises to new bases: t over the B base means (seeds averaged first), df = B - 1.

    Args: x_BxS float[B, S], seeds nested in bases, or B arrays of as many seeds as each base has. Returns: Interval; ends NaN
    for one base, because seeds alone say nothing about another base.
    """
    bases = [np.asarray(x_S, np.float64) for x_S in x_BxS]
    if wrong := [x_S.shape for x_S in bases if x_S.ndim != 1]:
        raise ValueError(f"hierarchical_interval: expected [bases, seeds]; found a base of shape {wrong[0]}")
    return t_interval([x_S.mean() for x_S in bases], level)


def verdict(interval: Interval, direction: str, threshold: float, equivalence_margin: float = 0.0) -> str:
    """What an interval says about the claim "the statistic is `direction` than `threshold`".

    supported: the interval lies wholly beyond the threshold. practically equivalent: wholly inside [-margin, margin], on
    whichever side of zero. contradicted: wholly on the other side of zero, and not inside the margin. Otherwise, and without an
    interval, inconclusive. Of direction "equivalent", which claims that there is practically no difference: supported wholly
    inside the margin, contradicted wholly outside it.

    Args: direction "greater", "less" or "equivalent"; threshold on the claimed side of zero and not inside the margin (else one
    interval could be both), 0 for "equivalent"; state a claim about a ratio as a difference from one, or as a logarithm.
    Raises: ValueError for a claim that could be supported and equivalent at once, or an unknown direction.
    """
    _check_direction(direction)
    if direction == "equivalent":
        return _equivalence(interval, threshold, equivalence_margin)
    sign = 1.0 if direction == "greater" else -1.0
    if equivalence_margin < 0 or sign * threshold < equivalence_margin:
        raise ValueError(
            f"verdict: a '{direction}' claim needs a threshold at or beyond {sign * abs(equivalence_margin):g} "
            f"(its side of zero, outside the margin); found threshold={threshold:g}, margin={equivalence_margin:g}"
        )
    lo, hi = sorted((sign * float(interval.lo), sign * float(interval.hi)))
    if np.isnan(lo) or np.isnan(hi):
        return "inconclusive"
    if lo > sign * threshold:
        return "supported"
    if -equivalence_margin <= lo and hi <= equivalence_margin:
        return "practically equivalent"
    return "contradicted" if hi < 0 else "inconclusive"


def _equivalence(interval: Interval, threshold: float, margin: float) -> str:
    """The verdict on "practically no difference"."""
    if threshold != 0 or not margin > 0:
        raise ValueError(f"verdict: an 'equivalent' claim has threshold 0 and a margin above 0; found threshold={threshold:g}, "
                         f"margin={margin:g}")
    lo, hi = sorted((float(interval.lo), float(interval.hi)))
    if lo >= -margin and hi <= margin:
        return "supported"
    return "contradicted" if lo > margin or hi < -margin else "inconclusive"


def smallest_effect(sd: float, seeds: int, power: float = 0.8, level: float = 0.95) -> float:
    """The distance beyond a threshold that `seeds` replicates resolve: the least d for which an interval of normal replicates
    with mean threshold + d and standard deviation `sd` lies wholly beyond the threshold with probability `power`.

      P(T > t_{S-1, 1/2 + level/2}) = power,  T noncentral t with S - 1 degrees of freedom and noncentrality d sqrt(S) / sd

    Returns: in the unit of sd; NaN for fewer than two seeds.
    Raises: ValueError for a power that is not between that at d = 0, (1 - level) / 2, and 1.
    """
    if not (1 - level) / 2 < power < 1:
        raise ValueError(f"smallest_effect: power={power} must lie between {(1 - level) / 2:g}, that of no effect, and 1")
    if seeds < 2:
        return np.nan
    limit = scipy.stats.t.ppf(0.5 + level / 2, seeds - 1)
    shift = scipy.optimize.brentq(lambda x: scipy.stats.nct.sf(limit, seeds - 1, x) - power, 0, 50 * limit)
    return float(sd * shift / np.sqrt(seeds))


def log_interp(x_grid, x_T, y_T) -> np.ndarray:
    """y at given x along a trajectory, linear in log x: "the value when the run first had this much update norm".

    Walks the points in the order given (training steps). x need not grow: where the path crosses a grid value several
    times, the first crossing counts, and later ones are ignored; a segment is crossed in either direction. Points with
    x <= 0 or a non-finite coordinate are skipped.

    Args: x_grid float[G] > 0; x_T, y_T float[T]. Returns: float[G], NaN outside [min x, max x]. Raises: ValueError on
    unequal lengths or a grid value that is not positive.
    """
    grid = np.asarray(x_grid, np.float64)
    x_T, y_T = np.asarray(x_T, np.float64), np.asarray(y_T, np.float64)
    if x_T.shape != y_T.shape or x_T.ndim != 1:
        raise ValueError(f"log_interp: x and y must be vectors of one length; found {x_T.shape} and {y_T.shape}")
    if not (grid > 0).all():
        raise ValueError(f"log_interp: grid values must be positive; found {grid[~(grid > 0)]}")
    keep = (x_T > 0) & np.isfinite(x_T) & np.isfinite(y_T)
    log_x, y, log_grid = np.log(x_T[keep]), y_T[keep], np.log(grid)
    out = np.full(grid.shape, np.nan)
    for t in range(len(y)):
        start = max(t - 1, 0)  # the first point is a segment of its own
        low, high = sorted((log_x[start], log_x[t]))
        hit = np.isnan(out) & (log_grid >= low) & (log_grid <= high)
        width = log_x[t] - log_x[start]
        share = (log_grid[hit] - log_x[start]) / width if width else 0.0
        out[hit] = y[start] + share * (y[t] - y[start])
    return out


def rank_correlations(x_SxA, y_SxA) -> np.ndarray:
    """Spearman's correlation of x and y over the last axis, ties with their average rank: f64[S]; NaN where a side is constant
    or a value is missing.
    """
    u_SxA, v_SxA = _unit_ranks(x_SxA), _unit_ranks(y_SxA)
    return (u_SxA * v_SxA).sum(-1)


def _unit_ranks(x_SxA) -> np.ndarray:
    """Centred ranks of length one; NaN where all are equal or one is missing."""
    x_SxA = np.asarray(x_SxA, np.float64)
    away_SxA = scipy.stats.rankdata(x_SxA, axis=-1) - (x_SxA.shape[-1] + 1) / 2
    away_SxA[~np.isfinite(x_SxA).all(-1)] = 0.0
    norm_Sx1 = np.linalg.norm(away_SxA, axis=-1, keepdims=True)
    return np.divide(away_SxA, norm_Sx1, out=np.full_like(away_SxA, np.nan), where=norm_Sx1 > 0)


class Permuted(NamedTuple):
    """A statistic and its p-value under permutations: all of them, or `draws` random ones."""

    value: float
    p: float
    draws: int
    exact: bool


def permuted_ranks(x_SxA, y_SxA, direction: str, draws: int = 9999, seed: int = 0) -> Permuted:
    """Is the rank correlation of x and y over A arms, averaged over seeds, larger than that of arms without their names?

      T = mean_s rho_s(x_s, y_s);   H0: the arms of y may be exchanged, in all seeds alike
      p = #{T(permutation) >= T} / A!   of all A! permutations where they are at most `draws`, else
      p = (1 + #{T* >= T}) / (1 + draws)

    One permutation serves all seeds, so what an arm shares between seeds (they are replicates of the same arms) stays
    together, and A, not A times S, is the sample.

    Args: x_SxA, y_SxA float[S, A], each row with a rank correlation. direction: "greater", or "less" (<= in place of >=).
    Raises: ValueError for another direction, unequal shapes, or a row without a rank correlation.
    """
    if direction not in DIRECTIONS[:2]:
        raise ValueError(f"permuted_ranks: unknown direction {direction!r}; expected greater or less")
    if np.ndim(x_SxA) != 2 or np.shape(x_SxA) != np.shape(y_SxA):
        raise ValueError(f"permuted_ranks: expected [seeds, arms] twice; found shapes {np.shape(x_SxA)} and {np.shape(y_SxA)}")
    u_SxA, v_SxA = _unit_ranks(x_SxA), _unit_ranks(y_SxA)
    product_AxA = u_SxA.T @ v_SxA / len(u_SxA)  # T of a permutation is the sum over arms a of product[a, permutation(a)]
    if not np.isfinite(product_AxA).all():
        raise ValueError("permuted_ranks: a seed has no rank correlation, as a side is constant or a value is missing")
    arms = len(product_AxA)
    exact = math.factorial(arms) <= draws
    if exact:
        order_MxA = np.asarray(list(itertools.permutations(range(arms))))
    else:
        order_MxA = np.random.default_rng(seed).permuted(np.tile(np.arange(arms), (draws, 1)), axis=1)
    sign = 1.0 if direction == "greater" else -1.0
    value = float(np.trace(product_AxA))
    beyond = int(np.sum(sign * product_AxA[np.arange(arms), order_MxA].sum(-1) >= sign * value - 1e-12))
    p = beyond / len(order_MxA) if exact else (1 + beyond) / (1 + draws)
    return Permuted(value, p, len(order_MxA), exact)


def _check_direction(direction: str) -> None:
    if direction not in DIRECTIONS:
        raise ValueError(f"unknown direction {direction!r}; expected one of {', '.join(DIRECTIONS)}")
