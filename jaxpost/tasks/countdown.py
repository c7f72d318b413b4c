"""Countdown: reach a target with the given numbers, each used exactly once, by + - * / and parentheses.

Prompt `^3,7,25?46=`, completion an infix expression `(25-3)*7$`, for instance. The verifier evaluates it exactly
(`expression.py`), so every right expression is accepted: other orders, redundant parentheses (as far as T has room),
fractions on the way. Reward 1 or 0; malformed text, division by zero, and a missing or foreign number give 0. After
reasoning-gym's countdown and TinyZero (arXiv 2505.24273); differs from the paper in: no partial reward for form,
small numbers, targets reachable by construction.

A problem is made from a random expression: numbers uniform in 1..max_number, then as long as two values remain, two
of them are joined by a random operator (difference taken positive; a quotient only if exact, else the difference). It
is redrawn until the value is an integer in the split's target range and the content (sorted numbers and target) lies
in the split's fold.

Splits (k = `numbers`, m = `max_target`):
    train, id     k numbers, target in 10..m.
    ood/numbers   k + 1 numbers, target in 10..m.
    ood/target    k numbers, target in m + 1 .. 10 m + 9.

A draw is accepted with probability 0.10 or more at the default options, so that 512 attempts all fail with
probability below 1e-23; the answer then is a plain sum, which is consistent but may lie outside the split's range.

Reasoning (`traces`): a step is one join, `7*3=21;`, with the values as they stand. A detour is a join of other values, rightly
computed, after which no further joins of the generator's kind reach the target (checked by enumeration); detours come before
joins of at most four values.

Difficulty: the number of joins.

Guess baseline: the best fixed template. It copies the numbers as printed, joined left to right by fixed operators,
and does not look at the target; the best of all 4**(k-1) choices, measured over 2,048 problems of the split (0.18 in
train and id, 0.09 in ood/numbers, 0.11 in ood/target at the default options).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.tasks import base, expression, joins, traces, vocab

NAME, VERSION = "countdown", 1
PAPER, VERIFIER = "arXiv:2505.24273", "exact value of the expression, every number once"
MIN_TARGET = 10
GUESS_PROBLEMS = 2048


def make(numbers=3, max_number=25, max_target=99, style="answer", room=0):
    """Countdown task.

    Args:
        numbers: k, how many numbers to use; 3 to 5 (with two, a fixed template solves most problems).
        max_number: largest number given; 9 to 99. k + 1 of them must fit exact i32 arithmetic.
        max_target: largest target of train and id; 19 to 999, and below max_number**2 / 4, so that larger targets are
            reachable.
        style, room: see `traces`.
    Returns:
        Task; at the defaults P = 16, T = 16.
    """
    base.require(isinstance(numbers, int) and 3 <= numbers <= 5, NAME, "numbers", numbers, "an integer from 3 to 5")
    base.require(
        isinstance(max_number, int) and 9 <= max_number <= 99, NAME, "max_number", max_number, "an integer from 9 to 99"
    )
    top = min(999, max_number**2 // 4 - 1)
    base.require(
        isinstance(max_target, int) and 19 <= max_target <= top,
        NAME,
        "max_target",
        max_target,
        f"an integer from 19 to {top}",
    )
    most = numbers + 1
    expression.check_range(most, max_number)
    number_width, target_width = len(str(max_number)), len(str(10 * max_target + 9))
    prompt_len = 2 + max((number_width + 1) * most + len(str(max_target)), (number_width + 1) * numbers + target_width)
    answer_len = number_width * most + (most - 1) + 2 * (most - 2) + 1
    value_width = len(str(min(joins.LIMIT, max_number ** (most - 1))))  # of what is left before the last join

    def setting(fold, count, low, high):
        return {"fold": np.int32(fold), "count": np.int32(count), "low": np.int32(low), "high": np.int32(high)}

    def prompt(problem):
        return _prompt(problem, number_width, target_width, prompt_len)

    def answer(problem):
        return joins.text_of(problem, number_width, answer_len)

    def verify(problem, tokens):
        active_K = jnp.arange(most) < problem.count
        return expression.equals(tokens, problem.number_K, active_K, problem.target).astype(jnp.float32)

    @functools.cache
    def guess(split):
        problem_N = base.problems(task, split, np.arange(GUESS_PROBLEMS))
        return joins.best_template(problem_N, verify, answer)

    # Operands a, b of join s have a b <= max_number**(s + 2): together at most one digit more than that bound.
    digits = [len(str(max_number ** (s + 2))) for s in range(most - 1)]
    step_lens = [d + 4 + min(d, value_width) for d in digits[:-1]] + [digits[-1] + 4 + target_width]
    task = traces.make(
        name=NAME,
        version=VERSION,
        style=style,
        room=room,
        prompt_len=prompt_len,
        answer_len=answer_len,
        splits={
            "train": setting(base.TRAIN_FOLD, numbers, MIN_TARGET, max_target),
            "id": setting(base.EVAL_FOLD, numbers, MIN_TARGET, max_target),
            "ood/numbers": setting(base.EVAL_FOLD, most, MIN_TARGET, max_target),
            "ood/target": setting(base.EVAL_FOLD, numbers, max_target + 1, 10 * max_target + 9),
        },
        sample=lambda key, knobs: _sample(key, knobs, most, max_number),
        prompt=prompt,
        answer=answer,
        verify=verify,
        guess=guess,
        content=_content,
        difficulty=lambda problem: (problem.count - 1).astype(jnp.float32),
        reasoning=traces.Reasoning(
            functools.partial(joins.steps_of, value_width=value_width),
            longest=sum(step_lens),
            detour=digits[-1] + 4 + len(str(joins.LIMIT)),
        ),
        vocab_size=vocab.SIZE if style == "answer" else vocab.MARKED,
    )
    return task


def _sample(key, knobs, most, max_number):
    """A problem with a target in range, in the knobs' fold."""

    def draw(key):
        return _draw(key, knobs["count"], most, max_number)

    def accept(drawn):
        problem, exists = drawn
        in_range = (problem.target >= knobs["low"]) & (problem.target <= knobs["high"])
        return exists & in_range & (_fold(problem) == knobs["fold"])

    (problem, _), accepted = base.first_accepted(draw, accept, key)
    joins_J = jnp.zeros((most - 1,), jnp.int32)
    plain_sum = problem._replace(target=jnp.sum(problem.number_K), left_J=joins_J, right_J=joins_J + 1, op_J=joins_J)
    return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), problem, plain_sum)


def _content(problem):
    return jnp.concatenate([jnp.sort(problem.number_K), problem.target[None]])


def _fold(problem):
    return base.fold_of(_content(problem))


def _draw(key, count, most, max_number):
    """Random numbers and a random expression over them. Returns (problem, whether all values stayed within joins.LIMIT)."""
    number_word, left_word, right_word, op_word = base.words(key, most, most - 1, most - 1, most - 1)
    number_K = 1 + base.below(number_word, max_number)
    number_K = jnp.where(jnp.arange(most) < count, number_K, 0)
    live_J = jnp.maximum(count - jnp.arange(most - 1), 2)  # values left before each join
    left_J = base.below(left_word, live_J)
    right_J = base.below(right_word, live_J - 1)
    right_J = right_J + (right_J >= left_J)
    op_J = base.below(op_word, 4)

    value_K, small = number_K, jnp.bool_(True)
    for step in range(most - 1):  # at most five
        left, right = left_J[step], right_J[step]
        swap = (op_J[step] % 2 == 1) & (value_K[left] < value_K[right])  # larger first for - and /
        left, right = jnp.where(swap, right, left), jnp.where(swap, left, right)
        a, b = value_K[left], value_K[right]
        inexact = (op_J[step] == expression.DIVIDE) & ((b == 0) | (a % jnp.maximum(b, 1) != 0))
        op = jnp.where(inexact, expression.MINUS, op_J[step])
        value = joins.join(a, b, op)
        happens = step < count - 1
        small &= ~happens | (value <= joins.LIMIT)
        value = jnp.minimum(value, joins.LIMIT)
        value_K = jnp.where(happens, joins.merge(value_K, left, right, value, count - step), value_K)
        left_J, right_J, op_J = left_J.at[step].set(left), right_J.at[step].set(right), op_J.at[step].set(op)
    problem = joins.Joins(number_K, jnp.asarray(count, jnp.int32), value_K[0], left_J, right_J, op_J)
    return problem, small


def _prompt(problem, number_width, target_width, prompt_len):
    """BOS numbers separated by commas ? target =, LEFT-padded."""
    most = problem.number_K.shape[0]
    tokens, keep = [jnp.asarray([vocab.BOS])], [jnp.ones((1,), bool)]
    for k in range(most):
        digits, used = vocab.decimal(problem.number_K[k], number_width)
        active = k < problem.count
        mark = jnp.where(k == problem.count - 1, vocab.TOKEN["?"], vocab.TOKEN[","])
        tokens += [digits, mark[None]]
        keep += [used & active, active[None]]
    digits, used = vocab.decimal(problem.target, target_width)
    tokens += [digits, jnp.asarray([vocab.TOKEN["="]])]
    keep += [used, jnp.ones((1,), bool)]
    return vocab.pack(jnp.concatenate(tokens), jnp.concatenate(keep), prompt_len, "right")
