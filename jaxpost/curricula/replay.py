"""Prioritised level replay: old problems by their score's rank and their staleness, or new ones."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost.curricula import selection, statistics
from jaxpost.curricula.base import Context, Feedback, Plan, Pooled, Weights


@dataclasses.dataclass(frozen=True)
class Replay(Pooled):
    """Prioritised level replay over a pool; every step replays seen problems or takes new ones.

      P = (1 - staleness) P_score + staleness P_stale,  P_score ~ rank(score)^(-1 / exponent),  P_stale ~ steps since drawn
      score: mean |advantage| of a visit, an exponential average at `rate`

    A step replays with probability `replay` once a share `fill` of the pool was seen, and always when all of it was. A robust
    one does not train on new problems.

    Raises:
      ValueError: no pool, or numbers out of range.
    """

    paper: ClassVar[str] = "arXiv:2010.03934"
    differs: ClassVar[str] = "mean |A| of a group in place of the value loss; new levels are those of the pool that were " \
        "not drawn yet; robust=True is arXiv:2110.02439"

    replay: float = 0.5
    staleness: float = 0.1
    exponent: float = 0.1
    rate: float = 1.0
    fill: float = 0.5
    robust: bool = False

    def __post_init__(self):
        super().__post_init__()
        shares = {name: getattr(self, name) for name in ("replay", "staleness", "fill")}
        if not (all(0 <= x <= 1 for x in shares.values()) and self.exponent > 0 and 0 < self.rate <= 1):
            raise ValueError(f"{', '.join(f'{k}={v}' for k, v in shares.items())}, exponent={self.exponent}, rate={self.rate}: "
                             "expected shares in [0, 1], an exponent above 0 and a rate in (0, 1]")

    @property
    def needs(self) -> frozenset[str]:
        """Advantages."""
        return frozenset({"advantage"})

    @property
    def probes(self) -> bool:
        """The robust form."""
        return self.robust

    def init(self, key: jax.Array) -> dict:
        """Nothing seen."""
        del key
        return {"score_M": jnp.zeros(self.pool), "seen_M": jnp.zeros(self.pool, bool),
                "drawn_M": jnp.zeros(self.pool, jnp.int32)}

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
        mean_M, rows_M = statistics.means_by(item_N, jnp.abs(feedback.advantage_BxG).reshape(-1),
                                             feedback.used_BxG.reshape(-1), self.pool)
        old_M, drawn_M = state["score_M"], rows_M > 0
        new_M = jnp.where(state["seen_M"], statistics.ema(old_M, mean_M, self.rate), mean_M)
        return state | {"score_M": jnp.where(drawn_M, new_M, old_M), "seen_M": state["seen_M"] | drawn_M}, weights
