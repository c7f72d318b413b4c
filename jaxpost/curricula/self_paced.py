"""Self-paced learning: examples whose loss is small first, larger ones as the pace grows."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost.curricula.base import Curriculum, Feedback, Pooled, Weights


def _require_pace(rule) -> None:
    if not (rule.pace > 0 and rule.growth >= 1 and rule.every >= 1):
        raise ValueError(f"pace={rule.pace}, growth={rule.growth}, every={rule.every}: expected a pace above 0, growth of "
                         "at least 1, and a number of steps")


def _pace(rule, step: jax.Array | int) -> jax.Array:
    return rule.pace * rule.growth ** (jnp.asarray(step) // rule.every).astype(jnp.float32)


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
        _require_pace(self)

    @property
    def needs(self) -> frozenset[str]:
        """Losses; the linear form scales."""
        return frozenset({"loss"} | ({"scale"} if self.regulariser == "linear" else set()))

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Weigh by the loss."""
        pace = _pace(self, feedback.step)
        if self.regulariser == "hard":
            return state, weights.times(keep=(feedback.loss_BxG < pace).astype(jnp.float32))
        return state, weights.times(scale=jnp.maximum(0.0, 1 - feedback.loss_BxG / pace))


@dataclasses.dataclass(frozen=True)
class ActiveSelfPaced(Pooled):
    """Active self-paced learning: small losses by the pace, and large ones for good once an annotator was asked about them.

      v_i = 1[ loss_i < lambda or i was asked ],   lambda = pace growth^(step // every)

    Every step the `ask` examples of the batch with the largest losses above lambda are asked about; they are in from then on.

    Raises:
      ValueError: no pool, or numbers out of range.
    """

    paper: ClassVar[str] = "arXiv:1701.03555"
    differs: ClassVar[str] = "examples below the pace keep the oracle's labels, not the model's own; the pace grows by the " \
        "step, not by the accuracy"
    reconstructed: ClassVar[str] = "formulas from memory; the pace, how often it grows, and how many are asked about"

    pace: float = 1.0  # lambda at the first step, nats
    growth: float = 1.3
    every: int = 50  # steps
    ask: int = 1

    def __post_init__(self):
        super().__post_init__()
        _require_pace(self)
        if self.ask < 0:
            raise ValueError(f"ask={self.ask}: expected a number of examples a step")

    @property
    def needs(self) -> frozenset[str]:
        """Losses."""
        return frozenset({"loss"})

    def init(self, key: jax.Array) -> dict:
        """Nobody was asked."""
        del key
        return {"asked_M": jnp.zeros(self.pool, bool)}

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Ask about the largest losses, and keep what is small or was asked about."""
        item_B, loss_B = feedback.plan.index_B.astype(jnp.int32), feedback.mean(feedback.loss_BxG)
        small_B = loss_B < _pace(self, feedback.step)
        open_B = ~small_B & ~state["asked_M"][item_B]
        order_B = jnp.argsort(jnp.argsort(jnp.where(open_B, -loss_B, jnp.inf), stable=True), stable=True)
        now_B = open_B & (order_B < self.ask)
        asked_M = state["asked_M"].at[item_B].max(now_B)
        keep_B = (small_B | asked_M[item_B]).astype(jnp.float32)
        return {"asked_M": asked_M}, weights.times(keep=jnp.broadcast_to(keep_B[:, None], feedback.loss_BxG.shape))
