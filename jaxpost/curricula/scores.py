"""How much a problem is worth by its success rate p, elementwise; and values that move along training."""

import jax
import jax.numpy as jnp


def upper_confidence(mean: jax.Array, count: jax.Array, total: jax.Array) -> jax.Array:
    """DUMP's mean + sqrt( 2 ln(total + 1) / (count + 1) ), arXiv:2504.09710."""
    return mean + jnp.sqrt(2 * jnp.log(total + 1.0) / (count + 1.0))


def deviation(p: jax.Array) -> jax.Array:
    """sqrt( p (1 - p) ), the standard deviation of one rollout's success; CurES' sigma for gradients of norm 1."""
    return jnp.sqrt(jnp.maximum(p * (1 - p), 0.0))


def signal(p: jax.Array, count: jax.Array | int) -> jax.Array:
    """Knapsack RL's value of `count` rollouts, (1 - p^n - (1 - p)^n) p (1 - p)^2, arXiv:2509.25849: concave in n."""
    return (1 - p**count - (1 - p) ** count) * p * (1 - p) ** 2


def acceptance(p: jax.Array, alpha: float = 1e-3) -> jax.Array:
    """GVM-RAFT's 1 / sqrt( p + alpha / p ), arXiv:2505.02391, for gradients of norm 1 and beta = 2; 0 at p = 0."""
    return jnp.where(p > 0, 1 / jnp.sqrt(p + alpha / jnp.where(p > 0, p, 1.0)), 0.0)


def stage_weight(p: jax.Array, stage: jax.Array | int) -> jax.Array:
    """VL-Cogito's soft weight of a group by its success rate, arXiv:2507.22607.

      easy (0)    0 at p = 0; sin(pi p) up to 1/2; 1 above
      medium (1)  sin(pi p)
      hard (2)    1/4 at p = 0; 1 up to 1/2; sin(pi p) above
    """
    wave = jnp.where((p > 0) & (p < 1), jnp.sin(jnp.pi * p), 0.0)
    low = p <= 0.5
    easy, hard = jnp.where(low, wave, 1.0), jnp.where(p <= 0, 0.25, jnp.where(low, 1.0, wave))
    return jnp.where(stage == 0, easy, jnp.where(stage == 1, wave, hard))


def along(first: float, last: float, progress: jax.Array | float) -> jax.Array:
    """Linear from the first value to the last as progress goes from 0 to 1, constant outside."""
    return first + (last - first) * jnp.clip(progress, 0.0, 1.0)
