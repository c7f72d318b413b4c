"""How much a policy has to try before it may refuse: a hill climb on the length from which refusals are rewarded."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost.curricula.base import Context, Curriculum, Feedback, Plan, Weights


def usefulness(right: jax.Array, refused: jax.Array, rollouts: jax.Array, balance: float) -> jax.Array:
    """(1 - balance) precision + balance (1 - refused / rollouts), precision = right / (rollouts - refused); 0 / 0 is 0."""
    answered = rollouts - refused
    precision = right / jnp.maximum(answered, 1.0)
    return (1 - balance) * precision + balance * answered / jnp.maximum(rollouts, 1.0)


@dataclasses.dataclass(frozen=True)
class AutoCei(Curriculum):
    """Auto-CEI's outer loop: the target length of the reward's term `refusal` climbs to where refusing is most useful.

      f = (1 - balance) precision + balance (1 - share of refusals)      of at least `every` rollouts at a target
      target <- target + heading step; where f is below that of the target before, heading turns

    The first heading is to longer answers. It settles where the next target was already judged to be worse, or is farther than
    `reach` steps from the first. A score of 1 is right, one of 0 wrong, one between them a refusal (task `refusals`).

    Raises:
      ValueError: numbers out of range.
    """

    paper: ClassVar[str] = "arXiv:2410.07627"
    differs: ClassVar[str] = "a target is judged by the rollouts of one run as it goes on, where each of theirs is a run of " \
        "expert iteration from the initial policy; targets count tokens in place of steps of reasoning"

    first: float = 8.0  # tokens; theirs: the mean length of the initial policy's refusals, and a step
    step: float = 1.0  # tokens; theirs: a fifth of the standard deviation of those lengths, at most half a reasoning step
    every: int = 512  # rollouts
    balance: float = 0.2  # lambda
    reach: int = 16  # steps

    def __post_init__(self):
        if not (self.first > 0 and self.step > 0 and self.every >= 1 and 0 <= self.balance <= 1 and self.reach >= 1):
            raise ValueError(f"first={self.first}, step={self.step}, every={self.every}, balance={self.balance}, "
                             f"reach={self.reach}: expected a first target and a step above 0, a number of rollouts, a balance "
                             "in [0, 1] and a reach of at least 1")

    @property
    def needs(self) -> frozenset[str]:
        """Scores, and something that reads the target."""
        return frozenset({"reward", "length_reward"})

    def init(self, key: jax.Array) -> dict:
        """At the first target, nothing judged."""
        del key
        return {"place": jnp.int32(self.reach), "heading": jnp.int32(1), "settled": jnp.bool_(False),
                "judged_R": jnp.full(2 * self.reach + 1, jnp.nan), "count_3": jnp.zeros(3)}

    def target(self, state: dict) -> jax.Array:
        """The target of the state, tokens; at least 1."""
        return jnp.maximum(self.first + self.step * (state["place"] - self.reach), 1.0)

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """The target that was reached."""
        del key, context
        return state, plan._replace(knobs=plan.knobs | {"length_budget": self.target(state)})

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Count right answers, refusals and rollouts; judge the target where there are enough."""
        used, score = feedback.used_BxG, feedback.reward_BxG
        right, refused = used * (score >= 1), used * ((score > 0) & (score < 1))
        count_3 = state["count_3"] + jnp.stack([right.sum(), refused.sum(), used.sum()])
        enough = count_3[2] >= self.every
        moved = self._judged(state, usefulness(*count_3, self.balance)) | {"count_3": jnp.zeros(3)}
        return jax.tree.map(lambda new, old: jnp.where(enough, new, old), moved, state | {"count_3": count_3}), weights

    def _judged(self, state, f):
        """The state once its target is judged to be worth `f`."""
        place, heading, last = state["place"], state["heading"], 2 * self.reach
        judged_R = state["judged_R"].at[place].set(f)
        before = jnp.where((place - heading >= 0) & (place - heading <= last), judged_R[place - heading], jnp.nan)
        heading = jnp.where(before > f, -heading, heading)
        onward = place + heading
        settled = state["settled"] | (onward < 0) | (onward > last) | (judged_R[onward] < f)
        return {"place": jnp.where(settled, place, onward), "heading": heading, "settled": settled, "judged_R": judged_R}
