"""Rows of trends: routing on training data against test accuracy, with nulls and against a control.

The control arm never generalises, so its routing is correlated with the accuracy of the arm of the same seed that does: what it
shows there is the course of training alone.
"""

import dataclasses
from collections.abc import Sequence

import pyarrow as pa

from experiments.harness.claims.curves import aligned, curves
from experiments.harness.claims.statistics import WINDOWS, window_start
from experiments.harness.errors import UserError
from experiments.harness.measure import concatenate
from jaxpost.probes.trends import rows as trend_rows
from jaxpost.records import row_ids

LEADER, CONTROL = "moe", "moe-no-decay-random"
# name in rows -> where the trajectory is: metric, and what its params must say
CURVES = {
    "distance": ("pathway.distance", {"over": "all"}),
    "distance_memorised": ("pathway.distance", {"over": "memorised"}),
    "cosine": ("pathway.cosine", {"over": "all"}),
    "cosine_memorised": ("pathway.cosine", {"over": "memorised"}),
    "entropy": ("router.entropy", {}),
    "load_cv": ("router.load_cv", {}),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Points a block and draws of the permutations. Raises: UserError."""

    block: int
    draws: int

    def __post_init__(self):
        for name in ("block", "draws"):
            if getattr(self, name) < 1:
                raise UserError(f"trend.{name}={getattr(self, name)}: at least 1")


def rows(table: pa.Table, arm: str, arms: Sequence[str], settings: Settings) -> dict:
    """Columns of trend rows of an arm, of every curve it has: with its own test accuracy, and the control's with LEADER's."""
    parts, outcomes = [], [arm, LEADER] if arm == CONTROL and LEADER in arms else [arm]
    for outcome in outcomes:
        accuracy = curves(table, {"metric": "fit.accuracy", "split": "id", "arm": outcome})
        for name, (metric, params) in CURVES.items():
            runs, step_P, x_SxP, y_SxP = aligned(curves(table, {"metric": metric, "params": params, "arm": arm}), accuracy)
            if not runs:
                continue
            for window in WINDOWS:
                start_S = [window_start(x_P, y_P, window) for x_P, y_P in zip(x_SxP, y_SxP, strict=True)]
                parts.append(trend_rows.columns(
                    step_P, x_SxP, y_SxP, x=name, y=f"test_accuracy_{outcome}", window=window, start_S=start_S,
                    block=settings.block, draws=settings.draws, arm=arm, seeds=[seed for _, seed in runs], conditional_on=None,
                    row_ids=row_ids))
    return concatenate(*parts) if parts else {}
