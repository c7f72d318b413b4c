"""Exact evaluation of infix arithmetic over given numbers, on device: the verifier of countdown-like tasks.

Grammar (Python's, restricted to the tokens `0-9 + - * / ( )`, binary operators and decimal integers):

    sum     = product (("+" | "-") product)*        left associative
    product = operand (("*" | "/") operand)*        left associative
    operand = number | "(" sum ")"
    number  = digit+ without a leading zero         no sign: there is no unary operator

One `lax.scan` over the tokens. Instead of the two stacks of a shunting-yard parser, each open parenthesis level holds
a finished sum and an unfinished product, with the operator that will join the next value to each; with two precedence
levels this is equivalent, and every token costs at most three rational operations: finish a number, close a level,
join its value outside.

Exactness: values are unreduced fractions of i32. A value made of m numbers <= M has |numerator|, |denominator| <=
B(m) = 2**(m-1) M**m: B(1) = M; a fraction of a sum is a d + c b over b d, at most 2 B(i) B(j) = B(i + j); products
and quotients are at most B(i) B(j). Each number may be used once, so m <= K before a string turns invalid, and B(K) <
2**31 (`check_range`) excludes overflow. Once invalid a string stays so; what wraps around afterwards is never read.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpost.tasks import vocab

INT_MAX = 2**31 - 1
PLUS, MINUS, TIMES, DIVIDE = 0, 1, 2, 3  # operator codes: token - TOKEN["+"]


class Level(NamedTuple):
    """What is open at each depth, i32[S], innermost first: total `total_op` product `product_op` <next value>."""

    total_num: Any
    total_den: Any
    total_op: Any
    product_num: Any
    product_den: Any
    product_op: Any


class State(NamedTuple):
    """Parser state between two tokens."""

    levels: Level
    depth: Any  # i32[] open parentheses
    number: Any  # i32[] value of the number being read, 0 if none
    reading: Any  # bool[] a number is being read
    operand: Any  # bool[] an operand has just ended with ")"
    used_K: Any  # bool
    ok: Any  # bool[] nothing wrong so far
    done: Any  # bool[] EOS seen


def check_range(count, largest):
    """Raises ValueError unless `count` numbers up to `largest` can be evaluated in i32 (module docstring)."""
    bound = 2 ** (count - 1) * largest**count
    if bound > INT_MAX:
        raise ValueError(
            f"{count} numbers up to {largest} need integers up to 2**(count-1) * largest**count = {bound}, "
            f"but exact evaluation is in i32 (up to {INT_MAX}): use fewer or smaller numbers"
        )


def equals(tokens_T, number_K, active_K, target):
    """Whether a completion is a well-formed expression that uses every number exactly once and equals the target.

    Args:
        tokens_T: i32[T], any values; read up to the first EOS.
        number_K: i32[K], the positive numbers at hand (a multiset).
        active_K: bool[K], which entries count.
        target: i32[], positive.
    Returns:
        bool[]. False for malformed text, a missing EOS, division by zero, a number missing, foreign, or used twice.
    """
    length = tokens_T.shape[0]
    slots = max(length // 2, 1)  # T - 1 tokens before EOS hold at most (T - 2) // 2 nested pairs

    def step(state, token):
        return _read(state, token, number_K, active_K, slots), None

    zero_S, one_S = jnp.zeros((slots,), jnp.int32), jnp.ones((slots,), jnp.int32)
    no = jnp.bool_(False)
    start = State(
        levels=Level(zero_S, one_S, zero_S + PLUS, one_S, one_S, zero_S + TIMES),
        depth=jnp.int32(0),
        number=jnp.int32(0),
        reading=no,
        operand=no,
        used_K=jnp.zeros(number_K.shape, bool),
        ok=jnp.bool_(True),
        done=no,
    )
    final, _ = jax.lax.scan(step, start, tokens_T)
    num, den, _ = _join(_total(final.levels), _product(final.levels), final.levels.total_op[0])
    # target * den may pass i32; then it cannot equal num, so compare only where it fits.
    fits = jnp.abs(den) <= INT_MAX // target
    same = fits & (num == target * jnp.where(fits, den, 0))
    return final.ok & final.done & same & jnp.all(final.used_K == active_K)


def _total(levels):
    return levels.total_num[0], levels.total_den[0]


def _product(levels):
    return levels.product_num[0], levels.product_den[0]


def _join(left, right, op):
    """left op right on fractions (num, den). Returns (num, den, ok); ok is False for division by zero."""
    (a, b), (c, d) = left, right
    by_zero = (op == DIVIDE) & (c == 0)
    divide_num, divide_den = a * d, b * c
    num = jnp.select([op == PLUS, op == MINUS, op == TIMES], [a * d + c * b, a * d - c * b, a * c], divide_num)
    den = jnp.where(op == DIVIDE, jnp.where(by_zero, 1, divide_den), b * d)
    return num, den, ~by_zero


def _set_top(levels, **fields):
    """`levels` with some fields of the top level replaced."""
    return levels._replace(**{name: getattr(levels, name).at[0].set(value) for name, value in fields.items()})


def _apply(levels, value):
    """Join an operand's value to the open product of the top level. Returns (levels, ok)."""
    num, den, ok = _join(_product(levels), value, levels.product_op[0])
    return _set_top(levels, product_num=num, product_den=den), ok


def _push(levels):
    """Open a level: 0 + 1 * <next value>."""
    fresh = Level(0, 1, PLUS, 1, 1, TIMES)
    return Level(*(jnp.roll(x, 1).at[0].set(first) for x, first in zip(levels, fresh, strict=True)))


def _where(condition, yes, no):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _read(state, token, number_K, active_K, slots):
    """The state after one token."""
    digit = token - vocab.DIGIT
    op = token - vocab.TOKEN["+"]
    is_digit = (digit >= 0) & (digit <= 9)
    is_op = (op >= PLUS) & (op <= DIVIDE)
    is_open, is_close = token == vocab.TOKEN["("], token == vocab.TOKEN[")"]
    is_end = token == vocab.EOS

    # 1. A token that is no digit finishes the number before it.
    finish = state.reading & ~is_digit
    free_K = active_K & ~state.used_K & (number_K == state.number)
    first_K = free_K & (jnp.cumsum(free_K.astype(jnp.int32)) == 1)
    used_K = state.used_K | (first_K & finish)
    applied, apply_ok = _apply(state.levels, (state.number, jnp.int32(1)))
    levels = _where(finish, applied, state.levels)
    number_ok = ~finish | (jnp.any(free_K) & apply_ok)
    has_operand = state.reading | state.operand

    # 2. The token itself.
    summed = _join(_total(levels), _product(levels), levels.total_op[0])
    after_sign = _set_top(
        levels, total_num=summed[0], total_den=summed[1], total_op=op, product_num=1, product_den=1, product_op=TIMES
    )
    after_op = _where(op <= MINUS, after_sign, _set_top(levels, product_op=op))
    outer = jax.tree.map(lambda x: jnp.roll(x, -1), levels)
    after_close, close_ok = _apply(outer, summed[:2])
    stacked = _where(is_op, after_op, _where(is_open, _push(levels), _where(is_close, after_close, levels)))

    # 3. Was it allowed here?
    leading_zero = state.reading & (state.number == 0)
    token_ok = jnp.select(
        [is_digit, is_op, is_open, is_close, is_end],
        [
            ~state.operand & ~leading_zero,
            has_operand,
            ~has_operand & (state.depth < slots - 1),
            has_operand & (state.depth > 0) & close_ok,
            has_operand & (state.depth == 0),
        ],
        jnp.bool_(False),
    )
    too_large = jnp.max(jnp.where(active_K, number_K, 0)) + 1  # a value that no number has
    following = State(
        levels=stacked,
        depth=state.depth + is_open.astype(jnp.int32) - is_close.astype(jnp.int32),
        number=jnp.where(is_digit, jnp.minimum(state.number * 10 + digit, too_large), 0),
        reading=is_digit,
        operand=is_close,
        used_K=used_K,
        ok=state.ok & number_ok & token_ok,
        done=is_end,
    )
    return _where(state.done, state, following)
