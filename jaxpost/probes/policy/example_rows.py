"""Rows of one policy whose unit is the example of the probe batch: means with t intervals, and their statuses.

Intervals here are over examples, given the policy; those over seeds come from records.

Legend: S seeds, m examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import scipy.stats

from jaxpost import stats
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.pooling import RowTable
from jaxpost.stats import Interval

UNKNOWN = Interval(*(np.asarray(np.nan),) * 3)


def policy_table(*, arm: str, step: int, seeds: Sequence[int], conditional_on: str | None) -> RowTable:
    """A table whose only scope is the policy: statistics are arrays [S, 1]."""
    columns = {name: np.asarray([value], object) for name, value in (
        ("granularity", "policy"), ("tensor", None), ("module_kind", None), ("layer", None))}
    scopes = pooling.Scopes(np.ones((1, 1), bool), columns)
    return RowTable(scopes, seeds, {"arm": arm, "step": step, "conditional_on": conditional_on})


def of_examples(function: Callable, params: Any, examples: Any, microbatch: int) -> Any:
    """function(params, example) of every example, a microbatch at a time: leaves [m, ...] in the order of the examples."""
    rows = gradient_sums.microbatches(examples, microbatch)
    return jax.tree.map(gradient_sums.in_order, jax.lax.map(jax.vmap(lambda row: function(params, row)), rows))


def jackknife(statistic: Callable[..., np.ndarray], *x_SxM: np.ndarray) -> Interval:
    """A function of means over examples, with its delete-one-example t interval (m - 1 degrees of freedom).

    Args: statistic: of arrays of means, element-wise; x_SxM: the examples' values. Ends are NaN for one example.
    Source: Tukey 1958.
    """
    means = [np.asarray(x, np.float64).mean(-1, keepdims=True) for x in x_SxM]
    value, m = statistic(*means)[..., 0], x_SxM[0].shape[-1]
    if m < 2:
        return Interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    return delete_one(value, statistic(*((m * mean - x) / (m - 1) for mean, x in zip(means, x_SxM, strict=True))))


def delete_one(value: np.ndarray, without_SxM: np.ndarray) -> Interval:
    """The delete-one t interval of a statistic from its values without each of m > 1 units (m - 1 degrees of freedom)."""
    m = without_SxM.shape[-1]
    spread = (m - 1) * (without_SxM - without_SxM.mean(-1, keepdims=True)) + value[..., None]  # pseudo-values about the value
    half = stats.t_interval(spread)
    return Interval(value, value - (half.hi - half.value), value + (half.hi - half.value))


def over_known(x_SxM: np.ndarray) -> tuple[Interval, np.ndarray, np.ndarray]:
    """(t interval of the mean over the units that have a value, their standard error [S], how many they are [S])."""
    each = [x[np.isfinite(x)] for x in np.asarray(x_SxM, np.float64)]
    intervals = [stats.t_interval(x) if x.size else UNKNOWN for x in each]
    error = [x.std(ddof=1) / np.sqrt(x.size) if x.size > 1 else np.nan for x in each]
    return stack(intervals), np.asarray(error), np.asarray([x.size for x in each])


def stack(intervals: Sequence[Interval]) -> Interval:
    """Intervals of single seeds as one of fields [S]."""
    return Interval(*(np.asarray([getattr(one, end) for one in intervals]) for end in Interval._fields))


def welch(a_SxM: np.ndarray, b_SxM: np.ndarray) -> tuple[Interval, np.ndarray]:
    """(Welch's t interval of mean(a) - mean(b) of two samples of units, standard error [S]); ends NaN below two units each."""
    a, b = np.asarray(a_SxM, np.float64), np.asarray(b_SxM, np.float64)
    value, m = a.mean(-1) - b.mean(-1), np.asarray([a.shape[-1], b.shape[-1]])
    if m.min() < 2:
        return Interval(value, *(np.full_like(value, np.nan),) * 2), np.full_like(value, np.nan)
    part_2xS = np.stack([a.var(-1, ddof=1), b.var(-1, ddof=1)]) / m[:, None]
    error2 = part_2xS.sum(0)
    parts = (part_2xS**2 / (m[:, None] - 1)).sum(0)
    df = np.divide(error2**2, parts, out=np.full(value.shape, np.inf), where=parts > 0)
    half = scipy.stats.t.ppf(0.975, df) * np.sqrt(error2)
    return Interval(value, value - half, value + half), np.sqrt(error2)


def standard_error(x_SxM: np.ndarray) -> np.ndarray:
    """Standard error of the mean over examples, NaN for one: [S, 1]."""
    m = x_SxM.shape[-1]
    return x_SxM.std(-1, ddof=1, keepdims=True) / np.sqrt(m) if m > 1 else np.full((*x_SxM.shape[:-1], 1), np.nan)


def add(table: RowTable, metric: str, interval: Interval, m: int, *, null=None, floor=None, broken: str = "not finite",
        status: np.ndarray | None = None, reason: np.ndarray | None = None, unit: str = "example", **key) -> int:
    """Append one statistic with an interval over m units (examples, prompts); returns its number, for `add_null`.

    Args:
      interval: fields [S].
      null: (kind, value, lo, hi), the last three [S], [S, 1], numbers or None.
      floor: [S], [S, 1], a number or None.
      broken: reason of a value that is not finite; status, reason: object[S], to say it otherwise.
    """
    def column(x):
        return None if x is None else np.reshape(x, (-1, 1)) if np.ndim(x) else x

    finite = np.isfinite(interval.value)
    status = np.where(finite, "ok", "nan").astype(object) if status is None else status
    reason = np.where(finite, None, broken).astype(object) if reason is None else reason
    null = None if null is None else (null[0], *map(column, null[1:]))
    return table.add(metric, column(interval.value), column(status), column(reason), null=null, floor=column(floor),
                     ci_lo=column(interval.lo), ci_hi=column(interval.hi), unit=unit, n_units=m, **key)
