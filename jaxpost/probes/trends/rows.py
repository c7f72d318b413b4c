"""Rows of trend correlations: one a run and reading, with the block permutation as its null and the other runs as a second.

Legend: P points of a trajectory, S runs (seeds).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from jaxpost.probes import catalog
from jaxpost.probes.base import Metric, register
from jaxpost.probes.rows import pooling
from jaxpost.probes.trends import correlations as trends

_PAPER = "Where to find Grokking in LLM Pretraining?, arXiv:2506.21551 (readings and nulls: reconstructed)"
_NULL = "block_permutation: mean and 95 % range of circular block permutations (params block, draws) of what is left of y"
METRICS = (
    Metric("trend.correlation", "correlation of two trajectories of a run (params x, y, method, at) on the measured steps; "
           "params reading: plain, given_time (partial, given log(1 + step), or its rank), change (of first differences)", "1",
           _PAPER, f"{_NULL}; other_runs (x with y of the other runs, mean of Fisher's z) as a further row", "none", "float64"),
    Metric("trend.p", "(1 + #{|r*| >= |r|}) / (1 + draws) of trend.correlation under its block permutation, two-sided", "1",
           _PAPER, "uniform: 0.5 without a link, if blocks are exchangeable", "none", "float64"),
)
register(*METRICS)


def columns(step_P, x_SxP, y_SxP, *, x: str, y: str, window: str = "all", start_S: Sequence[int] | None = None,
            block: int | None = None, draws: int = 999, arm: str, seeds: Sequence[int], conditional_on: str | None,
            row_ids: Callable[[dict], Sequence[str]]) -> dict[str, np.ndarray]:
    """Rows of every method and reading, stored at the last step. Their params say `at`, the mark of rows that compare runs:
    with further seeds the null other_runs is another, and all of them are made anew.

    Args:
      step_P, x_SxP, y_SxP: as `trends.correlation`, of every run; a missing value is NaN.
      x, y, window: what the trajectories and the stretch (`at`) are called, for `params`.
      start_S: first point of the stretch, a run (`trends.rising_from`); None: all points.
      block, draws: of the permutations.

    Raises: ValueError as `trends.correlation`.
    """
    step, sides = np.asarray(step_P), (np.asarray(x_SxP, np.float64), np.asarray(y_SxP, np.float64))
    starts = [0] * len(seeds) if start_S is None else list(start_S)
    scopes = pooling.Scopes(np.ones((1, 0), bool), {name: np.asarray([value], object) for name, value in (
        ("granularity", "experiment"), ("tensor", None), ("module_kind", None), ("layer", None))})
    table = pooling.RowTable(scopes, seeds, {"arm": arm, "step": int(step[-1]), "conditional_on": conditional_on})
    for method in trends.METHODS:
        for reading in trends.READINGS:
            of_seeds = [trends.correlation(step[t:], sides[0][s, t:], sides[1][s, t:], method=method, reading=reading,
                                           block=block, draws=draws, seed=s) for s, t in enumerate(starts)]
            others = {t: trends.others(trends.across_runs(step[t:], sides[0][:, t:], sides[1][:, t:], method=method,
                                                          reading=reading)) for t in set(starts)}
            across = [others[t][s] for s, t in enumerate(starts)]
            params = _params(method=method, reading=reading, at=window, x=x, y=y, draws=draws,
                             block="quarter" if block is None else block)
            _add(table, of_seeds, np.asarray(across)[:, None], params)
    return table.columns(row_ids)


def _params(**values: object) -> str:
    return ";".join(f"{name}={value}" for name, value in sorted(values.items()))


def _add(table: pooling.RowTable, of_seeds: Sequence[trends.Trend], across_Sx1: np.ndarray, params: str) -> None:
    def of_each(name: str, dtype: type) -> np.ndarray:
        return np.asarray([[getattr(trend, name)] for trend in of_seeds], dtype)

    status, reason = of_each("status", object), of_each("reason", object)
    null = ("block_permutation", *(of_each(name, float) for name in ("null_mean", "null_lo", "null_hi")))
    of = table.add("trend.correlation", of_each("value", float), status, reason, null=null, params=params)
    table.add_null(of, "other_runs", across_Sx1, np.nan, np.nan)
    table.add("trend.p", of_each("p", float), status, reason, null=("uniform", 0.5, 0.025, 0.975), params=params)


catalog.add(
    __name__,
    catalog.Entry("trend", "whether two trajectories of a run move together beyond what training time explains", lane="offline",
                  where="taken of the rows of finished arms (grokking_pathways)", metrics=tuple(m.id for m in METRICS)),
    catalog.Statistic(
        "trend", "Trends of two trajectories", ("trend",),
        "Whether a statistic and an outcome move together along a run: read given_time and change, beside the same statistic "
        "of a run that cannot reach the outcome and beside the outcome of other seeds (other_runs).",
        "Any two curves that drift correlate: independent monotone curves reach |r| above .9, and a block permutation of the "
        "plain reading calls them significant. Smooth residuals of a trend that log t does not straighten correlate as well.",
        "correlations of independent monotone curves, plain and given time",
        extremes={
            "trend.correlation": ("they move together, as any two curves that drift do in the plain reading", "0: they do not"),
            "trend.p": ("permuted blocks correlate as much", "they do not"),
        }),
)
