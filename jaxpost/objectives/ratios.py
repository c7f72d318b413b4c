"""Importance ratios between the policy and the behaviour that sampled.

Shapes: N rows, T tokens.
"""

import jax
import jax.numpy as jnp

from jaxpost.objectives import clipping

LARGEST = 80.0  # of a log-ratio
FORMULAS = {  # level -> r, as docs/objectives.md writes it
    "none": "exp(l - sg(l)), whose value is 1",
    "token": "exp(l - o)",
    "sequence": "exp(mean_t(l - o))",
    "sequence_token": "sg(exp(mean_t(l - o))) exp(l - sg(l))",
    "sequence_product": "exp(sum_t(l - o))",
}
LEVELS = tuple(FORMULAS)
SAMPLER_FORMULAS = {  # level -> w
    "token": "exp(o - b)",
    "sequence": "exp(sum_t(o - b))",
    "geometric": "exp(mean_t(o - b))",
}
SAMPLER_RULE_FORMULAS = {  # rule -> the weight of a token's loss
    "truncate": "clip(w, sampler_floor, sampler_cap)",
    "mask": "w where sampler_floor <= w <= sampler_cap, else 0",
    "reject": "1; a token counts where sampler_floor <= w <= sampler_cap",
}
SAMPLER_LEVELS, SAMPLER_RULES = tuple(SAMPLER_FORMULAS), tuple(SAMPLER_RULE_FORMULAS)


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
        log_ratio = clipping.within(log_ratio, -clamp, clamp)
    if level == "token":
        return jnp.exp(jnp.clip(log_ratio, -LARGEST, LARGEST))
    total_N = log_ratio.sum(axis=1, keepdims=True)
    if level != "sequence_product":
        total_N = total_N / jnp.maximum((mask_NxT > 0).sum(axis=1, keepdims=True), 1)
    total_N = jnp.clip(total_N, -LARGEST, LARGEST)
    if level == "sequence_token":
        return jax.lax.stop_gradient(jnp.exp(total_N)) * own_NxT
    return jnp.broadcast_to(jnp.exp(total_N), logp_NxT.shape)


def sampler_weight(proximal_NxT: jax.Array, behaviour_NxT: jax.Array, mask_NxT: jax.Array, *, level: str = "token",
                   rule: str = "truncate", low: float | None = None, high: float | None = None) -> jax.Array:
    """weight_NxT, without gradient: corrects for a sampler whose probabilities are not quite the trainer's.

    w of a token from the log-probabilities o of the trainer before the update and b of the sampler:

      level  token      exp(o_t - b_t)
             sequence   exp(sum_t(o_t - b_t)), one value a row
             geometric  exp(mean_t(o_t - b_t)), one value a row

      rule   truncate   min(max(w, low), high)                    (TRL's *_truncate; verl's rollout_is has the upper bound only)
             mask       w where low <= w <= high, else 0          (TRL's *_mask; IcePop, arXiv:2510.18855, at level token)
             reject     1 where low <= w <= high, else 0: a token outside leaves the mask as well (verl's rollout_rs)

    Args:
      proximal_NxT, behaviour_NxT: o and b.
      mask_NxT: 1 on tokens that were sampled and count.
      low, high: None is no bound.
    """
    log_NxT = jnp.where(mask_NxT > 0, proximal_NxT - behaviour_NxT, 0.0)
    if level != "token":
        total_Nx1 = log_NxT.sum(axis=1, keepdims=True)
        tokens_Nx1 = (mask_NxT > 0).sum(axis=1, keepdims=True)
        total_Nx1 = total_Nx1 / jnp.maximum(tokens_Nx1, 1) if level == "geometric" else total_Nx1
        log_NxT = jnp.broadcast_to(total_Nx1, log_NxT.shape)
    w_NxT = jax.lax.stop_gradient(jnp.exp(jnp.clip(log_NxT, -LARGEST, LARGEST)))
    low, high = -jnp.inf if low is None else low, jnp.inf if high is None else high
    if rule == "truncate":
        return jnp.clip(w_NxT, low, high)
    inside = (w_NxT >= low) & (w_NxT <= high)
    return jnp.where(inside, w_NxT if rule == "mask" else 1.0, 0.0).astype(w_NxT.dtype)
