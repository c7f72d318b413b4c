"""Addition of zero-padded decimal numbers, the answer written least significant digit first by default.

Prompt `^012+345=` (BOS, both operands with exactly `width` digits), answer `7530$`: always width + 1 digits, then EOS.
Reversing lets each answer digit depend on the digits at hand and one carry (Zhou et al., arXiv 2310.16028, and before
it Lee et al., arXiv 2307.03381); `reverse=False` writes `0357$`.

Splits (n = `digits`):
    train, id           n digits, each uniform in 0..9 (leading zeros occur, so shorter numbers are included).
    ood/operand_length  n + 1 digits, both leading digits non-zero: every operand is longer than any in training.
    ood/carry           n digits, a carry out of every position: the lowest two digits sum to at least 10, all others
                        to at least 9, pairs uniform. A fraction (45/100) (55/100)**(n-1) of the train split has this
                        form too: a hard slice, not new ground.

Content is the unordered pair of operands: a + b in `train` keeps b + a out of evaluation. Half of all pairs belong to
each fold, so a generator runs out of attempts with probability 2**-512.

Difficulty: the number of digits of an operand.

Guess baseline: the best constant answer (it beats random digits, which get 10**-(width + 1)), over the split before
folding:
    train, id           a + b = 10**n - 1 has 10**n of the 10**(2n) pairs: 10**-n.
    ood/operand_length  likewise with 9 * 10**n values an operand: 1 / (9 * 10**n).
    ood/carry           digits are independent: 9/45 for the lowest (digit 0), 10/55 for each other (digit 0), the last
                        carry is sure: (1/5) (2/11)**(n-1).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.tasks import base, vocab

NAME, VERSION = "addition", 1
PAPER, VERIFIER = "arXiv:2310.16028, arXiv:2307.03381", "the sum, token by token"
TWO_DIGITS = np.stack(np.divmod(np.arange(100), 10), axis=-1).astype(np.int32)
PAIRS_TEN = TWO_DIGITS[TWO_DIGITS.sum(-1) >= 10]  # [45, 2] digit pairs that carry by themselves
PAIRS_NINE = TWO_DIGITS[TWO_DIGITS.sum(-1) >= 9]  # [55, 2] digit pairs that carry when carried into


class Problem(NamedTuple):
    """Operands as digits, least significant first; W = digits + 1 places, zero from `width` on."""

    a_W: Any  # i32
    b_W: Any  # i32
    width: Any  # i32[]


def make(digits=3, reverse=True):
    """Addition task.

    Args:
        digits: operand digits n of the splits train, id and ood/carry; 1 to 32.
        reverse: write the answer least significant digit first.
    Returns:
        Task with P = 2n + 5, T = n + 3.
    """
    base.require(isinstance(digits, int) and 1 <= digits <= 32, NAME, "digits", digits, "an integer from 1 to 32")
    base.require(isinstance(reverse, bool), NAME, "reverse", reverse, "True or False")
    places = digits + 1

    def setting(fold, width, leading=0, carry=False):
        return {
            "fold": np.int32(fold),
            "width": np.int32(width),
            "leading": np.int32(leading),
            "carry": np.bool_(carry),
        }

    def prompt(problem):
        return _prompt(problem, places)

    def oracle(problem, key):
        del key
        return _answer(problem, places, reverse)

    def verify(problem, tokens):
        base.check_tokens(NAME, tokens, places + 2)
        return base.exact(tokens, _answer(problem, places, reverse))

    task = base.Task(
        name=NAME,
        version=VERSION,
        prompt_len=2 * places + 3,
        completion_len=places + 2,
        splits={
            "train": setting(base.TRAIN_FOLD, digits),
            "id": setting(base.EVAL_FOLD, digits),
            "ood/operand_length": setting(base.EVAL_FOLD, digits + 1, leading=1),
            "ood/carry": setting(base.EVAL_FOLD, digits, carry=True),
        },
        sample=lambda key, knobs: _sample(key, knobs, places),
        prompt=prompt,
        oracle=oracle,
        verify=verify,
        guess=lambda split: _guess(task, split, digits),
        content=_content,
        difficulty=lambda problem: problem.width.astype(jnp.float32),
    )
    return task


def _sample(key, knobs, places):
    """A problem in the knobs' fold."""

    def draw(key):
        return _draw(key, knobs, places)

    def accept(problem):
        return base.fold_of(_content(problem)) == knobs["fold"]

    return base.first_accepted(draw, accept, key)[0]


def _draw(key, knobs, places):
    """Digits of both operands: uniform, or from the pairs that carry."""
    plain_word, ten_word, nine_word_W = base.words(key, 2 * places, 1, places)
    place_W = jnp.arange(places)
    first = jnp.where(place_W == knobs["width"] - 1, knobs["leading"], 0)[:, None]
    plain_Wx2 = first + base.below(plain_word.reshape(places, 2), 10 - first)
    ten_2 = jnp.asarray(PAIRS_TEN)[base.below(ten_word[0], len(PAIRS_TEN))]
    nine_Wx2 = jnp.asarray(PAIRS_NINE)[base.below(nine_word_W, len(PAIRS_NINE))]
    carry_Wx2 = jnp.where((place_W == 0)[:, None], ten_2[None, :], nine_Wx2)
    digit_Wx2 = jnp.where(knobs["carry"], carry_Wx2, plain_Wx2)
    digit_Wx2 = jnp.where((place_W < knobs["width"])[:, None], digit_Wx2, 0)
    return Problem(digit_Wx2[:, 0], digit_Wx2[:, 1], jnp.asarray(knobs["width"], jnp.int32))


def _content(problem):
    """The unordered pair: the larger operand first (compared at the highest place where they differ)."""
    differ_W = problem.a_W != problem.b_W
    place_W = jnp.arange(differ_W.shape[0])
    highest = jnp.argmax(jnp.where(differ_W, place_W + 1, 0))
    swap = problem.a_W[highest] < problem.b_W[highest]
    larger_W = jnp.where(swap, problem.b_W, problem.a_W)
    smaller_W = jnp.where(swap, problem.a_W, problem.b_W)
    return jnp.concatenate([larger_W, smaller_W])


def _prompt(problem, places):
    """BOS a + b =, operands most significant digit first, LEFT-padded to P."""
    keep_W = jnp.arange(places)[::-1] < problem.width
    one = jnp.ones((1,), bool)
    tokens = [
        jnp.asarray([vocab.BOS]),
        vocab.DIGIT + problem.a_W[::-1],
        jnp.asarray([vocab.TOKEN["+"]]),
        vocab.DIGIT + problem.b_W[::-1],
        jnp.asarray([vocab.TOKEN["="]]),
    ]
    keep = jnp.concatenate([one, keep_W, one, keep_W, one])
    return vocab.pack(jnp.concatenate(tokens), keep, 2 * places + 3, "right")


def _answer(problem, places, reverse):
    """The sum's width + 1 digits, EOS, PAD: i32[T]."""

    def add(carry, pair_2):
        total = pair_2[0] + pair_2[1] + carry
        return total // 10, total % 10

    operand_Wx2 = jnp.stack([problem.a_W, problem.b_W], axis=-1)
    last, digit_W = jax.lax.scan(add, jnp.int32(0), operand_Wx2)
    digit_V = jnp.concatenate([digit_W, last[None]])  # V = W + 1 places
    place_V = jnp.arange(places + 1)
    keep_V = place_V <= problem.width
    if not reverse:
        digit_V, keep_V = digit_V[::-1], keep_V[::-1]
    tokens = jnp.concatenate([vocab.DIGIT + digit_V, jnp.asarray([vocab.EOS])])
    return vocab.pack(tokens, jnp.concatenate([keep_V, jnp.ones((1,), bool)]), places + 2, "left")


def _guess(task, split, digits):
    """Success of the best constant answer (module docstring)."""
    base.knobs(task, split)
    if split == "ood/carry":
        return 0.2 * (2 / 11) ** (digits - 1)
    if split == "ood/operand_length":
        return 1 / (9 * 10.0**digits)
    return 10.0**-digits
