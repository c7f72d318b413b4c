"""Automatic domain randomisation: a box of task knobs that grows where its bounds are solved. Shapes: B items, D knobs."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost.curricula.base import Context, Feedback, Plan, Weights
from jaxpost.curricula.knobbed import Knobbed

BOUND = "adr_bound"  # which of the 2 D bounds an item stands at; 2 D: none


@dataclasses.dataclass(frozen=True)
class Adr(Knobbed):
    """Items are uniform in a box; with probability `boundary` one knob of an item stands at one of its two bounds.

    Success of the items at a bound is collected. Once there are `queue` of them, their mean moves the bound and they are
    forgotten: outwards by `step` if it is at least `high`, inwards if it is at most `low`. The box begins at the lowest values,
    or at `start`.

    Raises:
      ValueError: no knobs or an empty range; a start outside the ranges; numbers out of range.
    """

    paper: ClassVar[str] = "arXiv:1910.07113"
    differs: ClassVar[str] = "a batch of tasks a step; knobs are whole numbers; a queue may hold more than its length at the " \
        "end of a step"
    reconstructed: ClassVar[str] = "thresholds 0.2 and 0.8 of success (the benchmark's are of returns)"

    start: tuple[int, ...] = ()  # values of the knobs; (): the lowest
    boundary: float = 0.5
    queue: int = 10  # items
    low: float = 0.2
    high: float = 0.8
    step: int = 1

    def __post_init__(self):
        super().__post_init__()
        inside = len(self.start) == len(self.knobs) and all(k[1] <= x <= k[2] for x, k in zip(self.start, self.knobs))
        if self.start and not inside:
            raise ValueError(f"start={self.start}: expected a value within its range for each of the {len(self.knobs)} knobs")
        if not (0 <= self.boundary <= 1 and self.queue >= 1 and 0 <= self.low <= self.high <= 1 and self.step >= 1):
            raise ValueError(f"boundary={self.boundary}, queue={self.queue}, low={self.low}, high={self.high}, "
                             f"step={self.step}: expected shares with low <= high, and whole numbers of at least 1")

    def init(self, key: jax.Array) -> dict:
        """A box of one point, empty queues. Bounds in order: lower ones of all knobs, then upper ones."""
        del key
        start_D = jnp.asarray(self.start or [knob[1] for knob in self.knobs], jnp.float32)
        none_2D = jnp.zeros(2 * len(self.knobs))
        return {"bound_2D": jnp.tile(start_D, 2), "sum_2D": none_2D, "count_2D": none_2D}

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """Uniform whole numbers of the box, some of them at a bound."""
        del context
        D, B = len(self.knobs), plan.index_B.shape[0]
        inside_key, decide_key, which_key = jax.random.split(key, 3)
        low_D, high_D = state["bound_2D"][:D], state["bound_2D"][D:]
        value_BxD = low_D[None] + jnp.floor(jax.random.uniform(inside_key, (B, D)) * (high_D - low_D + 1)[None])
        which_B = jax.random.randint(which_key, (B,), 0, 2 * D)
        which_B = jnp.where(jax.random.uniform(decide_key, (B,)) < self.boundary, which_B, 2 * D)
        at_BxD = (which_B[:, None] < 2 * D) & (which_B[:, None] % D == jnp.arange(D)[None])
        bound_B = state["bound_2D"][jnp.minimum(which_B, 2 * D - 1)]
        plan = self.write(plan, jnp.where(at_BxD, bound_B[:, None], jnp.minimum(value_BxD, high_D[None])))
        return state, plan._replace(knobs=plan.knobs | {BOUND: which_B})

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Success into the queues; full ones move their bounds."""
        which_B = feedback.plan.knobs[BOUND]
        sum_2D = state["sum_2D"].at[which_B].add(feedback.mean(feedback.reward_BxG), mode="drop")
        count_2D = state["count_2D"].at[which_B].add(1.0, mode="drop")
        full_2D = count_2D >= self.queue
        mean_2D = sum_2D / jnp.maximum(count_2D, 1.0)
        outwards_2D = jnp.where(full_2D, (mean_2D >= self.high) * 1.0 - (mean_2D <= self.low), 0.0) * self.step
        D = len(self.knobs)
        least_1xD, most_1xD = self.range
        lower_D = jnp.maximum(state["bound_2D"][:D] - outwards_2D[:D], least_1xD[0])
        upper_D = jnp.minimum(state["bound_2D"][D:] + outwards_2D[D:], most_1xD[0])
        lower_D = jnp.minimum(lower_D, state["bound_2D"][D:])  # a bound does not pass where the other one was
        return {"bound_2D": jnp.concatenate([lower_D, jnp.maximum(upper_D, lower_D)]),
                "sum_2D": jnp.where(full_2D, 0.0, sum_2D), "count_2D": jnp.where(full_2D, 0.0, count_2D)}, weights
