"""What a rule remembers: means by arm, exponential averages, windows of the last values, and Beta counts.

Shapes: N values with a key each (an item or an arm), K keys, W values of a window. A key outside 0..K-1 is dropped.
"""

import jax
import jax.numpy as jnp


def means_by(key_N: jax.Array, x_N: jax.Array, weight_N: jax.Array, keys: int) -> tuple[jax.Array, jax.Array]:
    """(mean_K, weight_K): sum of weight x / sum of weight for each key; mean 0 where the weight is 0."""
    weight_K = jnp.zeros(keys).at[key_N].add(weight_N, mode="drop")
    total_K = jnp.zeros(keys).at[key_N].add(jnp.where(weight_N > 0, x_N, 0.0) * weight_N, mode="drop")
    return total_K / jnp.where(weight_K > 0, weight_K, 1.0), weight_K


def ema(old: jax.Array, new: jax.Array, rate: float | jax.Array) -> jax.Array:
    """(1 - rate) old + rate new."""
    return (1 - rate) * old + rate * new


def rank_within(key_N: jax.Array) -> jax.Array:
    """int32: how many earlier entries have the same key."""
    order_N = jnp.argsort(key_N, stable=True)
    sorted_N = key_N[order_N]
    first_N = jnp.searchsorted(sorted_N, sorted_N, side="left")
    return jnp.zeros(key_N.shape, jnp.int32).at[order_N].set((jnp.arange(key_N.shape[0]) - first_N).astype(jnp.int32))


def push(window_KxW: jax.Array, count_K: jax.Array, key_N: jax.Array, x_N: jax.Array,
         valid_N: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(windows, counts) with the valid values appended to the ring of their key, in order; the last W of each are kept."""
    keys, width = window_KxW.shape
    key_N = jnp.where(valid_N, key_N, keys)
    new_K = jnp.zeros(keys, jnp.int32).at[key_N].add(1, mode="drop")
    rank_N, padded_N = rank_within(key_N), jnp.minimum(key_N, keys - 1)
    lasting_N = valid_N & (rank_N >= new_K[padded_N] - width)
    slot_N = (count_K[padded_N] + rank_N) % width
    return window_KxW.at[jnp.where(lasting_N, key_N, keys), slot_N].set(x_N, mode="drop"), count_K + new_K


def window_mean(window_KxW: jax.Array, count_K: jax.Array) -> jax.Array:
    """mean_K of the values in each ring; 0 for an empty one."""
    held_KxW = jnp.arange(window_KxW.shape[1])[None] < count_K[:, None]
    return jnp.where(held_KxW, window_KxW, 0.0).sum(axis=1) / jnp.clip(count_K, 1, window_KxW.shape[1])


def beta_mean(successes: jax.Array, failures: jax.Array) -> jax.Array:
    """Posterior mean of a success rate under a uniform prior: (1 + S) / (2 + S + F)."""
    return (1 + successes) / (2 + successes + failures)


def slope(x_W: jax.Array, y_W: jax.Array, count: jax.Array) -> jax.Array:
    """Least-squares slope of y over x in the first `count` entries; 0 for fewer than two, or where x does not vary."""
    live_W = (jnp.arange(x_W.shape[0]) < count).astype(x_W.dtype)
    n = jnp.maximum(live_W.sum(), 1.0)
    x_W = (x_W - (x_W * live_W).sum() / n) * live_W
    y_W = (y_W - (y_W * live_W).sum() / n) * live_W
    square = (x_W * x_W).sum()
    return jnp.where(square > 0, (x_W * y_W).sum() / jnp.where(square > 0, square, 1.0), 0.0)
