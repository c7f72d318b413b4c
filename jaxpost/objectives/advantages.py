"""Advantages of grouped samples. Shapes: B prompts, G samples a prompt."""

import jax
import jax.numpy as jnp

BASELINES = ("none", "mean", "leave_one_out")
SCALES = ("none", "group", "batch")


def advantage(reward_BxG: jax.Array, *, baseline: str, scale: str = "none", ddof: int = 1,
              eps: float = 1e-4) -> jax.Array:
    """(reward - baseline) / (std + eps).

      baseline  none: 0; mean: the group's mean; leave_one_out: mean of the other G-1 samples (RLOO, arXiv:2402.14740)
      scale     none: divide by 1; group: standard deviation of the group's rewards; batch: of all rewards

    Args:
      reward_BxG: float rewards.
      ddof: 1 divides the variance by n-1 (TRL, Tunix, verl), 0 by n.
      eps: added to the standard deviation (TRL 1e-4).

    Returns:
      advantage_BxG. A group of one has no baseline (0) and unit scale, as in verl; a group of equal rewards gives 0.

    Raises:
      ValueError: unknown baseline or scale.
    """
    if baseline not in BASELINES:
        raise ValueError(f"advantage baseline {baseline!r} is unknown; choose one of {', '.join(BASELINES)}")
    if scale not in SCALES:
        raise ValueError(f"advantage scale {scale!r} is unknown; choose one of {', '.join(SCALES)}")
    G = reward_BxG.shape[1]
    if G == 1 or baseline == "none":
        centred = reward_BxG
    elif baseline == "mean":
        centred = reward_BxG - reward_BxG.mean(axis=1, keepdims=True)
    else:
        centred = (reward_BxG - reward_BxG.mean(axis=1, keepdims=True)) * (G / (G - 1))
    if scale == "none" or (scale == "group" and G == 1):
        return centred
    axis = 1 if scale == "group" else None
    return centred / (jnp.std(reward_BxG, axis=axis, ddof=ddof, keepdims=True) + eps)


def accepted(reward_BxG: jax.Array, threshold: float = 1.0) -> jax.Array:
    """RAFT weights (arXiv:2304.06767): samples with reward >= threshold, repeated to fill their group.

    w_bg = G / #accepted_b on accepted samples, 0 elsewhere: the same gradient as cycling the accepted samples of a
    group through its G rows, so a group with one accepted sample keeps its rows and loss tokens. A group without an
    accepted sample weighs 0 everywhere.
    """
    keep = (reward_BxG >= threshold).astype(reward_BxG.dtype)
    return keep * (reward_BxG.shape[1] / jnp.maximum(keep.sum(axis=1, keepdims=True), 1.0))
