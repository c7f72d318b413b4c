"""Induction: how much a head attends to what followed the same token before, on random sequences that are said twice.

    x = (before, a_1 .. a_R, between, a_1 .. a_R), all a different
    score = mean over i < R of the attention from the second a_i to the first a_{i+1}

A head that looks its token up in the past and attends to the next one scores 1. So does one that always attends as many
positions back: the null keeps tokens and positions and takes the repetition away, by another order of the first half. The
definition is the field's usual one (prefix matching; *recalled*, no source was read).

Legend: N sequences, R tokens of a half, T positions, M null draws, L layers, H heads, W tokens to draw from, Q = R - 1 queries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.probes.circuits.lens import UNIT_ROUNDOFF


class Heads(NamedTuple):
    """How a policy's attention is read, and which sequences it knows."""

    score: Callable[[Any, jax.Array], jax.Array]  # (params, tokens_NxT) -> scores before the softmax, f32[L, N, H, T, T]
    tokens: tuple[int, ...]  # W, that sequences are made of, all different
    terms: int  # of the sums that a score is made of: 2 D + E of a decoder of width D and heads of E
    before: tuple[int, ...] = ()  # tokens that stand before the first half
    between: tuple[int, ...] = ()  # and between the two

    def places(self, half: int) -> tuple[np.ndarray, np.ndarray]:
        """(position of every second a_i, of the first a_{i+1}), i32[Q] each."""
        first = len(self.before) + np.arange(half - 1)
        return first + half + len(self.between), first + 1

    def uniform(self, half: int) -> float:
        """The score of a head that attends to all that it sees alike."""
        return float((1 / (self.places(half)[0] + 1)).mean())

    def sequences(self, key: jax.Array, count: int, half: int, draws: int) -> jax.Array:
        """`count` random sequences, and `draws` versions of each whose first half is in another order: i32[1 + M, N, T]."""
        own, other = jax.random.split(key)
        token_W = jnp.asarray(self.tokens, jnp.int32)
        half_NxR = jax.vmap(lambda k: jax.random.permutation(k, token_W)[:half])(jax.random.split(own, count))
        first_MxNxR = jax.vmap(jax.vmap(jax.random.permutation), (0, None))(jax.random.split(other, (draws, count)), half_NxR)
        first = jnp.concatenate([half_NxR[None], first_MxNxR])
        before, between = (jnp.broadcast_to(jnp.asarray(x, jnp.int32), (*first.shape[:2], len(x)))
                           for x in (self.before, self.between))
        return jnp.concatenate([before, first, between, jnp.broadcast_to(half_NxR, first.shape)], axis=-1)


class Attended(NamedTuple):
    """Of every head, float32."""

    score: jax.Array  # [L, H, N]
    error: jax.Array  # [L, H], mean of how far rounding may move it


def attended(score_LxNxHxTxT: jax.Array, places: tuple[np.ndarray, np.ndarray], terms: int) -> Attended:
    """The induction score of every head and sequence.

    Errors d of the scores before the softmax move a share P of the attention by at most 2 d P (1 - P) to first order,
    d = (terms + 4) 2^-24 max |score|; the softmax itself by (T + 4) 2^-24 P. Rounding of the states before is not bounded.
    """
    query_Q, target_Q = places
    T = score_LxNxHxTxT.shape[-1]
    read = score_LxNxHxTxT[..., query_Q, :]
    share_LxNxHxQ = jax.nn.softmax(read, axis=-1)[..., np.arange(len(query_Q)), target_Q]
    largest = jnp.abs(jnp.where(query_Q[:, None] >= np.arange(T)[None], read, 0.0)).max(axis=-1)
    moved = 2 * (terms + 4) * largest * share_LxNxHxQ * (1 - share_LxNxHxQ) + (T + 4) * share_LxNxHxQ
    return Attended(jnp.moveaxis(share_LxNxHxQ.mean(axis=-1), 1, 2), UNIT_ROUNDOFF * moved.mean(axis=(1, 3)))
