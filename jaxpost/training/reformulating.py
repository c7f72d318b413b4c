"""A second pass with the solution in sight: failed answers are drawn again, and trained on as answers to the bare prompt.

Shapes: B groups of G rows, k of them drawn again, M = B k, P prompt and T completion tokens.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxpost import curricula, tasks
from jaxpost.training.second import Again, Rows


@dataclasses.dataclass(frozen=True)
class Reformulation:
    """Of a group whose rewards are all at most `failed`, the first `rows` answers are drawn again behind the solution.

      drawn     y ~ pi(. | solution, prompt)       the oracle's answer with its end token, then the prompt
      trained   on (prompt, y), with log pi(y | solution, prompt) as the behaviour's: the ratio of the objective corrects for
                what the policy was shown

    With `another`, a control, the solution is that of the next group's problem. Metrics: `guided_groups`, the share of groups
    that were drawn again, and `guided_reward`, the mean reward of what they then said.

    Source: EGSR, arXiv:2505.08364, whose mechanism is recalled: guided trajectories for failed prompts instead of imitation.
    Reconstructed: how many rows of a group, the context, and the ratio.
    """

    rows: int = 1
    failed: float = 0.0
    another: bool = False

    def check(self, groups: int, group: int) -> None:
        """Refuse a number of rows that cannot be. Raises: ValueError."""
        del groups
        if not 1 <= self.rows <= group:
            raise ValueError(f"reformulation rows={self.rows} of groups of {group}; nearest valid: "
                             f"{min(max(self.rows, 1), group)}")

    def again(self, task, rows: Rows, plan: curricula.Plan, group: int, draw: Callable, key: jax.Array) -> Again:
        """The rows with what failed groups say behind the solution."""
        del plan
        fails_B = (rows.reward_N.reshape(-1, group) <= self.failed).all(axis=1)
        index_M = (jnp.arange(fails_B.size)[:, None] * group + jnp.arange(self.rows)[None]).reshape(-1)
        again_M = jnp.repeat(fails_B, self.rows)
        about_M = (index_M + group) % rows.reward_N.size if self.another else index_M

        def anew(rows):
            problems = jax.tree.map(lambda x: x[about_M], rows.problems_N)
            key_M = jax.random.split(jax.random.fold_in(key, 0), index_M.size)
            solution_MxT = jax.vmap(task.oracle)(problems, key_M)
            context_MxC = in_sight(solution_MxT, rows.prompt_NxP[index_M], task)
            asked = jax.tree.map(lambda x: x[index_M], rows.problems_N)
            made, reward_M = draw(asked, context_MxC, jax.random.fold_in(key, 1))

            def put(old, x):
                return old.at[index_M].set(jnp.where(again_M.reshape(-1, *(1,) * (x.ndim - 1)), x, old[index_M]))

            return rows._replace(made=jax.tree.map(put, rows.made, made), reward_N=put(rows.reward_N, reward_M))

        drawn = jax.lax.cond(fails_B.any(), anew, lambda rows: rows, rows)
        told_M = again_M.astype(jnp.float32)
        return Again(drawn, {"guided_groups": (fails_B.sum(dtype=jnp.float32), jnp.asarray(fails_B.size, jnp.float32)),
                             "guided_reward": ((drawn.reward_N[index_M] * told_M).sum(), told_M.sum())})


def in_sight(solution_MxT: jax.Array, prompt_MxP: jax.Array, task: tasks.Task) -> jax.Array:
    """context_Mx(T + P): each solution through its end token and then the prompt, left-padded."""
    tokens = jnp.concatenate([solution_MxT, prompt_MxP], axis=1)
    real = jnp.concatenate([tasks.through(solution_MxT, task.ends) > 0, jnp.cumsum(prompt_MxP != task.pad, axis=1) > 0], axis=1)
    order = jnp.argsort(real, axis=1, stable=True)
    return jnp.take_along_axis(jnp.where(real, tokens, task.pad), order, axis=1)
