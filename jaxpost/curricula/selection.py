"""From scores to choices. Shapes: M candidates, B chosen, A arms, G values."""

import jax
import jax.numpy as jnp

from jaxpost.curricula.statistics import rank_within


def without_replacement(key: jax.Array, logit_M: jax.Array, count: int) -> jax.Array:
    """int32[count], distinct: one after another with probability softmax(logit) of those that are left (Gumbel top-k).

    Candidates with logit -inf come last.
    """
    gumbel_M = jax.random.gumbel(key, logit_M.shape)
    return jax.lax.top_k(jnp.where(logit_M > -jnp.inf, logit_M + gumbel_M, -jnp.inf), count)[1]


def categorical(key: jax.Array, logit_M: jax.Array, count: int) -> jax.Array:
    """int32[count], independent draws from softmax(logit)."""
    return jax.random.categorical(key, logit_M, shape=(count,))


def batch_of(key: jax.Array, logit_M: jax.Array, count: int) -> jax.Array:
    """Without replacement where there are enough candidates, else independent draws."""
    if count <= logit_M.shape[0]:
        return without_replacement(key, logit_M, count)
    return categorical(key, logit_M, count)


def cursor(order_M: jax.Array, first: jax.Array | int, count: int) -> jax.Array:
    """The next `count` of an order from position `first`, around its end."""
    return order_M[(first + jnp.arange(count)) % order_M.shape[0]]


def rank_power(score_M: jax.Array, exponent: float, valid_M: jax.Array) -> jax.Array:
    """Probabilities proportional to (1 / rank)^(1 / exponent), rank 1 the largest score; 0 where not valid."""
    order_M = jnp.argsort(jnp.where(valid_M, -score_M, jnp.inf), stable=True)
    rank_M = jnp.zeros(score_M.shape).at[order_M].set(jnp.arange(1.0, score_M.shape[0] + 1))
    return normalised(jnp.where(valid_M, rank_M ** (-1 / exponent), 0.0))


def normalised(weight_M: jax.Array) -> jax.Array:
    """weight / sum; uniform where all are 0."""
    total = weight_M.sum()
    return jnp.where(total > 0, weight_M / jnp.where(total > 0, total, 1.0), 1 / weight_M.shape[0])


def within_arms(key: jax.Array, arm_B: jax.Array, arm_M: jax.Array, visits_M: jax.Array, arms: int) -> jax.Array:
    """item_B of the given arms: those seen least often, in random order, so that an arm is used up before it repeats."""
    order_M = jnp.lexsort((visits_M + jax.random.uniform(key, arm_M.shape), arm_M))
    size_A = jnp.zeros(arms, jnp.int32).at[arm_M].add(1)
    start_A = jnp.cumsum(size_A) - size_A
    return order_M[start_A[arm_B] + rank_within(arm_B) % size_A[arm_B]]


def largest_variance(x_G: jax.Array, count: jax.Array | int, valid_G: jax.Array) -> jax.Array:
    """float[G], 1 on the `count` valid values of largest variance: the k smallest and count - k largest, for the best k.

    All valid values where there are no more than `count`. Ties of the variance go to the smaller k.
    """
    size = x_G.shape[0]
    order_G = jnp.argsort(jnp.where(valid_G > 0, x_G, jnp.inf), stable=True)
    sorted_G = jnp.where(valid_G > 0, x_G, 0.0)[order_G]
    valid = (valid_G > 0).sum()
    count = jnp.minimum(count, valid)
    place, k = jnp.arange(size)[None], jnp.arange(size + 1)[:, None]
    chosen_KxG = ((place < k) | (place >= valid - (count - k))) & (place < valid)
    n = jnp.maximum(count, 1)
    mean_Kx1 = jnp.where(chosen_KxG, sorted_G[None], 0.0).sum(axis=1, keepdims=True) / n
    variance_K = jnp.where(chosen_KxG, (sorted_G[None] - mean_Kx1) ** 2, 0.0).sum(axis=1) / n
    best = jnp.argmax(jnp.where(k[:, 0] <= count, variance_K, -1.0))
    return jnp.zeros(size).at[order_G].set(chosen_KxG[best].astype(jnp.float32))


def from_first(key: jax.Array, order_M: jax.Array, share: jax.Array | float, count: int) -> jax.Array:
    """index_B, uint32: uniform draws from the first ceil(share M) items of an order, one item at least."""
    pool = order_M.shape[0]
    first = jnp.clip(jnp.ceil(share * pool - 1e-4).astype(jnp.int32), 1, pool)  # 1e-4: a share that rounding put above
    return order_M[jax.random.randint(key, (count,), 0, first)].astype(jnp.uint32)
