"""Importance ratios between the policy and the behaviour that sampled.

Shapes: N rows, T tokens.
"""

import jax
import jax.numpy as jnp

LARGEST = 80.0  # of a log-ratio
FORMULAS = {  # level -> r, as docs/objectives.md writes it
    "none": "exp(l - sg(l)), whose value is 1",
    "token": "exp(l - o)",
    "sequence": "exp(mean_t(l - o))",
    "sequence_token": "sg(exp(mean_t(l - o))) exp(l - sg(l))",
    "sequence_product": "exp(sum_t(l - o))",
}
LEVELS = tuple(FORMULAS)


def ratio(logp_NxT: jax.Array, behaviour_NxT: jax.Array, mask_NxT: jax.Array, level: str,
          clamp: float | None = None) -> jax.Array:
    """ratio_NxT = pi / behaviour at a level.

      token             exp(l_t - o_t)
      sequence          exp(mean_t(l_t - o_t)), one value a row (GSPO, arXiv:2507.18071)
      sequence_token    sg(that) * exp(l_t - sg(l_t)): its value, the gradient of each token's own (GSPO-token)
      sequence_product  exp(sum_t(l_t - o_t)), one value a row (RLOO in TRL)
      none              exp(l_t - sg(l_t)) = 1 in value: the plain score-function gradient

    Every exponent is held in [-80, 80]: float32 overflows at 88.

    Args:
      logp_NxT, behaviour_NxT: log-probabilities l and o.
      mask_NxT: 1 on counted tokens; off-mask ratios are 1 at level "token".
      level: one of LEVELS.
      clamp: a token's l - o is held in [-clamp, clamp] first (verl and Tunix: 20); None leaves it.

    Raises:
      ValueError: unknown level.
    """
    if level not in LEVELS:
        raise ValueError(f"ratio level {level!r} is unknown; choose one of {', '.join(LEVELS)}")
    own_NxT = jnp.exp(logp_NxT - jax.lax.stop_gradient(logp_NxT))
    if level == "none":
        return own_NxT
    log_ratio = jnp.where(mask_NxT > 0, logp_NxT - behaviour_NxT, 0.0)
    if clamp is not None:
        log_ratio = jnp.clip(log_ratio, -clamp, clamp)
    if level == "token":
        return jnp.exp(jnp.clip(log_ratio, -LARGEST, LARGEST))
    total_N = log_ratio.sum(axis=1, keepdims=True)
    if level != "sequence_product":
        total_N = total_N / jnp.maximum((mask_NxT > 0).sum(axis=1, keepdims=True), 1)
    total_N = jnp.clip(total_N, -LARGEST, LARGEST)
    if level == "sequence_token":
        return jax.lax.stop_gradient(jnp.exp(total_N)) * own_NxT
    return jnp.broadcast_to(jnp.exp(total_N), logp_NxT.shape)


def truncated_weight(proximal_NxT: jax.Array, behaviour_NxT: jax.Array, cap: float) -> jax.Array:
    """sg(min(exp(proximal - behaviour), cap)) per token: corrects a sampler that is not quite the trainer.

    Source: truncated importance sampling as in Tunix (cap 2) and TRL's vLLM correction.
    """
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(proximal_NxT - behaviour_NxT), cap))
