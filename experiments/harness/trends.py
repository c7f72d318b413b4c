"""Rows of trends: curves of a run against an outcome of it, with nulls and against a control, as a config's section says.

    c.trend = ConfigDict({
        "outcome": {"metric": "fit.accuracy", "split": "id", "name": "test_accuracy"},
        "curves": {"entropy": {"metric": "router.entropy"}},   # name in the rows -> metric, and what its params must say
        "borrowed": {"random-labels": "moe"},   # an arm whose curves are read against another arm's outcome as well
        "block": 6, "draws": 999})              # points a block and draws of the permutations

A control that cannot learn borrows the outcome of the arm that can: what its curves show there, seed by seed, is the course of
training alone.
"""

from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

from experiments.harness.claims.curves import aligned, curves
from experiments.harness.claims.statistics import WINDOWS, window_start
from experiments.harness.errors import UserError
from experiments.harness.measure import concatenate
from jaxpost.lookup import nearest
from jaxpost.probes.trends import rows as trend_rows
from jaxpost.records import row_ids

KEYS = ("outcome", "curves", "borrowed", "block", "draws")


def check(section: Mapping, arms: Sequence[str], metrics: Collection[str], splits: Collection[str]) -> None:
    """Refuse a section that says nothing of an outcome, a curve that is not measured, or an arm that does not exist.

    Args:
      arms: of the config; metrics, splits: what is measured, and on what.

    Raises:
      UserError.
    """
    if not section:
        return
    for key in section:
        if key not in KEYS:
            raise UserError(f"config key 'trend.{key}' is not known{nearest(key, KEYS)}")
    if missing := [key for key in ("outcome", "curves") if key not in section]:
        raise UserError(f"trend.{missing[0]} is missing; a trend is of curves against an outcome")
    named = {"outcome": section["outcome"], **{f"curves.{name}": curve for name, curve in section["curves"].items()}}
    for name, curve in named.items():
        if (metric := curve.get("metric")) not in metrics:
            raise UserError(f"trend.{name}: metric {metric!r} is not measured{nearest(metric, metrics)}")
        if curve.get("split") and curve["split"] not in splits:
            raise UserError(f"trend.{name}: split {curve['split']!r} is not measured{nearest(curve['split'], splits)}")
    for key in ("block", "draws"):
        if section.get(key, 1) < 1:
            raise UserError(f"trend.{key}={section[key]}: at least 1")
    for arm in (name for pair in section.get("borrowed", {}).items() for name in pair):
        if arm not in arms:
            raise UserError(f"trend.borrowed: arm {arm!r} is not known{nearest(arm, arms)}")


def rows(section: Mapping, table: pa.Table, arm: str, arms: Sequence[str], conditional_on: str | None = None) -> dict:
    """Columns of the trends of an arm, of every curve it has, with its own outcome and the one it borrows; {} without a curve.

    Args:
      table: rows of all seeds, of one base; arms: that run. conditional_on: digest of the base.
    """
    outcome, borrowed = dict(section["outcome"]), section.get("borrowed", {}).get(arm)
    name_of_outcome = outcome.pop("name", outcome["metric"])
    parts = []
    for owner in [arm, borrowed] if borrowed in arms else [arm]:
        y = curves(table, {**outcome, "arm": owner})
        for name, curve in section["curves"].items():
            runs, step_P, x_SxP, y_SxP = aligned(curves(table, {**curve, "arm": arm}), y)
            if not runs:
                continue
            for window in WINDOWS:
                start_S = [window_start(x_P, y_P, window) for x_P, y_P in zip(x_SxP, y_SxP, strict=True)]
                parts.append(trend_rows.columns(
                    step_P, x_SxP, y_SxP, x=name, y=f"{name_of_outcome}_{owner}", window=window, start_S=start_S,
                    block=section.get("block", 6), draws=section.get("draws", 999), arm=arm, seeds=[seed for _, seed in runs],
                    conditional_on=conditional_on, row_ids=row_ids))
    return concatenate(*parts) if parts else {}
