"""Length budgets that shrink along training."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost.curricula.base import Context, Curriculum, Plan


def budget(step: jax.Array | int, first: float, factor: float, every: int) -> jax.Array:
    """max(1, first factor^(step // every)), tokens."""
    return jnp.maximum(1.0, first * factor ** (jnp.asarray(step) // every).astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class LengthBudget(Curriculum):
    """Train long, think short: the target length of the reward's length term falls, B(t) = max(1, B_0 factor^floor(t / every)).

    The terms `triangular_length`, `band_length` and `refusal` of the reward take it in place of their own length.

    Raises:
      ValueError: numbers out of range.
    """

    paper: ClassVar[str] = "arXiv:2508.08940"
    differs: ClassVar[str] = "the budget is not written into the prompt"

    first: float = 256.0  # B_0, tokens
    factor: float = 0.7
    every: int = 150  # steps

    def __post_init__(self):
        if not (self.first >= 1 and self.factor > 0 and self.every >= 1):
            raise ValueError(f"first={self.first}, factor={self.factor}, every={self.every}: expected a first budget of at "
                             "least 1 token, a factor above 0 and a number of steps")

    @property
    def needs(self) -> frozenset[str]:
        """Something that reads the budget."""
        return frozenset({"length_reward"})

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """The budget of the step."""
        del key
        target = budget(context.step, self.first, self.factor, self.every)
        return state, plan._replace(knobs=plan.knobs | {"length_budget": target})
