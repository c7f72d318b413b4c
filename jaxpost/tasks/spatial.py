"""Spatial relations: where is one object as seen from another, told in several phrasings?

A path of different objects (letters), each one step from the one before: left, right, above, below or diagonal. The prompt has
a statement a step and a question; the answer is the direction in which the first object of the question lies as seen from the
second, by the signs of the two offsets: one token of eight.

    phrasing 0  `aRb;`   a lies in direction R of b
    phrasing 1  `b'aR;`  from b, a lies in direction R
    phrasing 2  `R:ab;`  the direction first
    phrasing 3  `aSb;`   another word S for the same direction

A prompt keeps to one phrasing, and its question has the same form: `a?b`, `b'a?`, `?:ab`, `a?b`. Statements come in random
order. After "Enhancing Spatial Reasoning in Vision-Language Models via
Chain-of-Thought Prompting and Reinforcement Learning", whose data are pictures; reconstructed: everything but the question
whether a change of phrasing alone costs accuracy.

Splits: train, id (`phrasings`), ood/phrasing (the other phrasings), ood/length (`phrasings`, more objects), ood/both. Content
is the path without its phrasing and order, so that a scene of training is in no evaluation split in any words.

Reasoning (`traces`): the scene in order, each object with its offsets from the second of the question, `a:xy;`, offsets
written as tokens around `vocab.ID` + the longest path.

Difficulty: the number of steps. Guess baseline: the commonest answer of 2,048 problems.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxpost.tasks import base, traces, vocab

NAME, VERSION = "spatial", 1
PAPER, VERIFIER = "after spatial reasoning in vision-language models (see the module)", "the direction, one token"
PHRASINGS = 4
OFFSETS = np.asarray([(-1, 0), (1, 0), (0, 1), (0, -1), (-1, 1), (1, 1), (-1, -1), (1, -1)], np.int32)
DIRECTION = vocab.ID  # token of the i-th of OFFSETS is DIRECTION + i, of its other word DIRECTION + 8 + i
OFFSET = vocab.ID + 16  # token of the offset x is OFFSET + x + M, M the most steps
LONGEST = 12


class Problem(NamedTuple):
    """Objects in the order of the path (M + 1), the direction of each from the one before (M), and how it is told."""

    object_L: Any  # i32, letters
    step_M: Any  # i32, directions
    size: Any  # i32[], steps
    order_M: Any  # i32, of the statements
    phrasing: Any  # i32[]


def make(steps=(1, 3), ood_steps=(4, 6), phrasings=(0,), style="answer", room=0):
    """Spatial relations.

    Args:
        steps, ood_steps: (low, high) steps of train, id and ood/phrasing, and of ood/length and ood/both; at most 12.
        phrasings: of train and id, some but not all of 0 to 3; all four are for pretraining, and ood/phrasing then has all too.
        style, room: see `traces`.
    """
    low, high = base.length_range(NAME, "steps", steps, 1, LONGEST)
    ood_low, M = base.length_range(NAME, "ood_steps", ood_steps, high + 1, LONGEST)
    good = isinstance(phrasings, tuple) and phrasings and len(set(phrasings)) == len(phrasings) and all(
        isinstance(x, int) and 0 <= x < PHRASINGS for x in phrasings)
    base.require(good, NAME, "phrasings", phrasings, "different integers from 0 to 3, at least one")
    others = tuple(x for x in range(PHRASINGS) if x not in phrasings) or phrasings
    prompt_len = 1 + 5 * M + 4

    def setting(fold, low, high, allowed):
        return base.setting(fold, low=low, high=high, phrasing_4=(allowed * PHRASINGS)[:PHRASINGS], count=len(allowed))

    def sample(key, knobs):
        def draw(size_word, step_word, object_word, order_word, phrasing_word):
            size = base.span(size_word[0], knobs["low"], knobs["high"])
            live_M = jnp.arange(M) < size
            step_M = jnp.where(live_M, base.below(step_word, 8), 0)
            object_L = jnp.argsort(object_word)[:M + 1].astype(jnp.int32)
            object_L = jnp.where(jnp.arange(M + 1) <= size, object_L, 0)
            order_M = jnp.lexsort((order_word, ~live_M)).astype(jnp.int32)
            phrasing = jnp.asarray(knobs["phrasing_4"])[base.below(phrasing_word[0], knobs["count"])]
            return Problem(object_L, step_M, size, order_M, phrasing)

        def accept(made):
            return (_direction(_offset_Lx2(made)[made.size]) >= 0) & (base.fold_of(_content(made)) == knobs["fold"])

        return base.choose(key, (1, M, vocab.LETTERS, M, 1), draw, accept)

    def answer(made):
        return jnp.stack([DIRECTION + _direction(_offset_Lx2(made)[made.size]), vocab.EOS]).astype(jnp.int32)

    def reasoning(made, key, detours):
        offset_Lx2 = _offset_Lx2(made)
        columns = [vocab.LETTER + made.object_L, ":", OFFSET + M + offset_Lx2[:, 0], OFFSET + M + offset_Lx2[:, 1], ";"]
        return traces.table(columns, (2, 3), made.size + 1, M + 1)

    ids = 16 + 2 * M + 1
    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=prompt_len, answer_len=2,
        splits={"train": setting(base.TRAIN_FOLD, low, high, phrasings), "id": setting(base.EVAL_FOLD, low, high, phrasings),
                "ood/phrasing": setting(base.EVAL_FOLD, low, high, others),
                "ood/length": setting(base.EVAL_FOLD, ood_low, M, phrasings),
                "ood/both": setting(base.EVAL_FOLD, ood_low, M, others)},
        sample=sample, prompt=lambda made: _prompt(made, prompt_len), answer=answer,
        verify=lambda made, tokens_A: base.exact(tokens_A, answer(made)),
        guess=functools.cache(lambda split: base.best_constant(task, split)), content=_content,
        difficulty=lambda made: made.size.astype(jnp.float32),
        reasoning=traces.Reasoning(reasoning, longest=5 * (M + 1), detour=5, ids=ids), vocab_size=vocab.ID + ids)
    return task


def _offset_Lx2(made):
    """Offsets of every object from the first one."""
    live_Mx1 = (jnp.arange(made.step_M.shape[0]) < made.size)[:, None]
    moved_Mx2 = jnp.where(live_Mx1, jnp.asarray(OFFSETS)[made.step_M], 0)
    return jnp.concatenate([jnp.zeros((1, 2), jnp.int32), jnp.cumsum(moved_Mx2, axis=0)])


def _direction(offset_2):
    """The direction of an offset, by its signs; -1 for none."""
    same_8 = jnp.all(jnp.asarray(OFFSETS) == jnp.sign(offset_2)[None], axis=1)
    return jnp.where(jnp.any(same_8), jnp.argmax(same_8), -1)


def _content(made):
    return jnp.concatenate([made.object_L, made.step_M, made.size[None]])


def _prompt(made, prompt_len):
    """BOS statements question, LEFT-padded: where is the last object as seen from the first?"""
    M = made.step_M.shape[0]
    a_M, b_M = vocab.LETTER + made.object_L[1:], vocab.LETTER + made.object_L[:-1]
    word_M = DIRECTION + made.step_M
    colon, end, seen = (jnp.full(M, vocab.TOKEN[mark]) for mark in ":;'")
    pad = jnp.zeros(M, jnp.int32)
    forms = jnp.stack([jnp.stack(form, axis=1) for form in (
        (a_M, word_M, b_M, end, pad), (b_M, seen, a_M, word_M, end),
        (word_M, colon, a_M, b_M, end), (a_M, word_M + 8, b_M, end, pad))])
    statement_Mx5 = forms[made.phrasing]
    live_Mx1 = (jnp.arange(M) < made.size)[:, None]
    statement_Mx5 = jnp.where(live_Mx1, statement_Mx5, vocab.PAD)[made.order_M]
    a, b = vocab.LETTER + made.object_L[made.size], vocab.LETTER + made.object_L[0]
    ask, colon, seen = (vocab.TOKEN[mark] for mark in "?:'")
    question_4 = jnp.stack([jnp.stack([a, ask, b, vocab.PAD]), jnp.stack([b, seen, a, ask]), jnp.stack([ask, colon, a, b]),
                            jnp.stack([a, ask, b, vocab.PAD])])[made.phrasing]
    tokens = traces.joined(vocab.BOS, statement_Mx5.reshape(-1), question_4)
    return vocab.pack(tokens, tokens != vocab.PAD, prompt_len, "right")
