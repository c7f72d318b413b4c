"""A value beside its null: how far outside the band of blind updates it lies, and in which words that is said."""

from collections.abc import Mapping, Sequence

import numpy as np
import scipy.stats

# Nulls of these metrics are drawn a few times a matrix (`Panel.rank_draws`): their bands are prediction intervals of Student's
# t with as few degrees of freedom; those of the others come from closed forms and are taken as normal.
DRAWN = ("weight.rotation.", "weight.rank.", "weight.spectral")
DRAWS = 4
_EXACT = 1e-9  # a null without spread is missed by more than this share of it


def excess(row: Mapping) -> float:
    """(value - null) / half width of the band on that side: within [-1, 1] inside the 95 % band of blind updates.

    NaN where a row has no band. A band without width holds its null alone: 0 there, infinite beside it.
    """
    value, null, lo, hi = (np.nan if row[key] is None else row[key] for key in ("value", "null_value", "null_lo", "null_hi"))
    away = value - null
    half = hi - null if away > 0 else null - lo
    if not np.isfinite([away, half]).all():
        return np.nan
    if half <= 0 or abs(away) <= _EXACT * abs(null):
        return 0.0 if abs(away) <= _EXACT * max(abs(null), 1e-300) else float(np.copysign(np.inf, away))
    return float(away / half)


def pooled(rows: Sequence[Mapping]) -> dict[str, float]:
    """Mean value and null of several rows, with the mean of their bands: never narrower than that of the mean, however the
    rows depend on each other (a standard deviation of a mean is at most the mean of the standard deviations)."""
    return {key: float(np.mean([np.nan if row[key] is None else row[key] for row in rows]))
            for key in ("value", "null_value", "null_lo", "null_hi")}


def unresolved(row: Mapping) -> bool:
    """Whether a value lies below what storage rounding alone reads."""
    return row["noise_floor"] is not None and abs(row["value"]) < row["noise_floor"]


def needed(metric: str, tests: int) -> float:
    """The excess that one of `tests` simultaneous comparisons has to show at 5 % in all (Bonferroni), two-sided."""
    law = scipy.stats.t(DRAWS - 1) if metric.startswith(DRAWN) else scipy.stats.norm
    return float(law.isf(0.025 / max(tests, 1)) / law.isf(0.025))


def place(row: Mapping) -> str:
    """Where a value lies: "below its null band", "inside its null band", "above its null band"; "no null" without one.

    >>> place({"value": 3.0, "null_value": 1.0, "null_lo": 0.5, "null_hi": 1.5})
    'above its null band'
    """
    beyond = excess(row)
    if np.isnan(beyond):
        return "no null"
    return "inside its null band" if abs(beyond) <= 1 else f"{'above' if beyond > 0 else 'below'} its null band"
