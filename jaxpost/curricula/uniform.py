"""Uniform draws of problem indices from a task's unbounded training split."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Every training problem equally likely, independent of what was learned."""

    def init(self) -> dict:
        """No state."""
        return {}

    def sample(self, state: dict, key: jax.Array, count: int) -> jax.Array:
        """index_B, uint32 problem indices; the same key gives the same problems."""
        del state
        return jax.random.bits(key, (count,), "uint32")

    def observe(self, state: dict, index_B: jax.Array, success_B: jax.Array) -> dict:
        """Nothing to learn from outcomes."""
        del index_B, success_B
        return state
