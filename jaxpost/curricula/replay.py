"""Prioritised level replay: old problems by their score's rank and their staleness, or new ones."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost import lookup
from jaxpost.curricula import selection, statistics
from jaxpost.curricula.base import Context, Feedback, Plan, Pooled, Weights

SCORES = {"absolute_advantage": "advantage", "positive_advantage": "advantage", "entropy": "entropy",
          "max_reward": "reward"}  # -> what it needs


@dataclasses.dataclass(frozen=True)
class Replay(Pooled):
    """Prioritised level replay over a pool; every step replays seen problems or takes new ones.

      P = (1 - staleness) P_score + staleness P_stale,  P_score ~ rank(score)^(-1 / exponent),  P_stale ~ steps since drawn
      score: an exponential average at `rate` over visits of, by `scored_by`
        absolute_advantage  mean |A| of the rollouts
        positive_advantage  mean max(A, 0); half of the former where advantages of a group have mean 0, so the same ranks
        entropy             mean over rollouts of the policy's mean entropy at their counted tokens, nats
        max_reward          the largest reward of the problem so far - mean reward of the visit (MaxMC)

    A step replays with probability `replay` once a share `fill` of the pool was seen, and always when all of it was. A robust
    one does not train on new problems.

    Raises:
      ValueError: no pool, or numbers out of range.
    """

    paper: ClassVar[str] = "arXiv:2010.03934"
    differs: ClassVar[str] = "advantages of a group in place of the errors of a value, also in the positive ones, and its " \
        "mean reward in place of the value in MaxMC; new levels are those of the pool that were not drawn yet; robust=True, " \
        "with MaxMC and the positive loss, is arXiv:2110.02439"

    replay: float = 0.5
    staleness: float = 0.1
    exponent: float = 0.1
    rate: float = 1.0
    fill: float = 0.5
    robust: bool = False
    scored_by: str = "absolute_advantage"  # SCORES

    def __post_init__(self):
        super().__post_init__()
        if self.scored_by not in SCORES:
            raise ValueError(f"scored_by={self.scored_by!r} is not known{lookup.nearest(self.scored_by, SCORES)}")
        shares = {name: getattr(self, name) for name in ("replay", "staleness", "fill")}
        if not (all(0 <= x <= 1 for x in shares.values()) and self.exponent > 0 and 0 < self.rate <= 1):
            raise ValueError(f"{', '.join(f'{k}={v}' for k, v in shares.items())}, exponent={self.exponent}, rate={self.rate}: "
                             "expected shares in [0, 1], an exponent above 0 and a rate in (0, 1]")

    @property
    def needs(self) -> frozenset[str]:
        """What the score reads."""
        return frozenset({SCORES[self.scored_by]})

    @property
    def probes(self) -> bool:
        """The robust form."""
        return self.robust

    def init(self, key: jax.Array) -> dict:
        """Nothing seen."""
        del key
        state = {"score_M": jnp.zeros(self.pool), "seen_M": jnp.zeros(self.pool, bool),
                 "drawn_M": jnp.zeros(self.pool, jnp.int32)}
        return state | ({"best_M": jnp.full(self.pool, -jnp.inf)} if self.scored_by == "max_reward" else {})

    def probabilities(self, state: dict, step: jax.Array | int) -> jax.Array:
        """P of every item; 0 for items that were not seen."""
        score_M = selection.rank_power(state["score_M"], self.exponent, state["seen_M"])
        stale_M = jnp.where(state["seen_M"], step - state["drawn_M"], 0).astype(jnp.float32)
        stale_M = jnp.where(stale_M.sum() > 0, selection.normalised(stale_M), score_M)
        return (1 - self.staleness) * score_M + self.staleness * stale_M

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """As `Curriculum.sample`."""
        decide_key, old_key, new_key = jax.random.split(key, 3)
        share = state["seen_M"].mean()
        replays = (jax.random.uniform(decide_key) < self.replay) & (share >= self.fill) | (share >= 1)
        old_B = selection.categorical(old_key, jnp.log(self.probabilities(state, context.step)), plan.index_B.shape[0])
        unseen_M = jnp.where(state["seen_M"], -30.0, 0.0)  # seen ones fill up where too few are new
        item_B = jnp.where(replays, old_B, selection.batch_of(new_key, unseen_M, plan.index_B.shape[0]))
        state = state | {"drawn_M": state["drawn_M"].at[item_B].set(context.step)}
        plan = plan._replace(index_B=item_B.astype(jnp.uint32))
        return state, plan._replace(train=plan.train & replays) if self.robust else plan

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Scores of the items that were drawn."""
        item_N = jnp.repeat(feedback.plan.index_B.astype(jnp.int32), feedback.used_BxG.shape[1])
        used_N, x_N = feedback.used_BxG.reshape(-1), self._scored(feedback).reshape(-1)
        mean_M, rows_M = statistics.means_by(item_N, x_N, used_N, self.pool)
        if self.scored_by == "max_reward":
            best_M = state["best_M"].at[item_N].max(jnp.where(used_N > 0, x_N, -jnp.inf), mode="drop")
            state, mean_M = state | {"best_M": best_M}, best_M - mean_M
        old_M, drawn_M = state["score_M"], rows_M > 0
        new_M = jnp.where(state["seen_M"], statistics.ema(old_M, mean_M, self.rate), mean_M)
        return state | {"score_M": jnp.where(drawn_M, new_M, old_M), "seen_M": state["seen_M"] | drawn_M}, weights

    def _scored(self, feedback):
        """What is averaged, a number a rollout."""
        if self.scored_by == "entropy":
            counted_BxGxT = feedback.counted_BxGxT
            total_BxG = jnp.where(counted_BxGxT > 0, feedback.entropy_BxGxT, 0.0).sum(axis=2)
            return total_BxG / jnp.maximum((counted_BxGxT > 0).sum(axis=2), 1)
        if self.scored_by == "max_reward":
            return feedback.reward_BxG
        advantage_BxG = feedback.advantage_BxG
        return jnp.maximum(advantage_BxG, 0.0) if self.scored_by == "positive_advantage" else jnp.abs(advantage_BxG)
