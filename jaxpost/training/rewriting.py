"""A second pass on rewritten problems: hard ones are made simpler and medium ones varied, by knobs of the world's generator.

Shapes: B groups of G rows, N = B G; 2B groups are drawn, B are trained on.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxpost import curricula, tasks
from jaxpost.lookup import nearest
from jaxpost.training.second import Again, Rows

Knobs = tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class Rewriting:
    """CLPO's rewriting (arXiv:2509.25004), with operators of the world in place of the policy's own words.

      p of a group        its mean reward
      hard, p <= hard     its problem is drawn again from the same key with the knobs `simplify`
      medium, p <= medium ... with the knobs `diversify`; every rewritten problem gets G rollouts
      trained on          the first B of: hard rewritten, medium rewritten, original groups with 0 < p < 1, in this order; where
                          there are fewer, the rest of the B counts nowhere; where there is none, all original groups count
      KL of a row         times `relief` if its group is of a hard problem, rewritten or not

    Metrics: `rewritten_groups`, the share of groups that were rewritten, `rewritten_reward`, the mean reward on them,
    `kept_rewritten`, the share of the trained groups that are rewritten.

    Differs from the paper in: the batch has B groups and not all that are informative; the answer of a rewritten problem may be
    another one, as its generator finds; no loss on the rewriting itself.

    Raises:
      ValueError: no operator, or numbers out of range.
    """

    simplify: Knobs = ()  # (knob, value) of hard problems
    diversify: Knobs = ()  # of medium ones
    hard: float = 0.3
    medium: float = 0.7
    relief: float = 0.5

    def __post_init__(self):
        if not (self.simplify or self.diversify):
            raise ValueError("rewriting has no operator: give simplify or diversify knobs of the task, e.g. (('nodes', 2),)")
        if not 0 <= self.hard <= self.medium <= 1 or self.relief < 0:
            raise ValueError(f"rewriting hard={self.hard}, medium={self.medium}, relief={self.relief}; expected "
                             "0 <= hard <= medium <= 1 and a factor of at least 0")

    def check(self, groups: int, group: int) -> None:
        """Nothing depends on the size of a step."""

    def require(self, task: tasks.Task) -> None:
        """Refuse knobs that the task does not have. Raises: ValueError."""
        known = task.splits["train"]
        known = known if isinstance(known, dict) else {}
        for name, _ in (*self.simplify, *self.diversify):
            if name not in known or name == "fold":
                raise ValueError(f"rewriting sets the knob {name!r}, which task {task.name!r} does not have"
                                 f"{nearest(name, sorted(set(known) - {'fold'}))}")

    def again(self, task, rows: Rows, plan: curricula.Plan, group: int, draw: Callable, key: jax.Array) -> Again:
        """The B groups that are trained on, with what they count."""
        rate_B = rows.reward_N.reshape(-1, group).mean(axis=1)
        hard_B = rate_B <= self.hard
        simplified_B, varied_B = hard_B & bool(self.simplify), ~hard_B & (rate_B <= self.medium) & bool(self.diversify)
        rewritten_B = simplified_B | varied_B

        def anew(rows):
            index_N, knobs_N = (jax.tree.map(lambda x: jnp.repeat(x, group, axis=0), x) for x in (
                plan.index_B, self._knobs(task, plan, simplified_B, varied_B)))
            problems_N = tasks.problems(task, "train", index_N, knobs_N)
            prompt_NxP = jax.vmap(task.prompt)(problems_N)
            made, reward_N = draw(problems_N, prompt_NxP, key)
            return Rows(problems_N, prompt_NxP, made, reward_N)

        new = jax.lax.cond(rewritten_B.any(), anew, lambda rows: rows, rows)
        new_rate_B = new.reward_N.reshape(-1, group).mean(axis=1)
        informative_B, new_informative_B = ((0 < p_B) & (p_B < 1) for p_B in (rate_B, new_rate_B))
        rank_2B = jnp.concatenate([jnp.select([~informative_B], [3], 2),
                                   jnp.select([~(rewritten_B & new_informative_B), simplified_B], [4, 0], 1)])
        kept_B = jnp.argsort(rank_2B, stable=True)[:rate_B.size]

        def keep(old, x):
            both = jnp.concatenate([old, x]).reshape(-1, group, *x.shape[1:])
            return both[kept_B].reshape(x.shape)

        counts_B = (rank_2B[kept_B] < 3) | (rank_2B.min() >= 3)
        kl_B = jnp.where(jnp.concatenate([hard_B, simplified_B])[kept_B], self.relief, 1.0)
        wide_BxG = jnp.ones((rate_B.size, group))
        weights = curricula.Weights().times(keep=counts_B[:, None] * wide_BxG, kl=kl_B[:, None] * wide_BxG)
        count, told_B = jnp.asarray(rate_B.size, jnp.float32), rewritten_B.astype(jnp.float32)
        return Again(jax.tree.map(keep, rows, new), {
            "rewritten_groups": (told_B.sum(), count), "rewritten_reward": ((new_rate_B * told_B).sum(), told_B.sum()),
            "kept_rewritten": ((kept_B >= rate_B.size).sum(dtype=jnp.float32), count)}, weights)

    def _knobs(self, task, plan: curricula.Plan, simplified_B: jax.Array, varied_B: jax.Array) -> dict:
        """Knobs of every rewritten problem: those of the plan or the split, but for the operator's."""
        knobs = {name: jnp.broadcast_to(jnp.asarray(plan.knobs.get(name, x), jnp.asarray(x).dtype), simplified_B.shape)
                 for name, x in task.splits["train"].items()}
        for where_B, changes in ((simplified_B, self.simplify), (varied_B, self.diversify)):
            for name, value in changes:
                knobs[name] = jnp.where(where_B, jnp.asarray(value, knobs[name].dtype), knobs[name])
        return knobs
