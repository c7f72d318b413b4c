"""Vectors of task knobs: whole numbers in a plan, points of the unit cube to a rule. Shapes: B items, D knobs."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost.curricula.base import Curriculum, Plan


@dataclasses.dataclass(frozen=True)
class Knobbed(Curriculum):
    """A rule that sets knobs of the task for every item; it needs the verifier's score.

    Raises:
      ValueError: no knobs, or an empty range.
    """

    knobs: tuple[tuple[str, int, int], ...] = ()  # (name, low, high), both ends included

    def __post_init__(self):
        if not self.knobs or any(len(knob) != 3 or knob[1] >= knob[2] for knob in self.knobs):
            raise ValueError(f"knobs={self.knobs}: expected ((name, low, high), ...) with low < high, of the task's knobs")

    @property
    def needs(self) -> frozenset[str]:
        """Success."""
        return frozenset({"reward"})

    @property
    def range(self) -> tuple[jax.Array, jax.Array]:
        """(low_1xD, high_1xD)."""
        low_1xD, high_1xD = (jnp.asarray([[knob[i] for knob in self.knobs]], jnp.float32) for i in (1, 2))
        return low_1xD, high_1xD

    def whole(self, unit_BxD: jax.Array) -> jax.Array:
        """value_BxD of points of the unit cube: equal widths for every whole number, the ends included."""
        low_1xD, high_1xD = self.range
        return jnp.minimum(jnp.floor(low_1xD + unit_BxD * (high_1xD - low_1xD + 1)), high_1xD)

    def write(self, plan: Plan, value_BxD: jax.Array) -> Plan:
        """The plan with whole numbers as its knobs."""
        value_BxD = value_BxD.astype(jnp.int32)
        return plan._replace(knobs=plan.knobs | {name: value_BxD[:, i] for i, (name, _, _) in enumerate(self.knobs)})

    def read(self, plan: Plan) -> jax.Array:
        """unit_BxD: a plan's knobs, the ends of a range at 0 and 1."""
        low_1xD, high_1xD = self.range
        value_BxD = jnp.stack([plan.knobs[name] for name, _, _ in self.knobs], axis=1).astype(jnp.float32)
        return (value_BxD - low_1xD) / (high_1xD - low_1xD)

    def middle(self, plan: Plan) -> jax.Array:
        """unit_BxD: a plan's knobs at the middle of the width that `whole` maps to them."""
        low_1xD, high_1xD = self.range
        count_1xD = high_1xD - low_1xD + 1
        return (self.read(plan) * (count_1xD - 1) + 0.5) / count_1xD
