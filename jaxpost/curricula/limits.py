"""Limits of an answer's length along training: what is not finished within the limit is cut there and scores 0."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost.curricula.base import Context, Curriculum, Plan

LIMIT = "length_limit"  # of a plan: tokens of every answer of the step


class Limited(Curriculum):
    """A rule that writes the limit of a step into the plan."""

    @property
    def needs(self) -> frozenset[str]:
        """Answers that can be cut."""
        return frozenset({"length_limit"})

    def at(self, step: jax.Array | int) -> jax.Array:
        """The limit in tokens."""
        raise NotImplementedError

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """The limit of the step."""
        del key
        return state, plan._replace(knobs=plan.knobs | {LIMIT: self.at(context.step)})


@dataclasses.dataclass(frozen=True)
class StagedLength(Limited):
    """Stage-wise length: the limit grows in stages of equal length, limit(t) = tokens[ floor(t stages / steps) ].

    Raises:
      ValueError: no stages or steps, or a limit below 1.
    """

    paper: ClassVar[str] = "arXiv:2505.16400"
    differs: ClassVar[str] = "answers are sampled to the task's length and cut, so that short stages save no computation"
    reconstructed: ClassVar[str] = "stages of equal length (the mechanism is recalled: 8, 16, 24 and 32 thousand tokens)"

    tokens: tuple[int, ...] = ()  # a limit a stage
    steps: int = 0

    def __post_init__(self):
        if not self.tokens or min(self.tokens) < 1 or self.steps < 1:
            raise ValueError(f"tokens={self.tokens}, steps={self.steps}: expected a limit of at least 1 token for each stage, "
                             "and the number of steps")

    def at(self, step: jax.Array | int) -> jax.Array:
        """As `Limited.at`."""
        stage = jnp.clip(jnp.asarray(step) * len(self.tokens) // self.steps, 0, len(self.tokens) - 1)
        return jnp.asarray(self.tokens)[stage]


@dataclasses.dataclass(frozen=True)
class Horizon(Limited):
    """Test-time interaction: the horizon grows with iterations of `every` steps, up to `most` turns.

      multiplicative  h = min(most, first * i)
      additive        h = min(most, first + i - 1),   i = 1 + step // every

    The limit of an answer is h turn - gap tokens: of episodes, turn = action + observation tokens and gap = observation tokens.

    Raises:
      ValueError: an unknown growth, or numbers out of range.
    """

    paper: ClassVar[str] = "arXiv:2506.07976"
    differs: ClassVar[str] = "answers are sampled to the task's length and cut; any objective, not filtered cloning from a " \
        "weighted replay; the released schedule is 10, 20, 20, 30, ..."

    growth: str = "multiplicative"
    first: int = 10  # turns
    most: int = 30  # turns
    turn: int = 1  # tokens
    gap: int = 0  # tokens
    every: int = 1  # steps of an iteration

    def __post_init__(self):
        if self.growth not in ("multiplicative", "additive"):
            raise ValueError(f"growth={self.growth!r} is not known (valid: multiplicative, additive)")
        if not (1 <= self.first <= self.most and 0 <= self.gap < self.turn and self.every >= 1):
            raise ValueError(f"first={self.first}, most={self.most}, turn={self.turn}, gap={self.gap}, every={self.every}: "
                             "expected 1 <= first <= most, 0 <= gap < turn and a number of steps")

    def at(self, step: jax.Array | int) -> jax.Array:
        """As `Limited.at`."""
        i = 1 + jnp.asarray(step) // self.every
        turns = jnp.minimum(self.first * i if self.growth == "multiplicative" else self.first + i - 1, self.most)
        return turns * self.turn - self.gap
