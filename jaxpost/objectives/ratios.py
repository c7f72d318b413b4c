"""Importance ratios between the policy and the behaviour that sampled, and their clipped surrogate.

Shapes: N rows, T tokens.
"""

import jax
import jax.numpy as jnp

LEVELS = ("none", "token", "sequence", "sequence_product")


def ratio(logp_NxT: jax.Array, behaviour_NxT: jax.Array, mask_NxT: jax.Array, level: str) -> jax.Array:
    """ratio_NxT = pi / behaviour at a level.

      token             exp(l_t - o_t)
      sequence          exp(mean_t(l_t - o_t)), one value a row (GSPO, arXiv:2507.18071)
      sequence_product  exp(sum_t(l_t - o_t)), one value a row (RLOO in TRL)
      none              exp(l_t - sg(l_t)) = 1 in value: the plain score-function gradient

    Raises:
      ValueError: unknown level.
    """
    if level not in LEVELS:
        raise ValueError(f"ratio level {level!r} is unknown; choose one of {', '.join(LEVELS)}")
    if level == "none":
        return jnp.exp(logp_NxT - jax.lax.stop_gradient(logp_NxT))
    log_ratio = jnp.where(mask_NxT > 0, logp_NxT - behaviour_NxT, 0.0)
    if level == "token":
        return jnp.exp(log_ratio)
    total_N = log_ratio.sum(axis=1, keepdims=True)
    if level == "sequence":
        total_N = total_N / jnp.maximum((mask_NxT > 0).sum(axis=1, keepdims=True), 1)
    return jnp.broadcast_to(jnp.exp(total_N), logp_NxT.shape)


def clipped_surrogate(ratio_NxT: jax.Array, advantage_NxT: jax.Array, low: float | None,
                      high: float | None) -> tuple[jax.Array, jax.Array]:
    """-min(r A, clip(r, 1-low, 1+high) A) per token, and which tokens the clip holds (their gradient is 0).

    A bound of None is no bound. Source: PPO, arXiv:1707.06347 (low = high); DAPO, arXiv:2503.14476 (low < high).
    """
    lower = -jnp.inf if low is None else 1.0 - low
    upper = jnp.inf if high is None else 1.0 + high
    free, held = ratio_NxT * advantage_NxT, jnp.clip(ratio_NxT, lower, upper) * advantage_NxT
    return -jnp.minimum(free, held), held < free
