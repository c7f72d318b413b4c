"""One routing statistic of one policy: its value in every layer and the whole model, with interval, nulls and floors.

Legend: L layers with a router, C = L + 1 scopes (the layers, then the whole model), N samples, D draws of a null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxpost import stats
from jaxpost.probes.gradients import statistics as gradient_statistics
from jaxpost.probes.rows.pooling import prediction_band


class Null(NamedTuple):
    """A null model's value and range, numbers or arrays [C]; NaN ends where it has none."""

    kind: str
    value: Any
    lo: Any = np.nan
    hi: Any = np.nan


@dataclass(frozen=True)
class Estimate:
    """Arrays [C], or numbers of the whole model alone (`whole`)."""

    metric: str
    value: Any
    lo: Any = np.nan
    hi: Any = np.nan
    nulls: tuple[Null, ...] = ()  # the primary first
    floor: Any = np.nan
    num_err: Any = np.nan
    params: Mapping[str, object] = field(default_factory=dict)
    whole: bool = False
    missing: tuple[str, str] | None = None  # (status, reason) of a value that is NaN by what was measured
    note: str | None = None  # said beside a value
    n: int | None = None  # samples behind it; None: all that are measured


def pooled(x_L: np.ndarray, how: str = "mean") -> np.ndarray:
    """Layers and, after them, their mean or sum: [..., L] -> [..., C]."""
    x = np.asarray(x_L, np.float64)
    return np.concatenate([x, getattr(x, how)(-1, keepdims=True)], axis=-1)


def jackknifed(value: np.ndarray, without_xN: np.ndarray) -> dict[str, np.ndarray]:
    """`value`, `lo`, `hi` and `floor` (the standard error) of a Estimate from delete-one-sample values on the last axis."""
    value, n = np.asarray(value, np.float64), without_xN.shape[-1]
    lo, hi = gradient_statistics.jackknife(without_xN, value)
    error = np.sqrt((n - 1) / n) * np.sqrt(((without_xN - without_xN.mean(-1, keepdims=True)) ** 2).sum(-1))
    return {"value": value, "lo": lo, "hi": hi, "floor": error if n > 2 else np.full(value.shape, np.nan)}


def averaged(x_N: np.ndarray) -> dict[str, np.ndarray]:
    """`value`, `lo`, `hi` and `floor` (standard error) of a mean over samples, the first axis: [N] or [N, C]."""
    x = np.moveaxis(np.asarray(x_N, np.float64), 0, -1)
    n = x.shape[-1]
    interval = stats.t_interval(x)
    error = x.std(-1, ddof=1) / np.sqrt(n) if n > 1 else np.full(x.shape[:-1], np.nan)
    return {"value": interval.value, "lo": interval.lo, "hi": interval.hi, "floor": error}


def drawn(kind: str, x_DxC: np.ndarray, quantiles: bool = False) -> Null:
    """A null from draws on the first axis: mean and range, or mean and 95 % quantiles."""
    x = np.moveaxis(np.asarray(x_DxC, np.float64), 0, -1)
    if not quantiles:
        return Null(kind, *prediction_band(x))
    return Null(kind, x.mean(-1), *np.quantile(x, (0.025, 0.975), axis=-1))
