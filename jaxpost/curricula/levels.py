"""Levels of task knobs, one for all items of a step: by the step, or by the success at the level."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost.curricula.base import Context, Curriculum, Feedback, Plan, Weights


@dataclasses.dataclass(frozen=True)
class Levels(Curriculum):
    """A rule over levels; a level gives a value to each of some knobs of the task.

    Raises:
      ValueError: no knobs, or not as many values of each.
    """

    levels: tuple[tuple[str, tuple[int, ...]], ...] = ()  # ((knob, (its value at level 0, at level 1, ...)), ...)

    def __post_init__(self):
        counts = {len(values) for _, values in self.levels}
        if len(counts) != 1 or min(counts) < 1:
            raise ValueError(f"levels={self.levels}: expected ((knob, (value, ...)), ...), as many values of each knob of "
                             "the task as there are levels")

    @property
    def count(self) -> int:
        """Number of levels."""
        return len(self.levels[0][1])

    @property
    def knobs(self) -> tuple[tuple[str, int, int], ...]:
        """Those of the levels."""
        return tuple((name, min(values), max(values)) for name, values in self.levels)

    def at(self, plan: Plan, level: jax.Array | int) -> Plan:
        """The plan at a level."""
        set_to = {name: jnp.full(plan.index_B.shape, jnp.asarray(values, jnp.int32)[level]) for name, values in self.levels}
        return plan._replace(knobs=plan.knobs | set_to)


@dataclasses.dataclass(frozen=True)
class Staged(Levels):
    """Masked spans: the number of parts that are asked for grows in stages of equal length, level(t) = floor(t levels / steps).

    Any knob of the task can be staged: MaskSearch stages the number of masked spans, 1 to 4; CRAFT-GUI difficulty.

    Raises:
      ValueError: as `Levels`; no steps.
    """

    paper: ClassVar[str] = "arXiv:2505.20285"
    differs: ClassVar[str] = "a knob of the task in place of the number of masked spans"
    reconstructed: ClassVar[str] = "stages of equal length (the mechanism is recalled)"

    steps: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: the stages need the number of steps")

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """The level of the step."""
        del key
        level = jnp.clip(jnp.asarray(context.step) * self.count // self.steps, 0, self.count - 1)
        return state, self.at(plan, level)


@dataclasses.dataclass(frozen=True)
class Saturn(Levels):
    """Saturn's levels: every `every` rollouts, the next level if the mean success of those rollouts is above `threshold`.

      level <- min(level + 1, last)  if  mean success > threshold

    Raises:
      ValueError: as `Levels`; numbers out of range.
    """

    paper: ClassVar[str] = "arXiv:2505.16368"
    differs: ClassVar[str] = "success of the training rollouts, which are of new problems at every step, in place of a " \
        "validation set of the level"
    reconstructed: ClassVar[str] = "a level is left for good (the transition rule was read in an excerpt)"

    threshold: float = 0.5  # 0.75 in the paper's larger run
    every: int = 250  # rollouts

    def __post_init__(self):
        super().__post_init__()
        if not (0 <= self.threshold <= 1 and self.every >= 1):
            raise ValueError(f"threshold={self.threshold}, every={self.every}: expected a share and a number of rollouts")

    @property
    def needs(self) -> frozenset[str]:
        """Success."""
        return frozenset({"reward"})

    def init(self, key: jax.Array) -> dict:
        """The first level, nothing seen at it."""
        del key
        return {"level": jnp.int32(0), "success": jnp.float32(0), "rollouts": jnp.float32(0)}

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """The level that was reached."""
        del key, context
        return state, self.at(plan, state["level"])

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Count, and judge where there are enough."""
        counted_BxG = jnp.where(feedback.used_BxG > 0, feedback.used_BxG * feedback.reward_BxG, 0.0)
        success = state["success"] + counted_BxG.sum()
        rollouts = state["rollouts"] + feedback.used_BxG.sum()
        judged = rollouts >= self.every
        passed = judged & (success > self.threshold * rollouts)
        return {"level": jnp.minimum(state["level"] + passed, self.count - 1), "success": jnp.where(judged, 0.0, success),
                "rollouts": jnp.where(judged, 0.0, rollouts)}, weights
