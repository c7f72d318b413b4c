"""Uniform draws of problem indices from a task's training split, which has no end, or from a finite pool of it."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost.curricula.base import Context, Curriculum, Plan


@dataclasses.dataclass(frozen=True)
class Uniform(Curriculum):
    """Every training problem equally likely, independent of what was learned.

    Attributes:
      pool: number of problems, the first of the split, that are drawn with replacement; 0: no end. Studies of memorisation
        need a pool that is seen again and again. Problems of a pool are distinct as indices; a family with few problems may
        hold one of them twice.
      indices: the problems of the pool themselves, in place of the first ones: those of `tasks.distinct` hold none twice.

    Raises:
      ValueError: a negative pool, or indices that are not as many as the pool says.
    """

    pool: int = 0
    indices: tuple[int, ...] = ()

    def __post_init__(self):
        if self.indices and self.pool not in (0, len(self.indices)):
            raise ValueError(f"pool={self.pool} with {len(self.indices)} indices; leave pool at 0, or let it be their number")
        if self.pool < 0:
            raise ValueError(f"pool={self.pool} is negative; expected a number of problems, or 0 for no end")

    def sample(self, state: dict, key: jax.Array, plan: Plan, context: Context) -> tuple[dict, Plan]:
        """Independent draws; without a pool the plan's own, which are uniform. The same key gives the same problems."""
        del context
        count = plan.index_B.shape[0]
        if self.indices:
            place_B = jax.random.randint(key, (count,), 0, len(self.indices))
            return state, plan._replace(index_B=jnp.asarray(self.indices, jnp.uint32)[place_B])
        if self.pool:
            return state, plan._replace(index_B=jax.random.randint(key, (count,), 0, self.pool).astype(jnp.uint32))
        return state, plan
