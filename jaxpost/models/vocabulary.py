"""What the softmax over a large vocabulary says of a token, a part of the vocabulary at a time.

      z_nv      = h_n . w_v / temperature
      logp_n    = z_n,y(n) - log sum_v exp z_nv
      entropy_n = log sum_v exp z_nv - sum_v p_nv z_nv          nats

No array of tokens x vocabulary exists, forward or backward: the parts are visited in turn, sums are kept relative to the
largest logit so far, and the backward pass takes the logits of each part again (one more product with the head). Parts of the
vocabulary rather than of the tokens, because the gradient of the head is then made part by part, once, also where it is
summed over a mesh. The plain forms are `training.passes.picked` and `objectives.kl.entropy` of whole logits.

Shapes: B rows, T positions, N = B * T tokens, D width, V vocabulary, P parts of v entries on each of S shards.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpost import sharding
from jaxpost.models.declare import TransformerConfig

_LOWEST = -1e30  # finite, so that its products with 0 are 0


class TokenStatistics(NamedTuple):
    """Of every completion token, in at least float32."""

    logp_NxT: jax.Array
    entropy_NxT: jax.Array | None = None  # nats; where it was asked for


def token_statistics(config: TransformerConfig, params: dict, hidden_BxTxD: jax.Array, target_BxT: jax.Array, *,
                     temperature: float = 1.0, entropy: bool = False) -> TokenStatistics:
    """Log-probability and entropy at every position, with at most about `config.logprob_chunk` logits a token at once.

    Args:
      config: with 0 < logprob_chunk < vocab.
      params: the parameters, of which the head (or the tied embedding) is read.
      hidden_BxTxD: states after the last norm (`taps["hidden"]` of `transformer.apply`).
      target_BxT: int32, the token at each position.
      temperature: of the policy; entropy: whether it is wanted.
    """
    B, T, D = hidden_BxTxD.shape
    wide = jnp.promote_types(hidden_BxTxD.dtype, jnp.float32)
    # Wide outside of the loop and narrow inside, so that the loop sums the states' gradient in at least float32.
    hidden_NxD, target_N = hidden_BxTxD.reshape(B * T, D).astype(wide), target_BxT.reshape(B * T)
    table_VxD = params["embed"] if config.tied else params["head"].T
    table_PxSxvxD, index_PxSxv, real_Pxv = _parts(table_VxD, config.logprob_chunk)

    def part(sums, given):
        largest_N, total_N, excess_N, target_logit_N = sums
        table_SxvxD, index_Sxv, real_v = given
        z = jnp.einsum("nd,svd->nsv", hidden_NxD.astype(config.compute_dtype), table_SxvxD.astype(config.compute_dtype),
                       preferred_element_type=wide) / temperature
        z = jnp.where(real_v[None, None], z, _LOWEST)
        new_N = jax.lax.stop_gradient(jnp.maximum(largest_N, z.max(axis=(1, 2))))
        away, scale_N = z - new_N[:, None, None], jnp.exp(largest_N - new_N)
        weight = jnp.exp(away)
        if entropy:  # of the logits relative to the largest, so that large logits do not cancel
            excess_N = (excess_N + (largest_N - new_N) * total_N) * scale_N + (weight * away).sum(axis=(1, 2))
        total_N = total_N * scale_N + weight.sum(axis=(1, 2))
        here = index_Sxv[None] == target_N[:, None, None]
        return (new_N, total_N, excess_N, target_logit_N + jnp.where(here, z, 0.0).sum(axis=(1, 2))), None

    zero_N = jnp.zeros((B * T,), wide)
    start = (jnp.full_like(zero_N, _LOWEST), zero_N, zero_N, zero_N)
    (largest_N, total_N, excess_N, target_logit_N), _ = jax.lax.scan(jax.checkpoint(part, prevent_cse=False), start,
                                                                     (table_PxSxvxD, index_PxSxv, real_Pxv))
    log_total_N = jnp.log(total_N)
    logp_N = target_logit_N - largest_N - log_total_N
    return TokenStatistics(logp_N.reshape(B, T), (log_total_N - excess_N / total_N).reshape(B, T) if entropy else None)


def _parts(table_VxD: jax.Array, most: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(table_PxSxvxD, index_PxSxv of its rows, real_Pxv: whether they are no padding): every part has rows of every shard.

    The S shards are those that the mesh splits the vocabulary into. Parts that divide a shard are copied from nowhere, so up
    to twice as many as needed are taken where that makes them divide it.
    """
    (V, D), S = table_VxD.shape, sharding.ways("vocab", table_VxD.shape[0])
    size = V // S
    least = -(-V // most)
    P = next((count for count in range(least, 2 * least) if size % count == 0), least)
    v = -(-size // P)
    table = jnp.pad(table_VxD.reshape(S, size, D), ((0, 0), (0, P * v - size), (0, 0))).reshape(S, P, v, D)
    place_Pxv = jnp.arange(P * v).reshape(P, v)
    index = place_Pxv[:, None, :] + size * jnp.arange(S)[None, :, None]
    real_Pxv = place_Pxv < size
    return jnp.moveaxis(table, 1, 0), jnp.where(real_Pxv[:, None], index, -1), real_Pxv
