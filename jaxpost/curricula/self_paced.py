"""Self-paced learning: examples whose loss is small first, larger ones as the pace grows."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from jaxpost.curricula.base import Curriculum, Feedback, Weights


@dataclasses.dataclass(frozen=True)
class SelfPaced(Curriculum):
    """The weights v that minimise sum_i v_i loss_i + f(v, lambda), lambda = pace growth^(step // every).

      hard    v = 1[ loss < lambda ],          f = -lambda sum v
      linear  v = max(0, 1 - loss / lambda),   f = lambda ( |v|^2 / 2 - sum v )

    loss: an example's mean negative log-likelihood in nats.

    Raises:
      ValueError: an unknown regulariser, or numbers out of range.
    """

    paper: ClassVar[str] = "arXiv:1701.03555"
    differs: ClassVar[str] = "self-paced part alone: nothing is annotated or labelled by the model"
    reconstructed: ClassVar[str] = "formulas from memory; the pace and how often it grows"

    regulariser: str = "hard"
    pace: float = 1.0  # lambda at the first step, nats
    growth: float = 1.3
    every: int = 50  # steps

    def __post_init__(self):
        if self.regulariser not in ("hard", "linear"):
            raise ValueError(f"regulariser={self.regulariser!r} is not known (valid: hard, linear)")
        if not (self.pace > 0 and self.growth >= 1 and self.every >= 1):
            raise ValueError(f"pace={self.pace}, growth={self.growth}, every={self.every}: expected a pace above 0, growth of "
                             "at least 1, and a number of steps")

    @property
    def needs(self) -> frozenset[str]:
        """Losses; the linear form scales."""
        return frozenset({"loss"} | ({"scale"} if self.regulariser == "linear" else set()))

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Weigh by the loss."""
        pace = self.pace * self.growth ** (jnp.asarray(feedback.step) // self.every).astype(jnp.float32)
        if self.regulariser == "hard":
            return state, weights.times(keep=(feedback.loss_BxG < pace).astype(jnp.float32))
        return state, weights.times(scale=jnp.maximum(0.0, 1 - feedback.loss_BxG / pace))
