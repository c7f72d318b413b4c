"""Weights of a token's negative log-likelihood that come from its own probability. Shapes: N rows, T tokens."""

import jax
import jax.numpy as jnp

FORMULAS = {"none": "1", "probability": "sg(p)", "p(1-p)": "sg(p (1 - p))"}  # as docs/objectives.md writes them
KINDS = tuple(FORMULAS)


def stopped(logp_NxT: jax.Array, kind: str) -> jax.Array:
    """weight_NxT without gradient, p = exp(logp):

      none         1
      probability  p         DFT, arXiv:2508.05629
      p(1-p)       p (1 - p) CHORD-phi, arXiv:2508.11408

    Raises:
      ValueError: unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"token weight {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    if kind == "none":
        return jnp.ones_like(logp_NxT)
    p_NxT = jnp.exp(jax.lax.stop_gradient(logp_NxT))
    return p_NxT if kind == "probability" else -p_NxT * jnp.expm1(jax.lax.stop_gradient(logp_NxT))
