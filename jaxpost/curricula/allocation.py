"""How a budget of rollouts is shared among problems: integers whose sum is the budget. Shapes: B items, n of each at most N."""

import jax
import jax.numpy as jnp

from jaxpost.curricula.scores import signal


def proportional(weight_B: jax.Array, total: jax.Array | int, least: int = 0) -> jax.Array:
    """int32: `least` each, and the rest in proportion to the weights by largest remainders; equal shares if all are 0."""
    weight_sum = weight_B.sum()
    rest = total - least * weight_B.shape[0]
    share_B = rest * jnp.where(weight_sum > 0, weight_B / jnp.where(weight_sum > 0, weight_sum, 1.0), 1 / weight_B.shape[0])
    floor_B = jnp.floor(share_B)
    left = rest - floor_B.sum()
    place_B = jnp.argsort(jnp.argsort(floor_B - share_B, stable=True), stable=True)
    return (least + floor_B + (place_B < left)).astype(jnp.int32)


def greedy(gain_BxN: jax.Array, total: jax.Array | int, held_B: jax.Array) -> jax.Array:
    """int32: `held_B` and up to `total` more, one after another where the next is worth most.

    Exact for gains that fall in n (a concave value). Ties go to the item with the lower number.

    Args:
      gain_BxN: of the (n + 1)-th rollout of an item; -inf where it may not have as many.
      held_B: rollouts that each has already; gains of the first ones are not looked at.
    """
    open_BxN = (jnp.arange(gain_BxN.shape[1])[None] >= held_B[:, None]) & (gain_BxN > -jnp.inf)
    flat = jnp.where(open_BxN, gain_BxN, -jnp.inf).reshape(-1)
    order = jnp.argsort(-flat, stable=True)
    taken = jnp.zeros(flat.shape, jnp.int32).at[order].set((jnp.arange(flat.shape[0]) < total).astype(jnp.int32))
    return (held_B + jnp.where(open_BxN, taken.reshape(gain_BxN.shape), 0).sum(axis=1)).astype(jnp.int32)


def capped(count_B: jax.Array, most: int) -> jax.Array:
    """The counts cut at `most`, what was cut given to those with fewest: the sum stays, if there is room for it."""
    cut_B = jnp.minimum(count_B, most)
    level_BxN = jnp.broadcast_to(-jnp.arange(most, dtype=jnp.float32), (count_B.shape[0], most))
    return greedy(level_BxN, count_B.sum() - cut_B.sum(), cut_B)


def knapsack(p_B: jax.Array, total: jax.Array | int, held_B: jax.Array, most: int) -> jax.Array:
    """Rollouts of largest summed value `scores.signal` (arXiv:2509.25849), exactly: the value is concave in n."""
    n_1xN = jnp.arange(most, dtype=jnp.float32)[None]
    gain_BxN = signal(p_B[:, None], n_1xN + 1) - jnp.where(n_1xN > 0, signal(p_B[:, None], n_1xN), 0.0)
    return greedy(gain_BxN, total, held_B)
