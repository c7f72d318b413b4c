"""The residual stream of the decoder between its layers: read, and changed while a pass runs; and what its heads attend to.

Shapes: B rows, T positions, V vocabulary, D width, H heads, L layers, J = L + 1 states: the embedding's, and one after each
layer.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxpost.models import transformer
from jaxpost.models.reader import PLAIN
from jaxpost.models.transformer import TransformerConfig


class Residual(NamedTuple):
    """Every state as the next layer, or the last norm, reads it; the logits of positions `first` on; and attention scores.

    A head's attention pattern is the softmax of its scores over the last axis, the keys.
    """

    state_JxBxTxD: jax.Array
    logits_BxTxV: jax.Array
    score_LxBxHxTxT: jax.Array | None  # at least float32, very negative where a query does not see a key


def residual_stream(config: TransformerConfig, params: dict, tokens_BxT: jax.Array, *, valid_BxS: jax.Array,
                    first: int = 0, edit: Callable[[jax.Array, jax.Array], jax.Array] | None = None, scores: bool = False
                    ) -> Residual:
    """The forward pass of `transformer.apply` without a cache, with its residual states.

    Args:
      tokens_BxT, valid_BxS, first: as in `apply`.
      edit: (state_BxTxD, its number j) -> the state that is read in its place; None: as it is.
      scores: attention scores are wanted, which take L B H T T numbers.
    """
    graph = transformer._block_graph(config)
    changed = (lambda x, j: x) if edit is None else edit

    def body(carry, weights):
        x, j = carry
        counts_BxT = valid_BxS if config.capacity else None
        x, _, taps = nnx.merge(graph, weights)(x, valid_BxS, counts_BxT=counts_BxT, scores=scores)
        x = changed(x, j + 1)
        return (x, j + 1), (x, taps.get("attention"))

    x = PLAIN.embed(params["embed"], tokens_BxT)[0].astype(config.compute_dtype)
    x = changed(x, jnp.int32(0))
    (last, _), (after, score) = jax.lax.scan(body, (x, jnp.int32(0)), params["layers"])
    return Residual(jnp.concatenate([x[None], after]), logit_lens(config, params, last[:, first:]), score)


def logit_lens(config: TransformerConfig, params: dict, state_BxTxD: jax.Array) -> jax.Array:
    """What the last norm and the head make of any residual state: at least float32 logits_BxTxV (nostalgebraist, 2020)."""
    return transformer.head_logits(config, params, transformer.rms_norm(state_BxTxD, params["final_norm"], config.norm_eps))
