"""CLPO without rewriting: uninformative groups are left out, hard ones are held less to the reference."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from jaxpost.curricula.base import Curriculum, Feedback, Weights


@dataclasses.dataclass(frozen=True)
class Clpo(Curriculum):
    """CLPO's filter and KL: groups with 0 < p < 1 count, or all where there is none; hard ones have a smaller KL term.

      KL coefficient of a row * ( relief if p <= hard else 1 ),   p the success rate of its group

    Raises:
      ValueError: numbers out of range.
    """

    paper: ClassVar[str] = "arXiv:2509.25004"
    differs: ClassVar[str] = "no problem is rewritten (`second_pass` with `rewrite` of an arm does that, and filters by itself)"

    hard: float = 0.3
    relief: float = 0.5

    def __post_init__(self):
        if not (0 <= self.hard <= 1 and self.relief >= 0):
            raise ValueError(f"hard={self.hard}, relief={self.relief}: expected a success rate and a factor of at least 0")

    @property
    def needs(self) -> frozenset[str]:
        """Groups with their success, and a KL term."""
        return frozenset({"reward", "rollouts", "kl_scale"})

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Keep, and scale the KL term."""
        p_Bx1 = feedback.mean(feedback.reward_BxG)[:, None]
        informative_Bx1 = (p_Bx1 > 0) & (p_Bx1 < 1)
        keep_Bx1 = (informative_Bx1 | ~informative_Bx1.any()).astype(jnp.float32)
        one_BxG = jnp.ones(feedback.used_BxG.shape)
        return state, weights.times(keep=keep_Bx1 * one_BxG, kl=jnp.where(p_Bx1 <= self.hard, self.relief, 1.0) * one_BxG)
