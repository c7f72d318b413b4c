"""Reward-weighted regression: maximum likelihood of samples, each weighted by the exponential of its reward.

Shapes: B prompts, G samples a prompt, N = B*G rows, T tokens, U turns.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost.objectives.base import Batch
from jaxpost.objectives.policy_gradient import PolicyGradient
from jaxpost.objectives.turn_credit import TurnCredit

OVER = {  # what the weights are normalised over -> the formula
    "group": "exp(R / reward_temperature) / mean_group(exp(R / reward_temperature))",
    "batch": "exp(R / reward_temperature) / mean_batch(exp(R / reward_temperature))",
}


def weights(reward_BxG: jax.Array, temperature: float, over: str = "group", floor: float | None = None) -> jax.Array:
    """weight_BxG = exp(R / temperature) / mean exp(R / temperature), the mean over the rows of a group or of the batch.

    Of a group it is G times the chance of a row in resampling G of them with p ~ exp(R / temperature): the expected number of
    its copies. Rows without a reward (NaN) or with R <= floor weigh 0 and are in no mean.
    """
    there = ~jnp.isnan(reward_BxG) & (True if floor is None else reward_BxG > floor)
    axis = 1 if over == "group" else None
    high = jnp.where(there, reward_BxG, -jnp.inf).max(axis=axis, keepdims=True)
    raised = jnp.where(there, jnp.exp((reward_BxG - jnp.where(jnp.isfinite(high), high, 0.0)) / temperature), 0.0)
    total, count = raised.sum(axis=axis, keepdims=True), there.sum(axis=axis, keepdims=True)
    rows = reward_BxG.shape[1] if over == "group" else count
    return raised * rows / jnp.where(total > 0, total, 1.0)


def _require_temperature(o) -> None:
    o.require(o.reward_temperature > 0, f"reward_temperature={o.reward_temperature} must be above 0, e.g. 1")


@dataclasses.dataclass(frozen=True)
class RewardWeighted(PolicyGradient):
    """Maximum likelihood of samples with weights that grow exponentially with their reward, and are never negative.

      A = exp(R / reward_temperature) / mean exp(R / reward_temperature)      over the group, or over the batch

    A low temperature keeps the best rows alone, a high one weighs all alike. With a `reward_floor` rows of R <= floor do not
    count. `auto_cei` is the inner step of Auto-CEI (arXiv:2410.07627): weights are the expected number of copies of a row where
    the paper draws them, and the temperature is the initial policy's precision. Its rewards are those of the term `refusal`, -1
    for a wrong answer (with the verifier's score alone, set reward_floor=0); its outer loop is the curriculum `auto_cei`.
    """

    over: str = "batch"  # a key of OVER
    reward_temperature: float = 1.0  # in the unit of rewards
    reward_floor: float | None = None

    def __post_init__(self):
        super().__post_init__()
        self.choose(over=tuple(OVER))
        _require_temperature(self)
        self.unread("where rows are weighted by the exponential of their reward", "baseline", "scale", "informative_only")

    @property
    def rejects(self) -> bool:
        """As `PolicyGradient.rejects`."""
        return self.reward_floor is not None

    @property
    def never_negative(self) -> bool:
        """As `PolicyGradient.never_negative`."""
        return self.whiten == "none"

    def centred_formula(self) -> str:
        """As `PolicyGradient.centred_formula`."""
        floor = "" if self.reward_floor is None else " where R > reward_floor, else 0; means over the others"
        return OVER[self.over] + floor

    def centred(self, batch: Batch, score_BxG: jax.Array) -> jax.Array:
        """advantage_BxG."""
        return weights(score_BxG, self.reward_temperature, self.over, self.reward_floor)


@dataclasses.dataclass(frozen=True)
class RewardWeightedTurns(TurnCredit):
    """Every turn of an episode is a sample of its own, weighted by the exponential of its reward (RISE, arXiv:2407.18219).

      A_u = exp(R_u / reward_temperature)      R_u = r_u + turn_discount R_(u+1)

    *Recalled*: the weight of a turn. Differs from the paper in: turns are the policy's own, where theirs are improved by the
    best of several samples or by a stronger model before they are weighted.
    """

    turn_discount: float = 0.0
    baseline: str = "none"
    reward_temperature: float = 1.0  # in the unit of rewards

    def __post_init__(self):
        super().__post_init__()
        _require_temperature(self)
        self.unread("where turns are weighted by the exponential of their reward", "baseline", "scale", "compared")

    @property
    def never_negative(self) -> bool:
        """As `PolicyGradient.never_negative`."""
        return self.whiten == "none"

    def compared_formula(self) -> str:
        """As `TurnCredit.compared_formula`."""
        return "exp(R_u / reward_temperature) of the token's turn u"

    def compare_turns(self, return_KxM: jax.Array) -> jax.Array:
        """As `TurnCredit.compare_turns`."""
        return jnp.where(jnp.isnan(return_KxM), 0.0, jnp.exp(return_KxM / self.reward_temperature))


ROWS = (
    RewardWeighted("reward_weighted_regression", "rl", "doi:10.1145/1273496.1273590", "groups"),
    RewardWeighted("auto_cei", "rl", "arXiv:2410.07627", "groups", over="group", reward_temperature=0.5, reward_floor=-1.0,
                   rejected="left_out"),
    RewardWeightedTurns("rise", "rl", "arXiv:2407.18219 (recalled)", "groups"),
)
