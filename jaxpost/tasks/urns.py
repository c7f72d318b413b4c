"""Balls and urns: predict the next ball in context, where a finite set of urns can be memorised or any urn be inferred.

Prompt: `length` colours drawn from one urn, `bacab...?`, answer a colour, `b$`. An urn is a distribution over `colours` that is
uniform on the simplex (Dirichlet(1)), in multiples of 2^-16. Training draws from `urns` fixed ones; the strategies that a model
may follow are two Bayes predictors:

    memorising(counts, urns)  sum_d w_d urn_d,  w_d proportional to prod_c urn_d(c)^counts_c   posterior over the fixed urns
    generalising(counts)      (counts + 1) / (n + colours)                                     posterior mean under Dirichlet(1)

The probe `strategies` says where between both a policy is. After arXiv:2506.17859; differs from the paper in: a ball is
predicted after a whole context, not at every position, short contexts; its linear regression and classification are absent.

`answer="draw"`: the ball that comes next, so that supervised training learns the predictive distribution and a policy's reward
is its chance of being right. `answer="likeliest"`: the reward is p(colour) / max p under the urn, 1 for its commonest colour.

Splits: train, id (the fixed urns), ood/fresh (a new urn for every problem). Content is how often each colour occurs: all that
a predictor needs. Difficulty: the urn's entropy in bits. Guess baseline: the commonest answer of 2,048 problems, and for
"likeliest" a random colour.
"""

import bz2
import functools
import inspect
import lzma
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.tasks import base, traces, vocab

NAME, VERSION = "urns", 1
PAPER, VERIFIER = "arXiv:2506.17859", "the next ball, or the chance of the colour under the urn"
ANSWERS = ("draw", "likeliest")
SCALE = 2**16


class Problem(NamedTuple):
    """An urn, balls drawn from it and the next one."""

    weight_C: Any  # i32, chances of the colours in 2^-16
    ball_L: Any  # i32
    following: Any  # i32[]


def make(colours=6, urns=8, length=24, answer="draw", style="answer", room=0):
    """Balls and urns.

    Args:
        colours: 2 to 16.
        urns: fixed ones of train and id, 1 to 4096.
        length: balls in the context, 8 to 256.
        answer: "draw" or "likeliest".
        style, room: see `traces`; answers only.
    """
    for option, value, least, most in (("colours", colours, 2, 16), ("urns", urns, 1, 4096), ("length", length, 8, 256)):
        valid = f"an integer from {least} to {most}"
        base.require(isinstance(value, int) and least <= value <= most, NAME, option, value, valid)
    base.require(answer in ANSWERS, NAME, "answer", answer, f"one of {ANSWERS}")

    def sample(key, knobs):
        fixed_word, fresh_word = base.words(jax.random.fold_in(key, base.ATTEMPTS), 1, colours - 1)  # not drawn again
        fixed_C = fixed(urns, colours)[base.below(fixed_word[0], urns)]
        weight_C = jnp.where(knobs["fresh"] == 1, _urn(fresh_word), fixed_C)

        def draw(ball_word):
            ball_V = jnp.searchsorted(jnp.cumsum(weight_C), base.below(ball_word, SCALE), side="right").astype(jnp.int32)
            return Problem(weight_C, ball_V[:length], ball_V[length])

        return base.choose(key, (length + 1,), draw, lambda made: base.fold_of(content(made)) == knobs["fold"])

    def prompt(made):
        return traces.joined(vocab.BOS, vocab.LETTER + made.ball_L, "?")

    def best(made):
        colour = made.following if answer == "draw" else jnp.argmax(made.weight_C)
        return jnp.stack([vocab.LETTER + colour.astype(jnp.int32), jnp.int32(vocab.EOS)])

    def verify(made, tokens_A):
        if answer == "draw":
            return base.exact(tokens_A, best(made))
        colour = tokens_A[0] - vocab.LETTER
        formed = (colour >= 0) & (colour < colours) & (tokens_A[1] == vocab.EOS)
        share = made.weight_C[jnp.clip(colour, 0, colours - 1)] / jnp.max(made.weight_C)
        return jnp.where(formed, share, 0).astype(jnp.float32)

    @functools.cache
    def guess(split):
        if answer == "draw":
            return base.best_constant(task, split)
        return float(base.average(task, split, lambda made, key: jnp.mean(made.weight_C / jnp.max(made.weight_C))))

    def content(made):
        return counts(made.ball_L, colours)

    def strategies(made):
        seen_C, token_C = content(made), vocab.LETTER + jnp.arange(colours)
        return base.Strategies(token_C, memorising(seen_C, fixed(urns, colours)), generalising(seen_C))

    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=length + 2, answer_len=2,
        splits={"train": base.setting(base.TRAIN_FOLD, fresh=0), "id": base.setting(base.EVAL_FOLD, fresh=0),
                "ood/fresh": base.setting(base.EVAL_FOLD, fresh=1)},
        sample=sample, prompt=prompt, answer=best, verify=verify, guess=guess, content=content, difficulty=_entropy,
        strategies=strategies, strategy_bits=lambda: description_bits(urns, colours))
    return task


def _urn(word_B):
    """Gaps between the sorted cuts of [0, 2^16): uniform on the simplex, i32[B + 1] with sum 2^16."""
    cut_B = jnp.sort(base.below(word_B, SCALE + 1))
    return jnp.diff(cut_B, prepend=0, append=SCALE)


def fixed(urns, colours):
    """The fixed urns, i32[urns, colours] in 2^-16; the first ones are the same for every number of them."""
    key_D = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(VERSION, impl="threefry2x32"), jnp.arange(urns))
    return jax.vmap(lambda key: _urn(base.words(key, colours - 1)[0]))(key_D)


def counts(ball_L, colours):
    """How often each colour is among the balls, i32[colours]."""
    return jnp.sum(ball_L[:, None] == jnp.arange(colours)[None], axis=0)


def memorising(count_C, weight_DxC):
    """Distribution of the next ball if the urn is one of D equally likely ones: f32[C].

    Args:
        count_C: how often each colour came.
        weight_DxC: urns, in any unit. A colour that came rules out the urns without it; if that is all of them: the mean urn.
    """
    p_DxC = weight_DxC / jnp.sum(weight_DxC, axis=1, keepdims=True)
    log_D = jnp.sum(jnp.where(count_C[None] > 0, count_C[None] * jnp.log(p_DxC), 0), axis=1)
    log_D = jnp.where(jnp.any(jnp.isfinite(log_D)), log_D, 0)
    return jnp.sum(jax.nn.softmax(log_D)[:, None] * p_DxC, axis=0)


def generalising(count_C):
    """Distribution of the next ball if urns are uniform on the simplex, f32[C]: (counts + 1) / (n + C)."""
    return (count_C + 1) / (jnp.sum(count_C) + count_C.shape[0])


@functools.cache
def description_bits(urns, colours):
    """(memorising, generalising): bits of the shortest of three compressed forms of a predictor's source and what it stores."""
    def bits(function, stored=b""):
        text = inspect.getsource(function).encode()
        return 8.0 * sum(min(len(pack(part)) for pack in (zlib.compress, bz2.compress, lzma.compress))
                         for part in (text, stored) if part)

    table = np.asarray(fixed(urns, colours), "<u4").tobytes()
    return bits(memorising, table), bits(generalising)


def _entropy(made):
    p_C = made.weight_C / SCALE
    return -jnp.sum(jnp.where(p_C > 0, p_C * jnp.log2(jnp.maximum(p_C, 1 / SCALE)), 0)).astype(jnp.float32)
