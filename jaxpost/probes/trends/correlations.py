"""Do two trajectories of one run move together beyond what training time explains? Correlations with their nulls.

Almost any two statistics of a training run correlate: both drift with time. So a correlation comes in three readings:

  plain       r(x, y): levels, time and all
  given_time  partial correlation: r of the residuals of x and y on (1, log(1 + t))
  change      r of first differences on the grid: do they move in the same interval?

Pearson's, or Spearman's: x, y and t (or the differences) are ranked first, so that given_time takes out the rank of the step,
whatever the shape of the clock. The null is a circular block permutation: points of a trajectory are not exchangeable, blocks
of neighbours more nearly so. What is left of y is rotated by a random shift and cut into blocks, the blocks are shuffled, and
time is taken out again (Freedman and Lane):

    p = (1 + #{|r*| >= |r|}) / (1 + draws)                      two-sided

No permutation repairs a null that lacks the trend: independent drifting curves are "significant" in the plain reading nearly
always, and Pearson's given_time wherever log t does not straighten both (half the time for steps of random place and width).
Spearman's given_time and the change reading keep close to their level on such curves unless they are smooth and noiseless. A
second null needs no exchangeability: `across_runs` correlates x of one run with y of the others. What a run shares with
another run's outcome is the common course of training.

Differs from arXiv:2506.21551 in: it prints plain correlations over the 4 or 5 checkpoints after accuracy began to rise, without
a null; readings and nulls are ours (*reconstructed*).

Legend: P points of a trajectory, n of them (or of their differences) in a correlation, S runs (seeds), M draws.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.stats

from jaxpost import stats

METHODS = ("pearson", "spearman")
READINGS = ("plain", "given_time", "change")
FEWEST = 6  # points below which no correlation is given
_ROUNDING = 1e-9  # a residual below this share of its curve
_LARGEST_Z = 7.0  # Fisher's z of a correlation that rounds to one


class Trend(NamedTuple):
    """One correlation. `value`, `p` and the 95 % range of the null are NaN unless `status` is ok."""

    value: float
    p: float
    null_mean: float
    null_lo: float
    null_hi: float
    n: int
    status: str
    reason: str | None


def correlation(step_P, x_P, y_P, *, method: str = "pearson", reading: str = "plain", block: int | None = None,
                draws: int = 999, seed: int = 0) -> Trend:
    """One correlation of two trajectories with its block-permutation null.

    Args:
      step_P: optimizer steps, ascending from 0 or more.
      x_P, y_P: the statistics at those steps.
      method: one of METHODS; reading: one of READINGS.
      block: points a block; None: a quarter of them. draws: M; seed: of the permutations.

    Returns: Trend; status absent for fewer than FEWEST points or a value that is not finite, degenerate where a side is
      constant or time explains all of it (two strictly monotone curves, given the rank of time).
    Raises: ValueError for unknown names, unequal lengths, steps that do not ascend, or a setting below 1.
    """
    if draws < 1:
        raise ValueError(f"trends: draws={draws}; expected at least 1")
    left_2xn, control, why = _left(step_P, x_P, y_P, method, reading)
    n = left_2xn.shape[1]
    if why is not None:
        return Trend(*[np.nan] * 5, n, *why)
    value = float(_cosine(left_2xn[0], left_2xn[1:])[0])
    orders_Mxn = block_orders(n, -(-n // 4) if block is None else block, draws, np.random.default_rng(seed))
    null_M = _cosine(left_2xn[0], _residual(left_2xn[1][orders_Mxn], control))
    p = (1 + np.sum(np.abs(null_M) >= abs(value) * (1 - 1e-12))) / (1 + draws)
    lo, hi = np.quantile(null_M, (0.025, 0.975))
    return Trend(value, float(p), float(null_M.mean()), float(lo), float(hi), n, "ok", None)


def block_orders(points: int, block: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """int[M, P]: circular block permutations. The points are rotated by a random shift, cut into blocks (the last may be
    shorter) and the blocks shuffled; with block >= points only the rotation is left.

    Raises: ValueError for a block below 1.
    """
    if block < 1:
        raise ValueError(f"trends: block={block}; a block has at least 1 point")
    pieces = [np.arange(start, min(start + block, points)) for start in range(0, points, block)]
    orders = [np.concatenate([pieces[i] for i in rng.permutation(len(pieces))]) + rng.integers(points) for _ in range(draws)]
    return np.stack(orders) % points


def across_runs(step_P, x_SxP, y_SxP, *, method: str = "pearson", reading: str = "plain") -> np.ndarray:
    """f64[S, S]: the correlation of run i's x with run j's y. The diagonal is each run's own; what is off it has the common
    course of training and nothing else in it. NaN where there is no value.
    """
    x_SxP, y_SxP = np.asarray(x_SxP, np.float64), np.asarray(y_SxP, np.float64)
    correlations = np.full((len(x_SxP), len(y_SxP)), np.nan)
    for i, x in enumerate(x_SxP):
        for j, y in enumerate(y_SxP):
            left_2xn, _, why = _left(step_P, x, y, method, reading)
            if why is None:
                correlations[i, j] = _cosine(left_2xn[0], left_2xn[1:])[0]
    return correlations


def others(r_SxS) -> np.ndarray:
    """f64[S]: mean of the off-diagonal correlations of each row that have a value, as Fisher's z and back; NaN without one."""
    r = np.where(np.eye(len(r_SxS), dtype=bool), np.nan, r_SxS)
    count = np.isfinite(r).sum(1)
    total = np.nansum(fisher(r), axis=1)
    return np.tanh(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def fisher(r) -> np.ndarray:
    """Fisher's z = atanh r, cut at 7 so that |r| = 1 stays finite."""
    with np.errstate(divide="ignore"):
        return np.clip(np.arctanh(np.asarray(r, np.float64)), -_LARGEST_Z, _LARGEST_Z)


def over_runs(r_S, level: float = 0.95) -> stats.Interval:
    """Mean correlation over runs with its t interval, taken on Fisher's z and mapped back.

    Args: r_S float[S], finite. Raises: ValueError for S = 0.
    """
    return stats.Interval(*(np.tanh(end) for end in stats.t_interval(fisher(r_S), level)))


def rising_from(y_P, share: float = 0.1) -> int:
    """The point from which y rises for good: the last one at or below first + share * (last - first). P if it never does."""
    y = np.asarray(y_P, np.float64)
    rise = y[-1] - y[0]
    return int(np.flatnonzero(y <= y[0] + share * rise)[-1]) if rise > 0 else len(y)


def _left(step_P, x_P, y_P, method: str, reading: str) -> tuple[np.ndarray, np.ndarray, tuple[str, str] | None]:
    """(both sides with time taken out [2, n], what was taken out [n, 1 or 2], status and reason where there is no value)."""
    for name, value, valid in (("method", method, METHODS), ("reading", reading, READINGS)):
        if value not in valid:
            raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(valid)}")
    step, x, y = (np.asarray(v, np.float64) for v in (step_P, x_P, y_P))
    if not step.shape == x.shape == y.shape or step.ndim != 1:
        raise ValueError(f"trends: three vectors of one length are needed; found {step.shape}, {x.shape} and {y.shape}")
    if (np.diff(step) <= 0).any() or (step < 0).any():
        raise ValueError(f"trends: steps must ascend from 0 or more; found {step}")
    sides, time = np.stack([x, y]), np.log1p(step)
    if reading == "change":
        sides, time = np.diff(sides), time[1:]
    if not np.isfinite(sides).all():
        return sides, time[:, None], ("absent", "a value is missing or not finite")
    if len(time) < FEWEST:
        return sides, time[:, None], ("absent", f"{len(time)} points; at least {FEWEST} are needed")
    if method == "spearman":
        sides, time = scipy.stats.rankdata(sides, axis=1), scipy.stats.rankdata(time)
    ones = np.ones(len(time))
    control = np.stack([ones, time], 1) if reading == "given_time" else ones[:, None]
    left = _residual(sides, control)
    for name, before, after in zip("xy", sides, left, strict=True):
        if np.linalg.norm(after) <= _ROUNDING * np.linalg.norm(before):
            constant = np.ptp(before) <= _ROUNDING * np.abs(before).max()
            return left, control, ("degenerate", f"{name} is constant" if constant else f"time explains all of {name}")
    return left, control, None


def _residual(rows_Mxn: np.ndarray, control_nxC: np.ndarray) -> np.ndarray:
    basis, _ = np.linalg.qr(control_nxC)
    return rows_Mxn - (rows_Mxn @ basis) @ basis.T


def _cosine(a_n: np.ndarray, b_Mxn: np.ndarray) -> np.ndarray:
    scale = np.linalg.norm(a_n) * np.linalg.norm(b_Mxn, axis=1)
    return np.clip(np.divide(b_Mxn @ a_n, scale, out=np.zeros(len(b_Mxn)), where=scale > 0), -1.0, 1.0)
