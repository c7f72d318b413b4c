"""Where along a run a claim is read: one number of a curve, and of its null."""

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from experiments.harness.claims.curves import Curve, Run, aligned, curves, values
from jaxpost.probes import trends

MATCHED = ("matched_norm", "matched_kl", "matched_success")
WINDOWS = ("all", "rising")  # of a trend: every step with a value, or from where the other curve rises for good


def mean(claim: Mapping, curve: Curve) -> float:
    """The mean over the measured steps after the first update."""
    del claim
    return float(np.mean(curve.value[curve.step > 0])) if (curve.step > 0).any() else np.nan


def area(claim: Mapping, curve: Curve) -> float:
    """The area under the curve over its steps, by trapezoids, divided by their span: the average over training."""
    del claim
    return float(np.trapezoid(curve.value, curve.step) / np.ptp(curve.step)) if len(curve.step) > 1 else np.nan


def half_change(claim: Mapping, curve: Curve) -> float:
    """The step of half of its change for good (`trends.half_change`)."""
    del claim
    return trends.half_change(*_from_one(curve))


def reaches(claim: Mapping, curve: Curve) -> float:
    """The first measured step from 1 on at which it is at least the claim's `level`."""
    return trends.first_reaching(*_from_one(curve), claim["level"])


ALONG: dict[str, Callable[[Mapping, Curve], float]] = {"mean": mean, "area": area, "half_change": half_change,
                                                       "reaches": reaches}
EVENTS = ("half_change", "reaches")  # a run in which they do not happen has no value, and may not be left out
PLACES = ("final", *MATCHED, *ALONG, "trend")


def of(term: Mapping, table: pa.Table, last: Mapping[str, int]) -> dict[Run, float]:
    """{run: number} of a term: of `term["arm"]`, where `term["at"]` says; minus the same of its null where it is an excess.

    Args:
      last: arm -> its last step.
    """
    scale = SCALES[term["scale"]]
    excess = term["excess"]
    if term["at"] == "trend":
        own, others = _trends(term, table)
        return {run: scale(r) - scale(others[run]) if excess else scale(r) for run, r in own.items()}
    value = _read(term, table, last, term.get("column", "value"))
    null = _read(term, table, last, "null_value") if excess else dict.fromkeys(value)
    return {run: scale(x) - scale(null[run]) if excess else scale(x) for run, x in value.items() if run in null}


SCALES: dict[str, Callable] = {"plain": float, "log": lambda x: float(np.log(x)) if x > 0 else np.nan,
                               "fisher": lambda r: float(trends.fisher(r))}


def _read(term: Mapping, table: pa.Table, last: Mapping[str, int], column: str) -> dict[Run, float]:
    """{run: number} of one column; of an event NaN where it did not happen, else without the runs that have no value."""
    if term["at"] in ("final", *MATCHED):
        return values(table, term, last[term["arm"]] if term["at"] == "final" else None, column)
    by_run = curves(table, term, column)
    if after := term.get("after"):
        marks = curves(table, {"arm": term["arm"], **after})
        by_run = {run: _after(curve, trends.first_reaching(*_from_one(marks[run]), after["level"]))
                  for run, curve in by_run.items() if run in marks}
    read = {run: ALONG[term["at"]](term, curve) for run, curve in by_run.items()}
    return read if term["at"] in EVENTS else {run: x for run, x in read.items() if np.isfinite(x)}


def _from_one(curve: Curve) -> Curve:
    """The curve from step 1 on, for a logarithmic axis."""
    return Curve(curve.step[curve.step >= 1], curve.value[curve.step >= 1])


def _after(curve: Curve, start: float) -> Curve:
    """The curve from a step on; empty where the step is not known."""
    return Curve(curve.step[curve.step >= start], curve.value[curve.step >= start])


def _trends(term: Mapping, table: pa.Table) -> tuple[dict[Run, float], dict[Run, float]]:
    """({run: correlation of its curve with its own other curve}, {run: the same with those of the other runs})."""
    runs, step_P, x_SxP, y_SxP = aligned(curves(table, term), curves(table, {"arm": term["arm"], **term["against"]}))
    own, others = {}, {}
    for s, run in enumerate(runs):
        t = window_start(x_SxP[s], y_SxP[s], term.get("window", "all"))
        r_SxS = trends.across_runs(step_P[t:], x_SxP[:, t:], y_SxP[:, t:], method=term.get("method", "spearman"),
                                   reading=term.get("reading", "given_time"))
        own[run], others[run] = float(r_SxS[s, s]), float(trends.others(r_SxS)[s])
    return own, others


def window_start(x_P: np.ndarray, y_P: np.ndarray, window: str) -> int:
    """The first point of a window: where x has a value from (a statistic may begin late), and where y rises."""
    missing = np.flatnonzero(~np.isfinite(x_P))
    first = int(missing[-1]) + 1 if len(missing) else 0
    return first if window == "all" else max(first, trends.rising_from(y_P))
