"""Rewards that depend on the completion alone. Shapes: N rows."""

import jax
import jax.numpy as jnp


def soft_overlong(length_N: jax.Array, limit: int, cache: int) -> jax.Array:
    """DAPO's length penalty (arXiv:2503.14476): 0 up to limit - cache tokens, then linear to -1 at the limit, -1 beyond.

      r = clip((limit - cache - n) / cache, -1, 0)
    """
    return jnp.clip((limit - cache - length_N) / cache, -1.0, 0.0)
