"""How long a hint each problem or row gets: by what failed before, or falling along training.

A hint is the beginning of the demonstration, `training.forcing.Prefix` of role hint. Shapes: B items, G rows, M of the pool.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost.curricula.base import Context, Curriculum, Feedback, Plan, Pooled, Weights

SHARE = "hint_share"  # of a plan: the share of the demonstration that is given, of an item or of each of its rows


@dataclasses.dataclass(frozen=True)
class NextVisit(Pooled):
    """GHPO relaxed to the next visit: an item whose rollouts all failed gets a longer hint when it is drawn again.

      level <- level + 1 if no rollout of the group has a reward above 0, else level - 1;   hint share = shares[level]

    Raises:
      ValueError: no pool, or shares outside [0, 1].
    """

    paper: ClassVar[str] = "arXiv:2507.10628"
    differs: ClassVar[str] = "the hint comes at the item's next visit, not in the same step (`second_pass` of an arm does " \
        "that), and begins the answer"
    reconstructed: ClassVar[str] = "a success takes one level back"

    shares: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)

    def __post_init__(self):
        super().__post_init__()
        if not self.shares or not all(0 <= x <= 1 for x in self.shares):
            raise ValueError(f"shares={self.shares}: expected one or more in [0, 1]")

    @property
    def needs(self) -> frozenset[str]:
        """Success, and hints."""
        return frozenset({"reward", "hints"})

    def init(self, key: jax.Array) -> dict:
        """Level 0."""
        del key
        return {"level_M": jnp.zeros(self.pool, jnp.int32)}

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """Shares of the plan's items."""
        del key, context
        share_B = jnp.asarray(self.shares)[state["level_M"][plan.index_B]]
        return state, plan._replace(knobs=plan.knobs | {SHARE: share_B})

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Up where all failed, else down; once for an item that a step drew more than once, by all its rows."""
        item_B = feedback.plan.index_B.astype(jnp.int32)
        failed_B = ((feedback.reward_BxG <= 0) | (feedback.used_BxG <= 0)).all(axis=1)
        visits_M, failed_M = (jnp.zeros(self.pool, jnp.int32).at[item_B].add(x_B) for x_B in (1, failed_B.astype(jnp.int32)))
        move_M = jnp.where(visits_M == 0, 0, jnp.where(failed_M == visits_M, 1, -1))
        return {"level_M": jnp.clip(state["level_M"] + move_M, 0, len(self.shares) - 1)}, weights


@dataclasses.dataclass(frozen=True)
class Scaffold(Curriculum):
    """Scaffolding that decays: rows of a group get hints of different lengths, and all of them fade along training.

      share(t, i) = most (G - 1 - i) / (G - 1) / (1 + exp(slope (t / steps - middle))),   i = 0 .. G - 1 of a group

    Raises:
      ValueError: no steps, or numbers out of range; when traced, groups of one row.
    """

    paper: ClassVar[str] = "arXiv:2508.16949"
    differs: ClassVar[str] = "the beginning of a demonstration in place of rubrics in the prompt; the reward is the verifier's"
    reconstructed: ClassVar[str] = "the mechanism and its numbers are recalled"

    most: float = 1.0
    slope: float = 125.0
    middle: float = 0.2  # share of the steps
    steps: int = 0

    def __post_init__(self):
        if not (self.steps >= 1 and 0 <= self.most <= 1 and self.slope > 0 and 0 <= self.middle <= 1):
            raise ValueError(f"steps={self.steps}, most={self.most}, slope={self.slope}, middle={self.middle}: expected the "
                             "number of steps, shares and a slope above 0")

    @property
    def needs(self) -> frozenset[str]:
        """Hints."""
        return frozenset({"hints"})

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """Shares of the rows of every group."""
        del key
        if context.group < 2:
            raise ValueError("scaffolding differs between the rows of a group, and a group has 1; set group to at least 2")
        left = self.most * jax.nn.sigmoid(-self.slope * (context.step / self.steps - self.middle))
        share_G = left * jnp.linspace(1.0, 0.0, context.group)
        share_BxG = jnp.broadcast_to(share_G[None], (plan.index_B.shape[0], context.group))
        return state, plan._replace(knobs=plan.knobs | {SHARE: share_BxG})
