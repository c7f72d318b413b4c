"""Coherence and noise scale from (S1, S2, m), with delete-one-example jackknife intervals and rounding bounds. Host side.

    alpha      plug-in S1 / (m S2); unbiased pairs (S1 - S2) / ((m - 1) S2)              arXiv:2203.10036, 2008.01217
    m-coherence  m alpha: plug-in S1 / S2, 1 for orthogonal gradients; unbiased, 0 for orthogonal ones
    |G|^2      of the expected gradient, unbiased: (S1 - S2) / (m (m - 1))               arXiv:1812.06162
    tr Sigma   of the per-example covariance, unbiased: (S2 - S1 / m) / (m - 1)
    B_simple   tr Sigma / |G|^2 = 1 / alpha_unbiased - 1

All are float64 numpy on arrays of any shape; the examples of a jackknife are the last axis. With chunks of k examples the
same sums describe chunk gradients, and tr Sigma and B_simple are put back on single examples (times 1/k and k on means).

Neither coherence paper names an unbiased estimator: the pair form is *reconstructed* from their definition (z and z'
drawn independently). It is a ratio of two unbiased estimates, hence only consistent, and may be negative.

Legend: m examples (or M chunks) on the last axis.
"""

from __future__ import annotations

import numpy as np
import scipy.stats

from jaxpost import stats
from jaxpost.probes.rows.estimates import Estimate

UNIT_ROUNDOFF = 2.0**-24  # of float32
SINGLE = "one gradient has no pair"
NO_GRADIENT = "every gradient is zero, or its square is below float32"
FEW = "no interval below three units"

# statistic -> value at orthogonal gradients, of m; None where that is not a number
ORTHOGONAL = {
    "alpha.plug_in": lambda m: 1 / m,
    "alpha.unbiased": lambda m: 0.0,
    "m_coherence.plug_in": lambda m: 1.0,
    "m_coherence.unbiased": lambda m: 0.0,
    "mean_norm2": lambda m: 0.0,
}


NAMES = ("alpha.plug_in", "alpha.unbiased", "m_coherence.plug_in", "m_coherence.unbiased", "mean_norm2", "noise_trace",
         "noise_scale")  # of `point`


def ratio(a, b):
    """a / b, NaN where b is 0."""
    a, b = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b != 0)


def point(s1, s2, m: int, chunk: int = 1) -> dict[str, np.ndarray]:
    """Every statistic of (S1, S2, m); NaN where it does not exist (m = 1, or S2 = 0).

    Args: s1, s2: float arrays; m: gradients that were summed; chunk: examples in each of them (sums, not means).
    """
    s1, s2 = np.asarray(s1, np.float64), np.asarray(s2, np.float64)
    s1_mean, s2_mean = s1 / chunk**2, s2 / chunk**2  # of chunk means
    pairs = np.full(np.shape(s1), np.nan) if m < 2 else (s1_mean - s2_mean) / (m * (m - 1))
    trace = np.full(np.shape(s1), np.nan) if m < 2 else (s2_mean - s1_mean / m) / (m - 1) * chunk
    alpha = ratio(pairs * m, s2_mean)
    return {
        "alpha.plug_in": ratio(s1, m * s2),
        "alpha.unbiased": alpha,
        "m_coherence.plug_in": ratio(s1, s2),
        "m_coherence.unbiased": m * alpha,
        "mean_norm2": pairs,
        "noise_trace": trace,
        "noise_scale": ratio(trace, pairs),
    }


def alpha_of_one(alpha_k, k: int):
    """Coherence of single examples from that of means over k independent ones: alpha_k / (k - (k - 1) alpha_k).

    The inverse of alpha_k = k a / (1 + (k - 1) a), arXiv:2008.01217.
    """
    alpha_k = np.asarray(alpha_k, np.float64)
    return ratio(alpha_k, k - (k - 1) * alpha_k)


def jackknife(values_m, value, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """(lo, hi) around `value` from its delete-one values: t with m - 1 degrees of freedom; NaN below three examples."""
    m = values_m.shape[-1]
    if m < 3:
        return np.full(value.shape, np.nan), np.full(value.shape, np.nan)
    error = np.sqrt((m - 1) / m * ((values_m - values_m.mean(-1, keepdims=True)) ** 2).sum(-1))
    half = scipy.stats.t.ppf(0.5 + level / 2, m - 1) * error
    return value - half, value + half


def without_one(s1, square_m, dot_m) -> tuple[np.ndarray, np.ndarray]:
    """(S1, S2) without each example in turn, [..., m]: S1 - 2 d_i + q_i and S2 - q_i."""
    square_m = np.asarray(square_m, np.float64)
    s1_m = np.asarray(s1, np.float64)[..., None] - 2 * np.asarray(dot_m, np.float64) + square_m
    return s1_m, square_m.sum(-1, keepdims=True) - square_m


def rounding(s1, s2, m: int, additions) -> tuple[np.ndarray, np.ndarray]:
    """A priori bounds on the rounding of float32 S1 and S2 (gradients taken as computed).

    Summing m gradients errs by at most (m - 1) u sum_i |g_i| <= (m - 1) u sqrt(m S2) in norm; a dot of two-level depth
    `additions` by `additions + 1` units of its terms' size.
    """
    s1, s2 = np.maximum(np.asarray(s1, np.float64), 0.0), np.asarray(s2, np.float64)
    off = (m - 1) * UNIT_ROUNDOFF * np.sqrt(m * s2)
    depth = (np.asarray(additions, np.float64) + 1) * UNIT_ROUNDOFF
    return 2 * np.sqrt(s1) * off + off**2 + depth * s1, depth * s2


def estimates(s1, square_m, dot_m=None, *, additions=0, chunk: int = 1) -> dict[str, Estimate]:
    """Every statistic of `point` and both sums, with interval, rounding bound and status.

    Args:
      s1: float[...]; square_m: q_i, float[..., m]; dot_m: d_i, or None for no intervals.
      additions: depth of the float32 sums behind them (`gradients.sums.additions`), of the largest tensor.
      chunk: examples behind each gradient.

    The status is "absent" for one example, "degenerate" where every gradient is zero, "nan" where one is not finite,
    "unresolved" where the interval of the denominator (S2 / m, or |G|^2 of B_simple) holds 0. The interval of B_simple is
    that of alpha mapped through 1 / alpha - 1, open (absent) where it leaves the positive side.
    """
    s1, square_m = np.asarray(s1, np.float64), np.asarray(square_m, np.float64)
    m, s2 = square_m.shape[-1], square_m.sum(-1)
    e1, e2 = rounding(s1, s2, m, additions)
    values = point(s1, s2, m, chunk)
    bounds = {name: (np.full(s1.shape, np.nan),) * 2 for name in values}
    mean_square = stats.t_interval(square_m)
    sum_bounds = (np.full(s1.shape, np.nan),) * 2
    if dot_m is not None and m > 2:
        s1_m, s2_m = without_one(s1, square_m, dot_m)
        dropped = point(s1_m, s2_m, m - 1, chunk)
        bounds = {name: jackknife(dropped[name], values[name]) for name in values}
        for name in ("plug_in", "unbiased"):  # m alpha at this m: its delete-one values are of m - 1 examples
            bounds[f"m_coherence.{name}"] = tuple(m * x for x in bounds[f"alpha.{name}"])
        sum_bounds = tuple(m**2 * x for x in jackknife(s1_m / (m - 1) ** 2, s1 / m**2))
    out = _all_judged(values, bounds, _propagated(values, s2, e1, e2, m, chunk), s2, m, m, (mean_square.lo <= 0) & (m > 1))
    out["sum_norm2"] = _judged(s1, *sum_bounds, e1, s2, m, m, False, False)
    out["norm2_sum"] = _judged(s2, m * mean_square.lo, m * mean_square.hi, e2, s2, m, m, False, False)
    return out


def over_steps(s1_n, s2_n, m: int, *, additions=0, chunk: int = 1) -> dict[str, Estimate]:
    """Every statistic of `point` and both sums from the mean sums of n steps: a ratio of averages, never their average.

    Args:
      s1_n, s2_n: of each step, float[..., n]; m: gradients in each step; additions, chunk: as in `estimates`.

    The interval is the delete-one-step jackknife: neighbouring steps are not independent, so that it is too short where the
    sums drift together.
    """
    s1_n, s2_n = np.asarray(s1_n, np.float64), np.asarray(s2_n, np.float64)
    n, s1, s2 = s1_n.shape[-1], s1_n.mean(-1), s2_n.mean(-1)
    values, one, two = point(s1, s2, m, chunk), stats.t_interval(s1_n), stats.t_interval(s2_n)
    bounds = {name: (np.full(s1.shape, np.nan),) * 2 for name in values}
    if n > 2:
        dropped = point(*((x.sum(-1, keepdims=True) - x) / (n - 1) for x in (s1_n, s2_n)), m, chunk)
        bounds = {name: jackknife(dropped[name], values[name]) for name in values}
    e1, e2 = rounding(s1, s2, m, additions)
    out = _all_judged(values, bounds, _propagated(values, s2, e1, e2, m, chunk), s2, m, n, two.lo <= 0)
    out["sum_norm2"] = _judged(s1, one.lo, one.hi, e1, s2, m, n, False, False)
    out["norm2_sum"] = _judged(s2, two.lo, two.hi, e2, s2, m, n, False, False)
    return out


def _all_judged(values, bounds, errors, s2, m, units, square_holds_zero) -> dict[str, Estimate]:
    bounds["noise_scale"] = _reciprocal(*bounds["alpha.unbiased"])
    lo, hi = bounds["mean_norm2"]
    out = {}
    for name, value in values.items():
        holds_zero = square_holds_zero if name.startswith(("alpha", "m_coherence")) else False
        if name == "noise_scale":
            holds_zero = np.where(np.isnan(lo), values["mean_norm2"] <= 0, (lo <= 0) & (hi >= 0))
        needs_pair = name not in ("alpha.plug_in", "m_coherence.plug_in") or m < 2
        out[name] = _judged(value, *bounds[name], errors[name], s2, m, units, needs_pair, holds_zero)
    return out


def _reciprocal(lo, hi):
    """The interval of 1 / alpha - 1, decreasing on the positive side."""
    def mapped(x):
        return np.where(np.asarray(x) > 0, ratio(1.0, x) - 1, np.nan)

    return mapped(hi), mapped(lo)


def _propagated(values, s2, e1, e2, m, chunk):
    """First-order rounding bound of each statistic."""
    pairs = (e1 + e2) / max(m * (m - 1), 1) / chunk**2
    trace = (e2 + e1 / m) / max(m - 1, 1) / chunk
    coherence = ratio(e1, s2) + np.abs(values["m_coherence.plug_in"]) * ratio(e2, s2)
    alpha = coherence / max(m - 1, 1)
    noise = ratio(trace + np.abs(values["noise_scale"]) * pairs, np.abs(values["mean_norm2"]))
    return {"alpha.plug_in": coherence / m, "alpha.unbiased": alpha, "m_coherence.plug_in": coherence,
            "m_coherence.unbiased": m * alpha, "mean_norm2": pairs, "noise_trace": trace, "noise_scale": noise}


def _judged(value, lo, hi, error, s2, m, units, needs_pair, holds_zero) -> Estimate:
    value, lo, hi, error, s2, holds_zero = np.broadcast_arrays(value, lo, hi, error, s2, holds_zero)
    status, reason = np.full(value.shape, "ok", object), np.full(value.shape, None, object)
    few = np.isnan(lo) & np.isnan(hi)
    reason[few] = FEW if units < 3 else "no interval"
    for mark, where, why in (("unresolved", holds_zero, "the interval of the denominator holds 0"),
                             ("degenerate", s2 == 0, NO_GRADIENT),
                             ("absent", np.full(value.shape, needs_pair and m < 2), SINGLE),
                             ("nan", ~np.isfinite(s2), "a gradient is not finite")):
        status[where], reason[where] = mark, why
    gone = ~np.isin(status, ("ok", "unresolved"))
    return Estimate(*(np.where(gone, np.nan, x) for x in (value, lo, hi, error)), status, reason)


def quantile(x_m, q: float, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(value, lo, hi) of a quantile over the last axis: linear interpolation; distribution-free order statistics.

    P(x_(r) < quantile <= x_(s)) >= level with ranks from the binomial law of m and q; an end that the sample is too
    small for is NaN.
    """
    x_m = np.sort(np.asarray(x_m, np.float64), axis=-1)
    m, law = x_m.shape[-1], scipy.stats.binom(x_m.shape[-1], q)
    low, high = int(law.ppf((1 - level) / 2)), int(law.ppf((1 + level) / 2)) + 1  # 1-based ranks
    nothing = np.full(x_m.shape[:-1], np.nan)
    return (np.quantile(x_m, q, axis=-1), x_m[..., low - 1] if low >= 1 else nothing,
            x_m[..., high - 1] if high <= m else nothing)


def gsnr_at_zero_mean(m: int) -> float:
    """Expected GSNR of m Gaussian gradients of mean zero: E[mean^2 / var] = (m - 1) / ((m - 3) m); NaN for m <= 3."""
    return (m - 1) / ((m - 3) * m) if m > 3 else float("nan")
