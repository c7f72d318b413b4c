"""Phases of difficulty with a look back, and an order that a warm-up measures. Shapes: B items, M items of the pool."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.curricula import scores, selection, statistics
from jaxpost.curricula.base import Context, Feedback, Graded, Plan, Pooled, Weights


@dataclasses.dataclass(frozen=True)
class ProgressiveContext(Graded):
    """Progressive context: the pool in `phases` parts by length, short ones first, with harder ones of earlier phases again.

    In its phase a part is drawn uniformly; from the second on, an item is with probability `review` one of the earlier parts,
    drawn in proportion to 1 / max(mean reward of its last visit, `floor`). Items that were not seen count as `floor`.

    Raises:
      ValueError: no pool, difficulties or steps; phases that are not 1 to M; shares out of range.
    """

    paper: ClassVar[str] = "arXiv:2505.17667"
    differs: ClassVar[str] = "the task's difficulty in place of the length of the context"
    reconstructed: ClassVar[str] = "the mechanism is recalled; the share of items that are reviewed, and the floor"

    phases: int = 3
    review: float = 0.25
    floor: float = 0.125
    steps: int = 0

    def __post_init__(self):
        super().__post_init__()
        if not (self.steps >= 1 and 1 <= self.phases <= self.pool and 0 <= self.review <= 1 and 0 < self.floor <= 1):
            raise ValueError(f"steps={self.steps}, phases={self.phases}, review={self.review}, floor={self.floor}: expected "
                             f"the number of steps, 1 to {self.pool} phases, and shares")

    @property
    def needs(self) -> frozenset[str]:
        """Success."""
        return frozenset({"reward"})

    def init(self, key: jax.Array) -> dict:
        """Nothing seen."""
        del key
        return {"reward_M": jnp.zeros(self.pool)}

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """As `Curriculum.sample`."""
        order_M = jnp.asarray(np.argsort(np.asarray(self.difficulty), kind="stable"))
        phase = jnp.clip(jnp.asarray(context.step) * self.phases // self.steps, 0, self.phases - 1)
        low, high = phase * self.pool // self.phases, (phase + 1) * self.pool // self.phases
        decide_key, old_key, new_key = jax.random.split(key, 3)
        weight_M = jnp.where(jnp.arange(self.pool) < low, 1 / jnp.maximum(state["reward_M"][order_M], self.floor), 0.0)
        old_B = selection.categorical(old_key, jnp.log(weight_M), plan.index_B.shape[0])
        new_B = jax.random.randint(new_key, plan.index_B.shape, low, high)
        reviews_B = (jax.random.uniform(decide_key, plan.index_B.shape) < self.review) & (phase > 0)
        return state, plan._replace(index_B=order_M[jnp.where(reviews_B, old_B, new_B)].astype(jnp.uint32))

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """The mean reward of each item's last visit: of all its rows that count, where a step drew it more than once."""
        item_N = jnp.repeat(feedback.plan.index_B.astype(jnp.int32), feedback.used_BxG.shape[1])
        mean_M, rows_M = statistics.means_by(item_N, feedback.reward_BxG.reshape(-1), feedback.used_BxG.reshape(-1), self.pool)
        return {"reward_M": jnp.where(rows_M > 0, mean_M, state["reward_M"])}, weights


@dataclasses.dataclass(frozen=True)
class Sari(Pooled):
    """SARI's order: uniform draws in a warm-up of a share `warm_up` of the steps, then from easy to hard by what it measured.

      order: by posterior mean success (1 + S) / (2 + S + F) of the warm-up, highest first, ties in the order of the pool
      then   uniform draws from the first n items, n from `start` M to M linearly over the rest of the steps

    Raises:
      ValueError: no pool or steps; shares out of range.
    """

    paper: ClassVar[str] = "arXiv:2504.15900"
    differs: ClassVar[str] = "the order alone: its supervised warm-up and structured chains are a stage and a style of a study"
    reconstructed: ClassVar[str] = "the mechanism is recalled; difficulty by success in a warm-up of RL; shares"

    warm_up: float = 0.2
    start: float = 0.2
    steps: int = 0

    def __post_init__(self):
        super().__post_init__()
        if not (self.steps >= 1 and 0 < self.warm_up < 1 and 0 < self.start <= 1):
            raise ValueError(f"steps={self.steps}, warm_up={self.warm_up}, start={self.start}: expected the number of steps, "
                             "and shares above 0")

    @property
    def needs(self) -> frozenset[str]:
        """Success."""
        return frozenset({"reward"})

    def init(self, key: jax.Array) -> dict:
        """Nothing counted."""
        del key
        return {"success_M": jnp.zeros(self.pool), "count_M": jnp.zeros(self.pool)}

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """As `Curriculum.sample`."""
        success_M = statistics.beta_mean(state["success_M"], state["count_M"] - state["success_M"])
        order_M = jnp.argsort(-success_M, stable=True)
        first = self.warm_up * self.steps
        share = scores.along(self.start, 1.0, (context.step - first) / (self.steps - first))
        share = jnp.where(context.step < first, 1.0, share)
        return state, plan._replace(index_B=selection.from_first(key, order_M, share, plan.index_B.shape[0]))

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Count, in the warm-up alone."""
        counts = (feedback.step < self.warm_up * self.steps) * feedback.used_BxG
        item_B = feedback.plan.index_B.astype(jnp.int32)
        success_BxG = jnp.where(counts > 0, counts * feedback.reward_BxG, 0.0)
        return {"success_M": state["success_M"].at[item_B].add(success_BxG.sum(axis=1)),
                "count_M": state["count_M"].at[item_B].add(counts.sum(axis=1))}, weights
