"""How many rollouts of a step had something to say: rows of the loss whose advantage is not zero."""

from dataclasses import dataclass

from jaxpost.probes import base, catalog, schedules
from jaxpost.probes.base import Metric, register
from jaxpost.probes.policy.statistics import MeanOfHistory

_ROWS = Metric("policy.effective_rows", "sampled rows of a step with a token in the loss whose advantage is not 0, mean over "
               "the steps since the last measurement", "row", "arXiv:2509.25849", "none: compare with the rows that a step "
               "samples", "none", "count in the train step")
register(_ROWS)


@dataclass(frozen=True)
class EffectiveRows(MeanOfHistory):
    """Effective rows of the steps since the last measurement, from the history at no cost.

    Of GRPO these are the rows of groups in which answers differ in their reward, as far as filters, budgets and subsets leave
    them in the loss. Nothing is reported where an objective has no advantages.
    """

    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "inline"
    id: str = "effective_rows"
    version: str = "1"
    definition: str = "arXiv:2509.25849, a count in place of the share of the sampled rows"
    metrics: tuple[str, ...] = (_ROWS.id,)
    needs: frozenset[base.Need] = frozenset({base.HISTORY})


catalog.add(
    __name__,
    catalog.Entry("effective_rows", "how many rollouts of a step have an advantage: what selection and filters leave of them",
                  EffectiveRows),
)
