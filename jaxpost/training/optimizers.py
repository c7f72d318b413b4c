"""Optimizers without a learning rate: the step multiplies by it, so that it can be an argument and swept."""

import jax
import jax.numpy as jnp
import optax

NAMES = ("adamw", "sgd")


def make(name: str, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0,
         momentum: float = 0.9, clip_norm: float = 1.0) -> optax.GradientTransformation:
    """A direction d such that the step is params - learning_rate * d.

      adamw  clip by global norm, Adam, + weight_decay * params (arXiv:1711.05101)
      sgd    clip by global norm, heavy-ball momentum

    Raises:
      ValueError: unknown name.
    """
    clip = optax.clip_by_global_norm(clip_norm)
    if name == "adamw":
        return optax.chain(clip, optax.scale_by_adam(b1, b2, eps), optax.add_decayed_weights(weight_decay))
    if name == "sgd":
        return optax.chain(clip, optax.trace(momentum))
    raise ValueError(f"optimizer {name!r} is unknown; choose one of {', '.join(NAMES)}")


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
