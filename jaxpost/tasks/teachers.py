"""Teacher and student, twice: two binary perceptrons to be learned in turn, as alike as one likes.

Prompt `++-+-...?`, D signs x, answer `Y$` if w . x > 0 for a teacher w of signs, else `N$`; D is odd, so that no sum is 0. The
second teacher has the opposite sign at `flipped` of the D places, drawn at random: its overlap with the first is

    r = w_1 . w_2 / D = 1 - 2 flipped / D          1: one task twice, 0: nothing in common, -1: opposite tasks

A study of continual learning trains on `teacher=1`, then on `teacher=2`, and evaluates both. What can be said exactly:

    agreement(D, flipped)                   the share of inputs on which both teachers give one answer, to which success on the
                                            first task falls when the second is learned and nothing kept
    order_parameters(weight_D, teachers)    q = |w|^2 / D, m_k = w . w_k / D and the cosines R_k = m_k / sqrt(q) of a student's
                                            weights w
    generalisation_error(R)                 arccos(R) / pi, its error on task k for large D
    hebbian(input_NxD, output_N)            mean of y x, an estimate of the weights of any student, up to their length, from its
                                            answers y = 1 or -1 to random inputs

After arXiv:2212.02846 (binary perceptrons, tasks of a given overlap, order parameters against SGD); differs from the paper in:
the student is whatever is trained, not a binary perceptron with uncertain weights, and its mean-field equations are absent.

Splits: train, id (any input), ood/disagree (inputs on which the teachers differ; only where flipped > 0): a student's success p
there is 1 - p for the other teacher. Content is the input up to a sign of the whole, with which answers turn.

Difficulty: 1 over the distance |w . x| from the decision. Guess baseline: the commonest answer of 2,048 problems.
"""

import functools
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxpost.tasks import base, traces, vocab

NAME, VERSION = "teachers", 1
PAPER, VERIFIER = "arXiv:2212.02846", "the label, one token"


class Problem(NamedTuple):
    """Signs, and the sum that the teacher has of them."""

    input_D: Any  # i32, 1 or -1
    field: Any  # i32[]


def make(inputs=21, flipped=5, teacher=1, world=0, style="answer", room=0):
    """One of a pair of teachers.

    Args:
        inputs: D, an odd number from 5 to 63.
        flipped: places where the teachers differ, 0 to D.
        teacher: 1 or 2.
        world: number of the pair.
        style, room: see `traces`; answers only.
    """
    base.require(isinstance(inputs, int) and 5 <= inputs <= 63 and inputs % 2 == 1, NAME, "inputs", inputs,
                 "an odd number from 5 to 63")
    base.require(isinstance(flipped, int) and 0 <= flipped <= inputs, NAME, "flipped", flipped,
                 f"an integer from 0 to inputs = {inputs}")
    base.require(teacher in (1, 2), NAME, "teacher", teacher, "1 or 2")
    base.require(isinstance(world, int) and 0 <= world < 2**31, NAME, "world", world, f"an integer from 0 to {2**31 - 1}")
    teacher_2xD = jnp.asarray(pair(inputs, flipped, world))

    def sample(key, knobs):
        def draw(word_D):
            input_D = 2 * base.below(word_D, 2) - 1
            return Problem(input_D, jnp.sum(teacher_2xD[teacher - 1] * input_D))

        def accept(made):
            differ = jnp.sum(teacher_2xD[2 - teacher] * made.input_D) * made.field < 0
            return (differ | (knobs["disagree"] == 0)) & (base.fold_of(_content(made)) == knobs["fold"])

        return base.choose(key, (inputs,), draw, accept)

    def prompt(made):
        return traces.joined(vocab.BOS, jnp.where(made.input_D > 0, vocab.TOKEN["+"], vocab.TOKEN["-"]), "?")

    def answer(made):
        return jnp.stack([jnp.where(made.field > 0, vocab.TOKEN["Y"], vocab.TOKEN["N"]), vocab.EOS]).astype(jnp.int32)

    splits = {"train": base.setting(base.TRAIN_FOLD, disagree=0), "id": base.setting(base.EVAL_FOLD, disagree=0)}
    if flipped:
        splits["ood/disagree"] = base.setting(base.EVAL_FOLD, disagree=1)
    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=inputs + 2, answer_len=2, splits=splits, sample=sample,
        prompt=prompt, answer=answer, verify=lambda made, tokens_A: base.exact(tokens_A, answer(made)),
        guess=functools.cache(lambda split: base.best_constant(task, split)), content=_content,
        difficulty=lambda made: 1 / jnp.abs(made.field).astype(jnp.float32))
    return task


def pair(inputs, flipped, world):
    """The two teachers, i32[2, D]; the first is the same for every `flipped`, and more places are flipped as it grows."""
    stream = np.random.RandomState(world)  # never changes
    first_D, order_D = 2 * stream.randint(0, 2, inputs) - 1, stream.permutation(inputs)
    second_D = np.where(np.argsort(order_D) < flipped, -first_D, first_D)
    return np.stack([first_D, second_D]).astype(np.int32)


def agreement(inputs, flipped):
    """Share of the 2^D inputs with one answer of both teachers: P(|a| > |b|), a sum of D - flipped signs, b of the others."""
    kept = inputs - flipped
    ways = sum(math.comb(kept, i) * math.comb(flipped, j) for i in range(kept + 1) for j in range(flipped + 1)
               if abs(2 * i - kept) > abs(2 * j - flipped))
    return ways / 2**inputs


def order_parameters(weight_D, teacher_2xD):
    """(q, m_2, R_2) of a student's weights: self-overlap, overlaps with the teachers, cosines (0 where all weights are 0)."""
    weight_D, D = np.asarray(weight_D, float), len(weight_D)
    q, m_2 = weight_D @ weight_D / D, np.asarray(teacher_2xD) @ weight_D / D
    return q, m_2, m_2 / np.sqrt(q) if q > 0 else np.zeros(2)


def generalisation_error(cosine):
    """arccos(R) / pi: the share of Gaussian inputs on which two perceptrons with weights of this cosine differ."""
    return np.arccos(np.clip(cosine, -1, 1)) / np.pi


def hebbian(input_NxD, output_N):
    """Mean of y x over N random inputs, f64[D]: for y = sign(w . x) proportional to w, up to noise of 1 / sqrt(N) each."""
    return np.mean(np.asarray(output_N, float)[:, None] * np.asarray(input_NxD, float), axis=0)


def _content(made):
    return made.input_D * made.input_D[0]
