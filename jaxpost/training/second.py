"""A second pass: after verification, groups that failed are drawn again with more help, in the same step.

Shapes: B groups of which at most C are drawn again a round, G rows a group (S of them sampled), T completion tokens.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpost import curricula, models
from jaxpost.training.forcing import Prefix


class Rows(NamedTuple):
    """Rows of a step, groups adjacent, and what came of them."""

    problems_N: Any
    prompt_NxP: jax.Array
    made: models.Completions
    reward_N: jax.Array


class Again(NamedTuple):
    """What a second pass makes of the rows: a rule has `again(task, rows, plan, G, draw, key)`.

    `draw(problems_M, prompt_MxP, key, forced_MxT=None)` gives (completions, reward_M) of the current policy.
    """

    rows: Rows
    told: dict[str, tuple[jax.Array, jax.Array]]  # metrics, (sum, count)
    weights: curricula.Weights = curricula.Weights()


@dataclasses.dataclass(frozen=True)
class SecondPass:
    """Groups whose rewards are all at most `failed` are drawn again, each round with a larger part of the solution as a hint.

    A round draws the first C groups that still fail, whole; their new answers and rewards take the place of the old ones,
    hints are context (role "hint", out of the loss). A round without such a group draws nothing. The shares 1/4, 1/2, 3/4 are
    GHPO's (arXiv:2507.10628), where the hint ends the prompt; here it begins the completion, which is the same text. With
    `another`, a control, the hint is of the next group's problem.
    """

    capacity: int | None = None  # C; None: all groups
    shares: tuple[float, ...] = (0.25, 0.5, 0.75)  # of the solution, a round each
    failed: float = 0.0
    another: bool = False  # hints of another problem

    def __post_init__(self):
        if not self.shares or not all(0 < x < 1 for x in self.shares) or list(self.shares) != sorted(set(self.shares)):
            raise ValueError(f"second pass shares={self.shares} must grow within (0, 1), e.g. (0.25, 0.5, 0.75)")

    def check(self, groups: int, group: int) -> None:
        """Refuse a capacity that cannot be. Raises: ValueError."""
        del group
        if self.capacity is not None and not 1 <= self.capacity <= groups:
            raise ValueError(f"second pass capacity={self.capacity}, and a step draws {groups} groups; nearest valid: "
                             f"{min(max(self.capacity, 1), groups)}")

    def again(self, task, rows: Rows, plan: curricula.Plan, group: int, draw: Callable, key: jax.Array) -> Again:
        """The rows after all rounds."""
        del plan

        def redraw(rows_M, forced_MxT, key):
            return draw(jax.tree.map(lambda x: x[rows_M], rows.problems_N), rows.prompt_NxP[rows_M], key, forced_MxT)

        made, reward_N, share_B = self(task, rows.problems_N, rows.made, rows.reward_N, group, redraw, key)
        count, first_N = jnp.asarray(share_B.size, jnp.float32), rows.reward_N
        return Again(rows._replace(made=made, reward_N=reward_N), {
            "hinted_groups": ((share_B > 0).sum(dtype=jnp.float32), count), "hint_share": (share_B.sum(), count),
            "first_reward": (first_N.sum(), jnp.asarray(first_N.size, jnp.float32))})

    def __call__(self, task, problems_N, made: models.Completions, reward_N: jax.Array, group: int,
                 draw: Callable, key: jax.Array) -> tuple[models.Completions, jax.Array, jax.Array]:
        """(completions, reward_N, share_B of the solution that each group has seen) after all rounds.

        Args:
          problems_N, made, reward_N: of the first pass, groups of `group` rows adjacent.
          draw: (rows of the N, forced_MxT, key) -> (completions, reward_M) of these rows.
        """
        forced_NxT = jnp.zeros_like(made.mask_NxT) if made.forced_NxT is None else made.forced_NxT
        state = made._replace(forced_NxT=forced_NxT), reward_N, jnp.zeros(reward_N.size // group)
        for i, share in enumerate(self.shares):
            state = self._round(task, problems_N, state, group, draw, jax.random.fold_in(key, i), share)
        return state

    def _round(self, task, problems_N, state, group, draw, key, share):
        rewards_BxG = state[1].reshape(-1, group)
        fails_B = (rewards_BxG <= self.failed).all(axis=1)
        count = fails_B.size if self.capacity is None else self.capacity
        chosen_C = jnp.argsort(~fails_B, stable=True)[:count]
        rows_M = (chosen_C[:, None] * group + jnp.arange(group)[None]).reshape(-1)
        again_M = jnp.repeat(fails_B[chosen_C], group)
        hint = Prefix("fixed", share, share, role="hint")

        def anew(state):
            made, reward_N, share_B = state
            about_M = (rows_M + group) % reward_N.size if self.another else rows_M
            asked = jax.tree.map(lambda x: x[about_M], problems_N)
            forced_MxT = hint.tokens(task, asked, jax.random.fold_in(key, 0), 0, group)
            new, reward_M = draw(rows_M, forced_MxT, jax.random.fold_in(key, 1))

            def put(old, x):
                kept = jnp.where(again_M.reshape(-1, *(1,) * (x.ndim - 1)), x, old[rows_M])
                return old.at[rows_M].set(kept)

            return (jax.tree.map(put, made, new), put(reward_N, reward_M),
                    share_B.at[chosen_C].set(jnp.where(fails_B[chosen_C], share, share_B[chosen_C])))

        return jax.lax.cond(fails_B.any(), anew, lambda state: state, state)
