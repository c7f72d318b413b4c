"""Reasoning quotas: a fixed number of tokens of a step, shared among its problems. Shapes: B items, M items of the pool."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost.curricula import allocation, statistics
from jaxpost.curricula.base import Context, Feedback, Plan, Pooled, Weights


@dataclasses.dataclass(frozen=True)
class Quota(Pooled):
    """Reasoning-quota allocation: the length budget of a problem is its share of average * B tokens.

      budget_b = least + (average - least) B need_b / sum need,   by largest remainders
      need: an exponential average at `rate` of the mean length of its rollouts; `average` before the first visit

    The terms `triangular_length`, `band_length` and `refusal` of the reward take it in place of their own length.

    Raises:
      ValueError: no pool, or numbers out of range.
    """

    paper: ClassVar[str] = "arXiv:2508.17803"
    differs: ClassVar[str] = "problems of a training step compete for tokens through a length term of the reward; there a " \
        "batch of questions in one prompt makes preference data"
    reconstructed: ClassVar[str] = "the whole rule, from what the paper is about"

    average: int = 256  # tokens
    least: int = 1
    rate: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if not (1 <= self.least <= self.average and 0 < self.rate <= 1):
            raise ValueError(f"average={self.average}, least={self.least}, rate={self.rate}: expected 1 <= least <= average "
                             "and a rate in (0, 1]")

    @property
    def needs(self) -> frozenset[str]:
        """Lengths, and something that reads the budget."""
        return frozenset({"length", "length_reward"})

    def init(self, key: jax.Array) -> dict:
        """The average for all."""
        del key
        return {"need_M": jnp.full(self.pool, float(self.average))}

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """Budgets of the plan's items."""
        del key, context
        need_B = state["need_M"][plan.index_B]
        budget_B = allocation.proportional(need_B, self.average * plan.index_B.shape[0], self.least)
        return state, plan._replace(knobs=plan.knobs | {"length_budget": budget_B.astype(jnp.float32)})

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Lengths of the items that were drawn."""
        item_N = jnp.repeat(feedback.plan.index_B.astype(jnp.int32), feedback.used_BxG.shape[1])
        mean_M, rows_M = statistics.means_by(item_N, feedback.length_BxG.reshape(-1), feedback.used_BxG.reshape(-1), self.pool)
        return {"need_M": jnp.where(rows_M > 0, statistics.ema(state["need_M"], mean_M, self.rate), state["need_M"])}, weights
