"""What each arm has cost in training: steps, rows, rollouts, along the chain of stages that led to it."""

from collections.abc import Mapping, Sequence

from experiments.harness.arms import Arm
from experiments.harness.stages import Stage, chain
from jaxpost import probes


def _metric(name: str, definition: str) -> probes.Metric:
    return probes.Metric(f"work.{name}", definition + ", from the base to the arm's end, every stage of its chain counted once",
                         "1", "none: accounting", "none: a property of the arm", "none", "exact count", ci_method="none")


METRICS = {metric.id: metric for metric in (
    _metric("optimizer_steps", "optimizer steps"),
    _metric("rows", "rows that were trained on"),
    _metric("rollouts", "answers that were sampled for training"),
)}


def of(arm: Arm) -> dict[str, int]:
    """{metric: count} of one stage."""
    updates = arm.spec.minibatches * arm.spec.epochs
    counts = (arm.steps * updates, arm.steps * arm.source.rows, arm.steps * arm.source.sampled)
    return dict(zip(METRICS, counts, strict=True))


def rows(arms: Sequence[Arm], stages: Mapping[str, Stage], digest: str) -> dict:
    """Columns of every arm's work."""
    own, columns = {arm.name: of(arm) for arm in arms}, []
    for arm in arms:
        parts = [own[name] for name in chain(arm.name, stages)]
        columns += [{"metric": metric, "value": float(sum(part[metric] for part in parts)), "arm": arm.name, "role": "estimate",
                     "step": arm.steps, "granularity": "experiment", "n_units": 1, "unit": "base", "conditional_on": digest}
                    for metric in METRICS]
    return {name: [row[name] for row in columns] for name in columns[0]}
