"""Exploratory fits to the eigenvalues of one matrix: a power law to the tail, Marchenko-Pastur to the bulk. Host, float64.

Both read lambda = sigma^2 of an m x n matrix, all of them (no cut at an absolute size), and both come with a measure of
their fit: a small exponent means nothing where the power law does not fit.

Legend: Q eigenvalues, n in the tail; M shorter, N longer side of the matrix.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special

from jaxpost import linalg

MIN_VALUES = 50  # eigenvalues below which nothing is fitted
MIN_TAIL = 10  # eigenvalues that a tail must keep
_BLOCK = 2**15  # numbers that the fit of a tail holds at once: what fits a cache
TRACY_WIDOM_95 = 0.9793  # 95 % quantile of the Tracy-Widom law of real matrices


class Tail(NamedTuple):
    """A power law p(x) ~ x^-alpha, x >= xmin, and how it fits; errors are those that float32 singular values cause."""

    alpha: float
    alpha_se: float  # statistical, of independent draws: (alpha - 1) / sqrt(n)
    xmin: float
    count: float  # n, eigenvalues >= xmin
    ks: float
    lognormal_ratio: float  # normalised log likelihood ratio; > 0 favours the power law
    lognormal_p: float  # two-sided: small where the ratio's sign can be trusted
    goodness_p: float  # share of synthetic data sets that fit no better: small where the tail is no power law


class Bulk(NamedTuple):
    """A Marchenko-Pastur law of entries with standard deviation sigma, and what lies outside it."""

    sigma: float
    edge: float  # largest eigenvalue of the law, in units of lambda
    spikes: float  # eigenvalues above the edge by more than 95 % of Tracy-Widom fluctuations
    soft_rank: float  # edge / largest eigenvalue
    ks: float  # between the eigenvalues up to the edge and the law


def power_law(values: np.ndarray, bootstrap: int = 0) -> Tail:
    """Clauset, Shalizi and Newman's fit: alpha = 1 + n / sum log(x_i / xmin), xmin the value with the smallest KS distance.

    Every eigenvalue that leaves MIN_TAIL in the tail is tried as xmin. Ratio and p against a lognormal law truncated at
    the same xmin: Vuong's test. Goodness of fit: `goodness` over `bootstrap` synthetic data sets, NaN for none.
    Args: values: eigenvalues > 0, any order. Returns: Tail, NaN for fewer than MIN_VALUES values.
    Source: arXiv:0706.1062; differs from WeightWatcher in trying every value (no cut at 1e-5).
    """
    x = np.sort(np.asarray(values, np.float64))
    x = x[x > 0]
    if len(x) < MIN_VALUES or x[-1] <= x[-MIN_TAIL]:
        return Tail(*[np.nan] * len(Tail._fields))
    log = np.log(x)
    i, slope, ks = _tail_of(log)
    n = len(x) - i
    ratio, p = _against_lognormal(log[i:] - log[i], slope)
    fits = goodness(log, i, slope, ks, bootstrap) if bootstrap else np.nan
    return Tail(1 + slope, slope / np.sqrt(n), x[i], float(n), ks, ratio, p, fits)


def goodness(log_Q: np.ndarray, i: int, slope: float, ks: float, draws: int) -> float:
    """p value of a fit: the share of `draws` synthetic data sets whose own fit has a KS distance of at least `ks`.

    Each of Q values of a set is drawn from the fitted law with probability n / Q and otherwise from the values below xmin;
    xmin and alpha are fitted anew. Because xmin is free, p is a little large for true power laws (mean 0.51 and 0.58 in 200
    samples of 100 and 300 values) and often large for other laws, of which a short tail fits: below 0.1 in 6 of 12 exponential
    samples of 300 and 4 of 12 lognormal ones of 800. The draws are the same for every spectrum. Monte Carlo error:
    `goodness_error`.
    Args: log_Q: sorted logarithms; i: index of xmin. Source: arXiv:0706.1062, section 4.1 (semiparametric bootstrap).
    """
    rng, count, above = np.random.default_rng(0), len(log_Q), 0
    for _ in range(draws):
        where, depth, below = rng.random(count), rng.standard_exponential(count), rng.random(count)
        of_body = log_Q[np.minimum((below * i).astype(int), max(i - 1, 0))]
        made = np.sort(np.where(where * count < count - i, log_Q[i] + depth / slope, of_body))
        above += _tail_of(made)[2] >= ks
    return above / draws


def goodness_error(p: float, draws: int) -> float:
    """Monte Carlo standard error of a share p of `draws`, at (p draws + 1) / (draws + 2) so that it is not 0 at the ends."""
    kept = (p * draws + 1) / (draws + 2)
    return float(np.sqrt(kept * (1 - kept) / max(draws, 1)))


def _tail_of(log_Q: np.ndarray) -> tuple[int, float, float]:
    """(index of xmin, alpha - 1, KS distance) of the best tail of sorted logarithms; a block of candidates at a time."""
    Q = len(log_Q)
    count_Q, rank_Q = np.arange(Q, 0, -1), np.arange(Q)
    excess_Q = np.cumsum(log_Q[::-1])[::-1] - count_Q * log_Q
    kept = np.flatnonzero((count_Q >= MIN_TAIL) & (excess_Q > 0) & np.r_[True, np.diff(log_Q) > 0])
    distances, at_once = [], max(1, _BLOCK // Q)
    for start in range(0, len(kept), at_once):
        i_Cx1 = kept[start:start + at_once, None]
        n_Cx1 = count_Q[i_Cx1]
        law = -np.expm1(-(n_Cx1 / excess_Q[i_Cx1]) * np.maximum(log_Q - log_Q[i_Cx1], 0.0))
        over, under = (rank_Q + 1 - i_Cx1) / n_Cx1 - law, law - (rank_Q - i_Cx1) / n_Cx1
        distances.append(np.where(rank_Q >= i_Cx1, np.maximum(over, under), 0.0).max(axis=1))
    joined = np.concatenate(distances)
    i = int(kept[np.argmin(joined)])
    return i, float(count_Q[i] / excess_Q[i]), float(joined.min())


def _against_lognormal(y_n: np.ndarray, slope: float) -> tuple[float, float]:
    """Vuong's normalised log likelihood ratio of exponential against truncated normal logarithms, and its p value."""

    def density(parameters):
        mean, deviation = parameters[0], np.exp(parameters[1])
        z = (y_n - mean) / deviation
        return -0.5 * z**2 - np.log(deviation) - 0.5 * np.log(2 * np.pi) - scipy.special.log_ndtr(mean / deviation)

    spread = y_n.std()
    start = (y_n.mean(), np.log(spread))
    bounds = ((-200 * spread, y_n.max()), (np.log(spread) - 5, np.log(spread) + 4))
    optimum = scipy.optimize.minimize(lambda p: -density(p).sum(), start, method="L-BFGS-B", bounds=bounds)
    difference = (np.log(slope) - slope * y_n) - density(optimum.x)
    scale = difference.std() * np.sqrt(len(y_n))
    if scale == 0:
        return 0.0, 1.0
    ratio = float(difference.sum() / scale)
    return ratio, float(scipy.special.erfc(abs(ratio) / np.sqrt(2)))


def marchenko_pastur(values: np.ndarray, shape: tuple[int, int]) -> Bulk:
    """Bulk of an m x n matrix of independent entries of variance sigma^2, fitted by its median.

    lambda / N lies in sigma^2 (1 -+ sqrt(M / N))^2. sigma is such that the medians of law and eigenvalues agree; spikes
    are left out and the fit repeated until none is new. Johnstone's centring and scale of the largest eigenvalue:
    (sqrt(N-1) + sqrt M)^2 and (sqrt(N-1) + sqrt M) (1/sqrt(N-1) + 1/sqrt M)^(1/3).
    Args: values: eigenvalues, any order. Returns: Bulk, NaN for fewer than MIN_VALUES values, or where the bulk is zero
      within the numerical error of singular values (a zero or rank-deficient matrix).
    Source: Marchenko and Pastur 1967; Johnstone 2001. Differs from WeightWatcher: median instead of a kernel density fit.
    """
    longer, shorter = max(shape), min(shape)
    x = np.sort(np.asarray(values, np.float64))
    nothing, nil = Bulk(*[np.nan] * len(Bulk._fields)), (linalg.ALONE * linalg.VALUE_ERROR) ** 2 * x[-1]
    if len(x) < MIN_VALUES:
        return nothing
    nodes, law = _law(shorter, longer)
    middle = np.interp(0.5, law, nodes)
    root = np.sqrt(longer - 1) + np.sqrt(shorter)
    fluctuation = root * (1 / np.sqrt(longer - 1) + 1 / np.sqrt(shorter)) ** (1 / 3)
    bulk = len(x)
    while True:
        if np.median(x[:bulk]) <= nil:
            return nothing
        variance = np.median(x[:bulk]) / (longer * middle)
        inside = int(np.sum(x <= variance * (root**2 + TRACY_WIDOM_95 * fluctuation)))
        if inside >= bulk or inside < MIN_VALUES // 2:
            break
        bulk = inside
    edge = variance * longer * nodes[-1]
    within = x[x <= edge] / (variance * longer)
    law_at = np.interp(within, nodes, law)
    ranks = np.arange(1, len(within) + 1) / len(within)
    ks = max(np.max(ranks - law_at), np.max(law_at - ranks + 1 / len(within)))
    return Bulk(float(np.sqrt(variance)), float(edge), float(len(x) - inside), float(edge / x[-1]), float(ks))


@lru_cache(maxsize=64)
def _law(shorter: int, longer: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and cumulative Marchenko-Pastur law of unit variance, by the trapezoid rule in the angle of the support."""
    c = shorter / longer
    angle = np.linspace(np.pi, 0, 8193)
    nodes = 1 + c + 2 * np.sqrt(c) * np.cos(angle)
    with np.errstate(divide="ignore", invalid="ignore"):
        density = np.where(nodes > 1e-12, 2 * np.sin(angle) ** 2 / (np.pi * nodes), 0.0)
    if c == 1:
        density[0] = 2 / np.pi  # sin^2 / (2 + 2 cos) tends to 1 where the support touches zero
    steps = 0.5 * (density[1:] + density[:-1]) * (np.pi / 8192)
    law = np.r_[0.0, np.cumsum(steps)]
    return np.maximum(nodes, 0.0), law / law[-1]


def errors(tail: Tail, bulk: Bulk, values: np.ndarray, bootstrap: int) -> tuple[Tail, Bulk]:
    """Numerical errors of both fits when every singular value is off by ALONE * VALUE_ERROR times the largest.

    At the same xmin, because the choice of xmin jumps; by how much is not known. Not propagated: the lognormal ratio, and to
    the goodness of fit, whose error is that of its Monte Carlo draws.
    Args: values: the eigenvalues of both fits; bootstrap: synthetic data sets of the goodness of fit.
    """
    relative = linalg.ALONE * linalg.VALUE_ERROR
    off = 2 * relative * np.sqrt(np.max(values))  # of lambda, relative: off / sqrt(lambda)
    with np.errstate(divide="ignore"):  # half of the eigenvalues may be zero
        at_xmin, at_middle = off / np.sqrt(tail.xmin), off / np.sqrt(np.median(values))
    slope = tail.alpha - 1
    alpha = 2 * slope**2 * at_xmin
    fit = Tail(alpha, alpha / np.sqrt(tail.count), at_xmin * tail.xmin, 0.0, alpha / (np.e * slope) + slope * at_xmin,
               np.nan, np.nan, goodness_error(tail.goodness_p, bootstrap))
    law = Bulk(0.5 * at_middle * bulk.sigma, at_middle * bulk.edge, 0.0,
               (at_middle + 2 * relative) * bulk.soft_rank, 4 * at_middle)
    return fit, law
