"""Optimizers without a learning rate: the step multiplies by it, so that it can be an argument and swept."""

import jax
import jax.numpy as jnp
import optax

from jaxpost.lookup import nearest

NAMES = ("adamw", "sgd")
SCHEDULES = ("constant", "linear", "cosine")


def make(name: str, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0,
         momentum: float = 0.9, clip_norm: float = 1.0, schedule: str = "constant", warmup_steps: int = 0, steps: int = 0,
         final_share: float = 0.0) -> optax.GradientTransformation:
    """A direction d such that the step is params - learning_rate * d.

      adamw  clip by global norm, Adam, + weight_decay * params (arXiv:1711.05101)
      sgd    clip by global norm, heavy-ball momentum

    and d is multiplied by the share of the learning rate that `relative_rate` gives at the optimizer step.

    Raises:
      ValueError: unknown name, a number out of its range, or as `relative_rate`.
    """
    below_1 = "at least 0 and below 1"
    for setting, value, valid, expected in (
            ("clip_norm", clip_norm, clip_norm > 0, "greater than 0; 1e9 clips nothing"),
            ("eps", eps, eps > 0, "greater than 0"), ("weight_decay", weight_decay, weight_decay >= 0, "at least 0"),
            ("b1", b1, 0 <= b1 < 1, below_1), ("b2", b2, 0 <= b2 < 1, below_1),
            ("momentum", momentum, 0 <= momentum < 1, below_1)):
        if not valid:
            raise ValueError(f"{setting}={value}: must be {expected}")
    clip = optax.clip_by_global_norm(clip_norm)
    if name == "adamw":
        parts = [clip, optax.scale_by_adam(b1, b2, eps), optax.add_decayed_weights(weight_decay)]
    elif name == "sgd":
        parts = [clip, optax.trace(momentum)]
    else:
        raise ValueError(f"optimizer {name!r} is not known{nearest(name, NAMES)}")
    share = relative_rate(schedule, warmup_steps, steps, final_share)
    return optax.chain(*parts, *([] if share is None else [optax.scale_by_schedule(share)]))


def relative_rate(schedule: str, warmup_steps: int, steps: int, final_share: float) -> optax.Schedule | None:
    """optimizer step t = 0, 1, ... -> share of the learning rate; None where it is always 1.

      t < W      (t + 1) / (W + 1)                                  W = warmup_steps
      constant   1
      linear     1 + (F - 1) u,   u = (t - W) / (steps - W)         F = final_share
      cosine     F + (1 - F) (1 + cos(pi u)) / 2

    Raises:
      ValueError: a schedule that is not known, a warm-up that leaves no step, a share outside [0, 1].
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule {schedule!r} is not known{nearest(schedule, SCHEDULES)}")
    decays = schedule != "constant"
    if warmup_steps < 0 or (steps or decays) and warmup_steps >= steps:
        raise ValueError(f"warmup_steps={warmup_steps} of steps={steps}: a warm-up leaves at least one step after it, and a "
                         "schedule that decays needs the number of steps")
    if not 0 <= final_share <= 1:
        raise ValueError(f"final_share={final_share} is a share of the learning rate, from 0 to 1")
    if not decays and not warmup_steps:
        return None

    def share(t):
        u = jnp.clip((t - warmup_steps) / max(steps - warmup_steps, 1), 0.0, 1.0)
        body = {"constant": 1.0, "linear": 1 + (final_share - 1) * u,
                "cosine": final_share + (1 - final_share) * 0.5 * (1 + jnp.cos(jnp.pi * u))}[schedule]
        return jnp.where(t < warmup_steps, (t + 1) / (warmup_steps + 1), body)

    return share


def wide(tree: dict) -> dict:
    """The tree in at least float32: gradients and moments are kept there whatever the storage dtype."""
    return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)


def advance(transform: optax.GradientTransformation, trainable, params: dict, grads: dict, opt_state: optax.OptState,
            learning_rate: jax.Array) -> tuple:
    """(params, updates before rounding, opt_state, trainable) after one update of everything, or of what is trainable.

    Args:
      trainable: None, `masking.Mask` or `adapters.LowRank`.
    """
    if trainable is not None:
        return trainable.advance(transform, params, grads, opt_state, learning_rate)
    direction, opt_state = transform.update(grads, opt_state, wide(params))
    return *apply_direction(params, direction, learning_rate), opt_state, None


def apply_direction(params: dict, direction: dict, learning_rate: jax.Array) -> tuple[dict, dict]:
    """(new params in their storage dtype, the updates before they were rounded to it)."""
    updates = jax.tree.map(lambda d: -learning_rate * d, direction)
    return jax.tree.map(lambda p, u: (p.astype(u.dtype) + u).astype(p.dtype), params, updates), updates
