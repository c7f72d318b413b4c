"""The logit lens: how high a token stands when the last norm and the head read an intermediate state.

    RR = 1 / rank,   rank = 1 + #{v: logit_v > logit_target},   MRR = mean over prompts

Legend: N prompts, V vocabulary, J states, M null draws.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

UNIT_ROUNDOFF = 2.0**-24


class Ranks(NamedTuple):
    """Of one target at one position, float32."""

    reciprocal: jax.Array  # [J, N]
    error: jax.Array  # [J], mean of how far rounding of the logits may move it
    others: jax.Array  # [M, J], mean when the targets are those of other prompts


def random_rank(vocabulary: int) -> float:
    """Mean reciprocal rank where every rank is as likely, H_V / V: what a head with permuted columns reads on average.

    >>> round(random_rank(4), 4)
    0.5208
    """
    return float((1 / np.arange(1, vocabulary + 1)).mean())


def tolerance(logits_JxNxV: jax.Array, width: int) -> jax.Array:
    """Bound on the rounding of logits that are sums of `width` products, [J, N]: (width + 4) 2^-24 max |logit|."""
    return (width + 4) * UNIT_ROUNDOFF * jnp.abs(logits_JxNxV).max(axis=-1)


def ranks(logits_JxNxV: jax.Array, token_N: jax.Array, width: int, draws: int) -> Ranks:
    """Reciprocal ranks of a target in every state, their rounding, and those of the targets of other prompts.

    A draw of the null takes the target of the prompt that lies d N / (draws + 1) further in the fixed order, d = 1, 2, ...; of
    one prompt it is NaN.
    """
    N = len(token_N)
    margin_JxN = tolerance(logits_JxNxV, width)
    further_M = jnp.maximum(1, N * jnp.arange(1, draws + 1) // (draws + 1))
    others_MxN = token_N[(jnp.arange(N)[None] + further_M[:, None]) % N]

    def reciprocal(asked):
        """1 / (1 + number of tokens whose logit is above the token's own by more than so many margins)."""
        token_N, margins = asked
        own_JxN = logits_JxNxV[:, jnp.arange(N), token_N]
        bound_JxN = own_JxN + margins * margin_JxN
        above_JxN = (logits_JxNxV > bound_JxN[..., None]).sum(axis=-1) - (own_JxN > bound_JxN)
        return 1.0 / (1.0 + above_JxN.astype(jnp.float32))

    # One pass over the logits after another: fused into one they took ten times as long on CPU.
    own_3xN, margins = jnp.broadcast_to(token_N, (3, N)), jnp.asarray([0.0, -1.0, 1.0, *[0.0] * draws], jnp.float32)
    reciprocals = jax.lax.map(reciprocal, (jnp.concatenate([own_3xN, others_MxN]), margins))
    value_JxN, low_JxN, high_JxN = reciprocals[:3]
    error_JxN = jnp.maximum(value_JxN - low_JxN, high_JxN - value_JxN)
    others_MxJ = reciprocals[3:].mean(axis=-1)
    return Ranks(value_JxN, error_JxN.mean(axis=1), jnp.where(N > 1, others_MxJ, jnp.nan))
