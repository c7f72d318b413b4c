"""Uniform draws of problem indices from a task's training split, which has no end, or from a finite pool of it."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Every training problem equally likely, independent of what was learned.

    Attributes:
      pool: number of problems, the first of the split, that are drawn with replacement; 0: no end. Studies of memorisation
        need a pool that is seen again and again. Problems of a pool are distinct as indices; a family with few problems may
        hold one of them twice.

    Raises:
      ValueError: a negative pool.
    """

    pool: int = 0

    def __post_init__(self):
        if self.pool < 0:
            raise ValueError(f"pool={self.pool} is negative; expected a number of problems, or 0 for no end")

    def init(self) -> dict:
        """No state."""
        return {}

    def sample(self, state: dict, key: jax.Array, count: int) -> jax.Array:
        """index_B, uint32 problem indices; the same key gives the same problems."""
        del state
        if self.pool:
            return jax.random.randint(key, (count,), 0, self.pool).astype(jnp.uint32)
        return jax.random.bits(key, (count,), "uint32")

    def observe(self, state: dict, index_B: jax.Array, success_B: jax.Array) -> dict:
        """Nothing to learn from outcomes."""
        del index_B, success_B
        return state
