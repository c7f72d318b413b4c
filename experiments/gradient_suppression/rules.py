"""How a step is made of gradients: their mean, or what most of them agree on; and the mean at the length of that.

Legend: m examples of a batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from jaxpost.training import suppression


class Rule(NamedTuple):
    """`reduce(grads_m) -> grads` of one batch, and the transform that is fed with it."""

    reduce: Callable[[Any], Any]
    transform: optax.GradientTransformation


NAMES = ("mean", "winsorise", "m3", "rm3")


def make(name: str, *, suppressed: bool, percent: float) -> Rule:
    """A rule without a learning rate.

    Args:
      name: one of NAMES. percent: that winsorising clips on each side.
      suppressed: False is the control at matched norms, the mean of the same gradients at the length of the suppressed one.
    """
    if name == "winsorise":
        def clipped(grads_m):
            mean = _mean(suppression.winsorise(grads_m, percent))
            return mean if suppressed else suppression.mean_at_norm_of(mean, grads_m)

        return Rule(clipped, optax.identity())
    if name == "mean":
        return Rule(_mean, optax.identity())
    combine = suppression.median_of_three if suppressed else suppression.mean_at_median_norm
    return Rule(_mean, suppression.median_update(optax.identity(), rolling=name == "rm3", combine=combine))


def _mean(grads_m: Any) -> Any:
    return jax.tree.map(lambda x_m: x_m.mean(axis=0), grads_m)
