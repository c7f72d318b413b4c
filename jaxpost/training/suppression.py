"""Gradient suppression: updates that follow what several gradients agree on, and drop what one of them says alone.

Winsorising clips every coordinate of the gradients of one batch; M3 and RM3 take the coordinate-wise median of three
minibatch gradients (Chatterjee, arXiv:2002.10657; Chatterjee and Zielinski, arXiv:2203.10036).

Legend: m gradients on a leading axis.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

DECAY = ("before", "after")


def nearest_rank(percent: float, m: int) -> int:
    """How many order statistics lie beyond the `percent` percentile of m: the nearest rank, ties outward.

    >>> nearest_rank(10.0, 100)  # position 9.9 of 0..99
    10
    """
    return math.ceil(round(percent / 100 * (m - 1), 9) - 0.5)


def winsorise(grads_m: Any, percent: float) -> Any:
    """Clip every coordinate of m gradients to its own [percent, 100 - percent] percentiles, nearest rank.

      g_ij <- clip(g_ij, x_(k), x_(m-1-k)),  x the sorted values of coordinate j over i, k = nearest_rank(percent, m)

    Args:
      grads_m: a tree with a leading axis of m per-example or per-chunk gradients.
      percent: in [0, 50); 0 changes nothing.

    Returns: the clipped gradients, same shapes; their sum is the winsorised gradient.
    Raises: ValueError for a percent outside [0, 50), or leading axes that differ.
    Source: arXiv:2002.10657. Which of the nearest ranks a tie takes is *reconstructed*: outward, on both sides alike.
    """
    if not 0 <= percent < 50:
        raise ValueError(f"winsorise: percent={percent} is outside [0, 50); 10 is the paper's on MNIST")
    counts = {x.shape[0] for x in jax.tree.leaves(grads_m)}
    if len(counts) != 1:
        raise ValueError(f"winsorise: gradients need one leading axis; found lengths {sorted(counts)}")
    m = counts.pop()
    k = nearest_rank(percent, m)

    def clip(x_m):
        ordered = jnp.sort(x_m, axis=0)
        return jnp.clip(x_m, ordered[k][None], ordered[m - 1 - k][None])

    return jax.tree.map(clip, grads_m)


def median_of_three(a: Any, b: Any, c: Any) -> Any:
    """Coordinate-wise median of three trees: a + b + c - min - max, taken by comparisons, so that nothing is rounded."""
    return jax.tree.map(lambda x, y, z: jnp.maximum(jnp.minimum(x, y), jnp.minimum(jnp.maximum(x, y), z)), a, b, c)


def mean_at_norm_of(suppressed: Any, grads_m: Any) -> Any:
    """The mean of m gradients at the length of a suppressed one: what is left of suppression when its direction is taken away.

      mean(g) ||suppressed|| / ||mean(g)||;   0 where the mean is 0

    Args:
      suppressed: a tree. grads_m: the same tree with a leading axis of the m gradients that it was made of.
    """
    mean = jax.tree.map(lambda x_m: x_m.mean(axis=0), grads_m)
    length = optax.tree.norm(mean)
    scale = jnp.where(length > 0, optax.tree.norm(suppressed) / jnp.where(length > 0, length, 1.0), 0.0)
    return jax.tree.map(lambda x: scale * x, mean)


def mean_at_median_norm(a: Any, b: Any, c: Any) -> Any:
    """The mean of three trees at the norm of their coordinate-wise median (`mean_at_norm_of`)."""
    return mean_at_norm_of(median_of_three(a, b, c), jax.tree.map(lambda *x: jnp.stack(x), a, b, c))


class MedianState(NamedTuple):
    """The two gradients before this one, how many were seen, and the state of the inner transform."""

    previous: tuple[Any, Any]
    count: jax.Array
    inner: Any


def median_update(inner: optax.GradientTransformation, *, rolling: bool = False, weight_decay: float = 0.0,
                  decay: str = "before", combine: Callable[[Any, Any, Any], Any] = median_of_three
                  ) -> optax.GradientTransformation:
    """Feed `inner` the coordinate-wise median of three minibatch gradients.

      M3   rolling=False: one update per three minibatches, zero updates between
      RM3  rolling=True: an update every minibatch from the third on, of the last three

    On steps without an update the inner state stays as it is. `weight_decay * params` is added to each gradient before
    the median (decay="before", the order of the authors' M3) or to the median (decay="after", that of an RM3 seen
    elsewhere). The orders agree for M3, whose parameters do not move between its three gradients, and differ for RM3.

    `combine` is what is made of the three gradients: `mean_at_median_norm` is the control at matched norms.

    Costs two trees like the parameters; a median of chunks inside one step is `median_of_three` itself.

    Raises: ValueError for an unknown `decay` or a negative `weight_decay`; on update, when there is decay and no params.
    """
    if decay not in DECAY:
        raise ValueError(f"median_update: decay={decay!r} is unknown; choose one of {', '.join(DECAY)}")
    if weight_decay < 0:
        raise ValueError(f"median_update: weight_decay={weight_decay} is negative")

    def init(params):
        zero = jax.tree.map(jnp.zeros_like, params)
        return MedianState((zero, zero), jnp.zeros((), jnp.int32), inner.init(params))

    def decayed(tree, params, when):
        if weight_decay == 0 or decay != when:
            return tree
        if params is None:
            raise ValueError("median_update: weight decay needs the parameters; pass them to update")
        return jax.tree.map(lambda g, p: g + weight_decay * p.astype(g.dtype), tree, params)

    def update(grads, state, params=None):
        grads, count = decayed(grads, params, "before"), state.count + 1
        median = decayed(combine(*state.previous, grads), params, "after")
        updates, after = inner.update(median, state.inner, params)
        due = count >= 3 if rolling else count % 3 == 0
        updates = jax.tree.map(lambda u: jnp.where(due, u, jnp.zeros_like(u)), updates)
        kept = jax.tree.map(lambda new, old: jnp.where(due, new, old), after, state.inner)
        return updates, MedianState((state.previous[1], grads), count, kept)

    return optax.GradientTransformation(init, update)
