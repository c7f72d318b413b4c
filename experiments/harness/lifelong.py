"""Lifelong metrics of the arms whose chains of stages train several tasks in turn, from success at the ends of the stages."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from experiments.harness import claims
from experiments.harness.stages import Stage, chain
from jaxpost.probes.policy import lifelong

READ = dict(zip((metric.id for metric in lifelong.METRICS),
                (lifelong.performance_maintenance, lifelong.forward_transfer, lifelong.backward_transfer), strict=True))


def sequence(arm: str, stages: Mapping[str, Stage]) -> list[str]:
    """The stages of an arm in turn, if each starts from one place and they train at least two tasks, each once; else []."""
    path = chain(arm, stages)
    tasks = [stages[name].task for name in path]
    single = all(len(stages[name].start) == 1 and stages[name].steps for name in path)
    return path if single and 1 < len(tasks) == len(set(tasks)) else []


def columns(table: pa.Table, stages: Mapping[str, Stage], ends: Mapping[str, claims.End], base: str) -> dict[str, list]:
    """Rows of role "seed" of every such arm; {} without one.

    Args:
      table: measurement rows with `policy.success` of the base and at the last step of every stage, on the split of each task.
      ends: arm -> its last step and that split. base: digest of the base.
    """
    rows = []
    for arm in stages:
        path = sequence(arm, stages)
        splits = [ends[name].split for name in path]
        places = [("base", 0), *((name, ends[name].step) for name in path)]
        scores = [[claims.values(table, {"metric": "policy.success", "arm": name, "split": split}, step) for split in splits]
                  for name, step in places]
        runs = sorted(run for run in scores[0][0] if run[0] == base) if path else []
        for run in runs:
            R = np.asarray([[score.get(run, np.nan) for score in line] for line in scores])
            rows += [_row(metric, float(read(R)), arm, ends[arm].step, run, "+".join(path)) for metric, read in READ.items()]
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _row(metric: str, value: float, arm: str, step: int, run: tuple[str | None, int], path: str) -> dict:
    known = np.isfinite(value)
    return {"metric": metric, "value": value if known else None, "arm": arm, "role": "seed", "step": step, "seed": run[1],
            "granularity": "experiment", "n_units": 1, "unit": "seed", "params": f"stages={path}", "conditional_on": run[0],
            "status": "ok" if known else "absent", "null_kind": "unchanged", "null_value": 0.0,
            "status_reason": None if known else "a success rate is absent, or both of a contrast are 0"}
