"""Quality under a cut budget: what answers are worth whose reasoning is ended from outside after so many tokens.

Legend: S seeds, N prompts, K budgets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from jaxpost import stats
from jaxpost.probes import base, catalog, schedules
from jaxpost.probes.policy import example_rows, of_suite

_SAMPLED = "one KV-cached sample a prompt at temperature 1, the random numbers of the free answer"
SUCCESS = base.Metric(
    "policy.interrupted_success", "mean reward of answers whose reasoning is ended by a forced mark after at most `budget` "
    "tokens; answers that end it earlier stay as they are; params budget, control", "1", "arXiv:2510.11713",
    "shuffled (or filler): the same problems, the same mark behind as many tokens, which are those of the reasoning up to "
    "there in a random order (or `.`); t over prompts", "mean over prompts", _SAMPLED, "t over prompts", higher_is_better=True)
SHARE = base.Metric(
    "policy.interrupted_share", "share of answers whose reasoning was longer than `budget` tokens and was cut", "1", "jaxpost",
    "none in the row: compare with the rows of arm base", "mean over prompts", _SAMPLED, "t over prompts")
BUDGET = base.Metric(
    "policy.interrupted_budget", "sum_k (b_(k+1) - b_k) (1 - (s_k + s_(k+1)) / (2 s)), s_k the mean reward at budget b_k and s "
    "of free answers: the tokens of reasoning that success waits for (the last budget where none comes before it)", "token",
    "jaxpost (area over the curve of arXiv:2510.11713)", "shuffled (or filler): the same with s_k of the control",
    "ratio of sums", _SAMPLED, "delete-one-prompt t", higher_is_better=False)
base.register(SUCCESS, SHARE, BUDGET)


class Cut(NamedTuple):
    """What `suite.interrupted` gives for one split."""

    free_N: jax.Array  # float32 in [0, 1], rewards of free answers
    reward_NxK: jax.Array  # of cut ones
    control_NxK: jax.Array
    cut_NxK: jax.Array  # bool, whether there was something to cut


@dataclass(frozen=True)
class Interrupted(of_suite.OfRecords):
    """Success under every budget, against a control that reasons as long and says nothing.

    `suite.interrupted(params, key, budgets, control)` gives {label: Cut} (`training.Suite`), of splits with reasoning.

    Raises:
      ValueError: budgets that do not grow from 0, or a suite that cuts no answers.
    """

    suite: Any
    budgets: tuple[int, ...] = (0, 4, 8, 12)  # tokens of reasoning
    control: str = "shuffled"  # or filler
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "interrupted"
    version: str = "1"
    definition: str = "arXiv:2510.11713, on tasks whose reasoning stands between marks"
    metrics: tuple[str, ...] = (SUCCESS.id, SHARE.id, BUDGET.id)
    needs: frozenset[base.Need] = frozenset({base.PARAMS})
    stream: str = "interrupted"
    at_base: bool = True
    record: ClassVar[type] = Cut

    def __post_init__(self):
        if len(self.budgets) < 2 or self.budgets[0] != 0 or list(self.budgets) != sorted(set(self.budgets)):
            raise ValueError(f"probe 'interrupted': budgets={self.budgets}; expected at least two that grow from 0, such as "
                             "(0, 4, 8)")
        if not hasattr(self.suite, "interrupted"):
            raise ValueError(f"probe 'interrupted' needs a suite that cuts answers, interrupted(params, key, budgets, "
                             f"control); {type(self.suite).__name__} has none")

    def _measured(self, params: Any, key: jax.Array) -> dict[str, jax.Array]:
        return of_suite.flat(self.suite.interrupted(params, key, self.budgets, self.control))

    def _add(self, table, label: str, cut: Cut) -> None:
        N = cut.free_N.shape[-1]

        def row(metric, interval, **more):
            example_rows.add(table, metric.id, interval, N, unit="prompt", split=label, num_err=N * 2.0**-24, **more)

        for k, budget in enumerate(self.budgets):
            success_SxN, control_SxN, cut_SxN = (x[..., k] for x in (cut.reward_NxK, cut.control_NxK, cut.cut_NxK))
            control = stats.t_interval(control_SxN)
            row(SUCCESS, stats.t_interval(success_SxN), params=f"budget={budget};control={self.control}",
                null=(self.control, control.value, control.lo, control.hi), floor=example_rows.standard_error(success_SxN))
            row(SHARE, stats.t_interval(cut_SxN), params=f"budget={budget}", floor=example_rows.standard_error(cut_SxN))
        own, control = (example_rows.jackknife(self._lost, self._area(x), cut.free_N)
                        for x in (cut.reward_NxK, cut.control_NxK))
        some_S = cut.free_N.any(axis=-1)[:, None]
        row(BUDGET, own, null=(self.control, control.value, control.lo, control.hi), params=f"control={self.control}",
            status=np.where(some_S, "ok", "absent").astype(object),
            reason=np.where(some_S, None, "no free answer has a reward").astype(object))

    def _area(self, reward_SxNxK: np.ndarray) -> np.ndarray:
        """Area under the curve of each prompt's reward, in tokens."""
        return np.trapezoid(reward_SxNxK, self.budgets, axis=-1)

    def _lost(self, area: np.ndarray, free: np.ndarray) -> np.ndarray:
        return self.budgets[-1] - np.divide(area, free, out=np.full(np.shape(free), np.nan), where=free > 0)


catalog.add(
    __name__,
    catalog.Entry("interrupted", "what answers are worth whose reasoning is cut after so many tokens, over a control",
                  Interrupted, ("suite",), by_name=True),
)
