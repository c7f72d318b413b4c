"""KV-cached sampling inside jit: one prefill, then a loop of fixed length (ensembles) or an early-stopping one (one model).

Shapes: N rows, P prompt tokens, T completion tokens, V vocabulary. Randomness is keyed by (key, position), so a
sampled token does not depend on the mesh, on how many rows are done, or on which of the two loops is used.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpost.models import transformer
from jaxpost.models.reader import PLAIN, Reader

DRAW = -1  # in a buffer of forced tokens: this one is drawn
_FIRST_SIZE = 256  # positions of the cache that decoding begins with, where there are more


class Completions(NamedTuple):
    """Sampled completions. `mask_NxT` is 1 up to and including the end token; later tokens are padding."""

    tokens_NxT: jax.Array
    logp_NxT: jax.Array  # of the behaviour distribution (temperature and truncation applied), 0 off-mask
    mask_NxT: jax.Array  # float32
    forced_NxT: jax.Array | None = None  # float32, 1 on tokens of the completion that were forced; None: none were


def sample(config: transformer.TransformerConfig, params: dict, prompt_NxP: jax.Array, key: jax.Array, *, length: int,
           temperature: float | jax.Array = 1.0, top_k: int = 0, top_p: float = 1.0, eos: int | tuple[int, ...], pad: int = 0,
           early_stop: bool = False, forced_NxT: jax.Array | None = None) -> Completions:
    """Sample `length` tokens a row from softmax(logits / temperature), truncated as `truncated` says and renormalised.

    Args:
      config, params: the policy.
      prompt_NxP: int32, left-padded with `pad`: its leading run is padding, a `pad` after it is a token.
      key: typed PRNG key; token t uses `fold_in(key, t)`.
      length: T, static.
      temperature: > 0; a traced scalar is fine. Greedy decoding is `temperature -> 0` (1e-4 is greedy in float32).
      top_k, top_p: of the truncation, static; 0 and 1 are none.
      eos, pad: token ids; any of several `eos` ends a row. A row that emitted one continues with `pad` at
        log-probability 0 and mask 0.
      early_stop: leave the loop when every row is done (dynamic trip count; same tokens).
      forced_NxT: int32; a token here takes the place of the drawn one (a demonstration's beginning, a hint, an interruption,
        an observation), DRAW leaves it. Its log-probability is that of the behaviour distribution, as for a drawn one; an end
        token ends the row, and what is forced behind the end of a row is not read. The tokens that are drawn at the other
        positions have the random numbers that they have without it.

    Returns:
      Completions.

    Raises:
      ValueError: a buffer of forced tokens of another shape.
    """
    N, P = prompt_NxP.shape
    if forced_NxT is not None and forced_NxT.shape != (N, length):
        raise ValueError(f"forced_NxT has shape {forced_NxT.shape}, and {N} rows of {length} tokens are sampled; pass "
                         f"[{N}, {length}]")
    params = transformer.by_layer(params, config)
    # The token drawn last is not read again: the cache has no place for it.
    valid = jnp.concatenate([_real(prompt_NxP, pad), jnp.ones((N, length - 1), bool)], axis=1)

    def draw(t, logits_NxV, done_N, made):
        logp_NxV = truncated(jax.nn.log_softmax(logits_NxV.astype(jnp.float32) / temperature, axis=-1), top_k, top_p)
        gumbel = jax.random.gumbel(jax.random.fold_in(key, t), logp_NxV.shape)
        token = _first_largest(logp_NxV + gumbel)
        if forced_NxT is not None:
            given = jax.lax.dynamic_slice_in_dim(forced_NxT, t, 1, axis=1)[:, 0]
            token = jnp.where(given == DRAW, token, given)
        logp = jnp.take_along_axis(logp_NxV, token[:, None], axis=-1)[:, 0]
        live_N = (~done_N).astype(jnp.float32)
        drawn = Completions(jnp.where(done_N, pad, token), jnp.where(done_N, 0.0, logp), live_N,
                            None if forced_NxT is None else live_N * (given != DRAW))
        made = jax.tree.map(lambda buffer, x: jax.lax.dynamic_update_slice_in_dim(buffer, x[:, None], t, axis=1), made, drawn)
        return drawn.tokens_NxT, done_N | _any(drawn.tokens_NxT, eos), made

    def advance(positions, t, state):
        cache, token, done_N, made = state
        out = transformer.apply(config, params, token[:, None], valid_BxS=valid[:, :positions], cache=cache)
        return out.cache, *draw(t, out.logits[:, 0], done_N, made)

    zero = jnp.zeros((N, length), jnp.float32)
    made = Completions(jnp.full((N, length), pad, jnp.int32), zero, zero, None if forced_NxT is None else zero)
    out = transformer.apply(config, params, prompt_NxP, valid_BxS=valid[:, :P],
                            cache=transformer.empty_cache(config, N, P), first=P - 1)
    state, first = (out.cache, *draw(0, out.logits[:, 0], jnp.zeros((N,), bool), made)), 1
    for positions in _sizes(P, P + length - 1):
        state = (transformer.grow(state[0], positions), *state[1:])
        end, step = positions - P + 1, functools.partial(advance, positions)
        if early_stop:
            _, state = jax.lax.while_loop(lambda s, end=end: (s[0] < end) & ~jnp.all(s[1][2]),
                                          lambda s, step=step: (s[0] + 1, step(*s)), (jnp.int32(first), state))
        else:
            state = jax.lax.fori_loop(first, end, step, state)
        first = end
    return state[3]


def _sizes(prompt: int, last: int) -> list[int]:
    """Sizes of the cache, one loop each: 256 and its doubles, and the last. Attention reads all of a cache, filled or not.

    A size within a quarter of the last has no loop of its own: it would compile a step for little. 1024 tokens of 16 rows of
    3.7M parameters take 0.82 of the time of one loop on CPU.
    """
    doubled = (_FIRST_SIZE << i for i in range(last.bit_length()))
    return [size for size in doubled if prompt < size <= 3 * last // 4] + [last]


def truncated(logp_NxV: jax.Array, top_k: int = 0, top_p: float = 1.0) -> jax.Array:
    """Log-probabilities of the most probable tokens, renormalised; those of the others are -inf.

      top_k  the k most probable tokens stay, and those that are as probable as the k-th; 0: all
      top_p  of these, renormalised, the fewest most probable ones whose probabilities sum to top_p or more stay, and those
             that are as probable as the last of them (arXiv:1904.09751); 1: all

    A token that is forced although it was cut off has log-probability -inf.
    """
    if top_k > 0 and top_k < logp_NxV.shape[-1]:
        least_N = jax.lax.top_k(logp_NxV, top_k)[0][:, -1:]
        logp_NxV = jax.nn.log_softmax(jnp.where(logp_NxV >= least_N, logp_NxV, -jnp.inf), axis=-1)
    if top_p < 1:
        sorted_NxV = jnp.sort(logp_NxV, axis=-1, descending=True)
        before_NxV = jnp.cumsum(jnp.exp(sorted_NxV), axis=-1) - jnp.exp(sorted_NxV)
        last_N = jnp.where(before_NxV < top_p, sorted_NxV, jnp.inf).min(axis=-1, keepdims=True)
        logp_NxV = jax.nn.log_softmax(jnp.where(logp_NxV >= last_N, logp_NxV, -jnp.inf), axis=-1)
    return logp_NxV


def _first_largest(x_NxV: jax.Array) -> jax.Array:
    """`argmax` over the last axis, int32, in two plain reductions: on CPU 0.04 instead of 1.0 ms at [64, 1024].

    That is a tenth of a decoding step of 64 rows of 3.7M parameters, and more where the vocabulary is larger.
    """
    index = jax.lax.broadcasted_iota(jnp.int32, x_NxV.shape, 1)
    last = x_NxV.shape[-1] - 1
    return jnp.where(x_NxV == x_NxV.max(axis=-1, keepdims=True), index, last).min(axis=-1)


def _any(token: jax.Array, ids: int | tuple[int, ...]) -> jax.Array:
    """bool: whether a token is the id, or one of them."""
    ids = ids if isinstance(ids, tuple) else (ids,)
    return functools.reduce(jnp.logical_or, [token == i for i in ids])


def _real(prompt_NxP: jax.Array, pad: int) -> jax.Array:
    """bool: positions after the leading run of padding."""
    return jnp.cumsum(prompt_NxP != pad, axis=1) > 0


def token_logits(config: transformer.TransformerConfig, params: dict, prompt_NxP: jax.Array, completion_NxT: jax.Array,
                 pad: int = 0) -> jax.Array:
    """Teacher-forced float32 logits_NxTxV of the completion tokens given the prompt."""
    return teacher_forced(config, params, prompt_NxP, completion_NxT, pad).logits


def prompt_tokens(prompt_NxP: jax.Array, pad: int = 0) -> jax.Array:
    """bool[N, P - 1]: the prompt's tokens behind its first, padding left out: those that `prompt_forced` predicts."""
    real = _real(prompt_NxP, pad)
    return real[:, 1:] & real[:, :-1]


def prompt_forced(config: transformer.TransformerConfig, params: dict, prompt_NxP: jax.Array, pad: int = 0,
                  logits: bool = True) -> transformer.Output:
    """The forward pass over the prompt alone: entry q is at the state that predicts token q + 1. `logits` as in apply."""
    return transformer.apply(config, params, prompt_NxP[:, :-1], valid_BxS=_real(prompt_NxP, pad)[:, :-1], logits=logits)


def real_tokens(prompt_NxP: jax.Array, mask_NxT: jax.Array, pad: int = 0) -> jax.Array:
    """bool[N, P + T - 1]: which inputs of `teacher_forced` are the prompt's tokens or completion tokens where the mask is 1."""
    return jnp.concatenate([_real(prompt_NxP, pad), mask_NxT > 0], axis=1)[:, :-1]


def teacher_forced(config: transformer.TransformerConfig, params: dict, prompt_NxP: jax.Array, completion_NxT: jax.Array,
                   pad: int = 0, reader: Reader = PLAIN, mask_NxT: jax.Array | None = None,
                   logits: bool = True, segment_NxS: jax.Array | None = None) -> transformer.Output:
    """The forward pass at the state of every completion token: entry t has seen the prompt and the tokens before t, or, with
    segments of all P + T tokens, those of its own segment.

    Where experts have a bounded capacity, completion tokens with `mask_NxT` 0 take no room in them and are read by no routed
    expert: it is to be 1 on all that later tokens see, hints and observations included, and is not the mask of a loss. None: 1
    everywhere. It changes nothing else. `logits` as in `transformer.apply`.
    """
    tokens = jnp.concatenate([prompt_NxP, completion_NxT], axis=1)
    P = prompt_NxP.shape[1]
    valid = segment_NxS
    if segment_NxS is None:
        valid = jnp.concatenate([_real(prompt_NxP, pad), jnp.ones(completion_NxT.shape, bool)], axis=1)
    counts = None if mask_NxT is None else real_tokens(prompt_NxP, mask_NxT, pad)
    return transformer.apply(config, params, tokens[:, :-1], valid_BxS=valid[:, :-1], first=P - 1, reader=reader,
                             counts_BxT=counts, logits=logits)
