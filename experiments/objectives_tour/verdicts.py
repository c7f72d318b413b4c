"""What a tour says of a row of the table: the rule that was fixed before the run, and the numbers it is applied to."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from experiments.harness.claims import values
from experiments.objectives_tour.rows import Row
from jaxpost import stats
from jaxpost.records import select
from jaxpost.records.drawing.changes import KIND, METRIC, SPLIT

VERDICTS = ("improved", "held", "lost", "undecided", "diverged", "not trained")
RULE = ("Success after minus before, paired over seeds, with its 95% t interval [lo, hi]: improved if lo > {improved:g}; held "
        "if not improved and lo > -{held:g}; lost if not held and hi < 0; else undecided. Diverged if any seed's loss left the "
        "finite numbers.")


def rule(interval: stats.Interval, improved: float, held: float) -> str:
    """The first four of VERDICTS, as RULE says; without an interval nothing is decided."""
    if stats.verdict(interval, "greater", improved) == "supported":
        return "improved"
    if stats.verdict(stats.Interval(*(x + held for x in interval)), "greater", 0.0) == "supported":
        return "held"
    return "lost" if stats.verdict(interval, "less", 0.0) == "supported" else "undecided"


def claims(rows: Sequence[Row], margins) -> list[dict]:
    """One exploratory claim a row, for the manifest before the run; the rule and its margins are part of each."""
    stated = RULE.format(improved=margins.improved, held=margins.held)
    return [{"id": row.name, "primary": False, "kind": KIND, "metric": METRIC, "split": SPLIT, "at": "final",
             "statement": f"Training with {row.name} improves success on the new task.", "arms": (row.name, "base"),
             "direction": "greater", "threshold": margins.improved, "equivalence_margin": margins.held,
             "rule": stated, "family": row.objective.family, "paper": row.objective.paper} for row in rows]


def judge(stated: Sequence[Mapping], table: pa.Table, steps: int, untrained: Mapping[str, str]) -> list[dict]:
    """Results for `records.finish`, in the order of the claims.

    Args:
      stated: of `claims`.
      table: all rows of role "seed".
      steps: the last step.
      untrained: row -> why it was not trained.
    """
    before = values(table, {"metric": METRIC, "arm": "base", "split": SPLIT}, 0)
    return [_judge(claim, table, steps, before, untrained) for claim in stated]


def _judge(claim: Mapping, table: pa.Table, steps: int, before: Mapping, untrained: Mapping[str, str]) -> dict:
    name = claim["id"]
    result = {**claim, "contrast": f"{METRIC} ({SPLIT}), after {steps} steps - before", "p": np.nan, "estimate": np.nan,
              "ci_lo": np.nan, "ci_hi": np.nan, "n_units": 0, "verdict": "not trained", "note": untrained.get(name, "")}
    if name in untrained:
        return result
    if reasons := diverged(table, name, steps):
        return result | {"verdict": "diverged", "note": "; ".join(reasons)}
    after = values(table, {"metric": METRIC, "arm": name, "split": SPLIT}, steps)
    change_S = np.asarray([after[run] - before[run] for run in sorted(after)])
    interval = stats.t_interval(change_S)
    return result | {
        "estimate": float(interval.value), "ci_lo": float(interval.lo), "ci_hi": float(interval.hi), "n_units": len(change_S),
        "p": float(stats.t_pvalue(change_S, claim["threshold"], "greater")), "note": claim["rule"],
        "verdict": rule(interval, claim["threshold"], claim["equivalence_margin"])}


def diverged(table: pa.Table, name: str, steps: int) -> list[str]:
    """Why an arm has no numbers at the last step: the reasons in its rows, none where it has them."""
    lost = select(table, role="seed", metric=METRIC, arm=name, step=steps, split=SPLIT, status="nan")
    return sorted(set(lost["status_reason"].to_pylist()))
