"""Weights of tokens: from the token's own probability, or from its role. Shapes: N rows, T tokens."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxpost import roles

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


def pairs(weights: Mapping[str, float] | tuple) -> tuple[tuple[str, float], ...]:
    """((role, weight), ...) in the order of the roles, from a mapping or from pairs in any order.

    Raises:
      ValueError: an unknown role, or a weight below 0.

    >>> pairs({"think": 0.5, "answer": 1})
    (('answer', 1.0), ('think', 0.5))
    """
    weight_of = {name: float(weight) for name, weight in dict(weights).items()}
    for name, weight in weight_of.items():
        roles.code(name)
        if not weight >= 0:
            raise ValueError(f"weight {weight:g} of the token role {name!r} is not a number of at least 0, e.g. 1")
    return tuple(sorted(weight_of.items(), key=lambda pair: roles.code(pair[0])))


def of_roles(role_NxT: jax.Array, weights: tuple[tuple[str, float], ...]) -> jax.Array:
    """weight_NxT, float32: the weight of each token's role; 0 for a role that is not named."""
    weight_R = jnp.zeros((len(roles.ROLES),), jnp.float32)
    for name, weight in weights:
        weight_R = weight_R.at[roles.code(name)].set(weight)
    return weight_R[role_NxT]
