"""What a token of a completion is for. A role is an integer code a token; sources hand out `role_NxT`.

Objectives weigh tokens by their roles (`objectives.token_weights.of_roles`), and metrics are taken role by role. Where nothing
is said, every token is part of the answer.

Shapes: T completion tokens; any leading axes.
"""

import jax
import jax.numpy as jnp

from jaxpost.lookup import nearest

ROLES = (
    "answer",  # what the verifier reads, with the end token
    "think",  # the reasoning before it
    "plan",  # tokens of the reasoning that choose what is done next: a step undone, a subgoal
    "hint",  # given help, such as the marks of places
    "observation",  # what an environment wrote
    "prefix",  # a demonstration's, with which an answer begins that the policy goes on from
    "interrupt",  # words put into an answer while it is made, such as an end of the reasoning
)
ANSWER, THINK, PLAN, HINT, OBSERVATION, PREFIX, INTERRUPT = range(len(ROLES))


def code(name: str) -> int:
    """The code of a role.

    Raises:
      ValueError: an unknown role (the nearest is named).

    >>> code("plan")
    2
    """
    if name not in ROLES:
        raise ValueError(f"unknown token role {name!r}{nearest(name, ROLES)}")
    return ROLES.index(name)


def between(tokens_T: jax.Array, begin: int, end: int, inside: int = THINK) -> jax.Array:
    """role_T, i32: `inside` from the first `begin` up to and including the first `end` after it, elsewhere ANSWER.

    Without an `end` everything after `begin` is inside: a thought that was cut is still a thought.
    """
    begun_T = jnp.cumsum(tokens_T == begin, axis=-1) > 0
    ended_T = begun_T & (tokens_T == end)
    after_T = jnp.cumsum(ended_T, axis=-1) - ended_T > 0
    return jnp.where(begun_T & ~after_T, inside, ANSWER).astype(jnp.int32)
