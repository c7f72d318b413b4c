"""Expressions as joins: numbers on the table, of which two are joined by + - * / again and again until one is left.

What Countdown and General Points share: the text of such an expression, its steps as reasoning, joins that lead nowhere, and
the best fixed template as a baseline. A difference is taken positive, and a quotient only if it is exact.

Legend: K numbers, J = K - 1 joins, C candidate joins, T tokens.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.tasks import expression, traces, vocab

LIMIT = 30_000  # values beyond are never on the way to a target; LIMIT**2 fits i32


class Joins(NamedTuple):
    """Numbers, target and one solution: join s takes slots left_J[s] and right_J[s] of the live values, J = K - 1."""

    number_K: Any  # i32, zero from `count` on
    count: Any  # i32[]
    target: Any  # i32[]
    left_J: Any  # i32
    right_J: Any  # i32
    op_J: Any  # i32, expression.PLUS ... DIVIDE


def merge(slots, left, right, joined, live):
    """Slots after a join: the result at the lower place, the last live slot moved into the higher."""
    low, high = jnp.minimum(left, right), jnp.maximum(left, right)
    return slots.at[high].set(slots[live - 1]).at[low].set(joined)


def join(a, b, op):
    """The value of a op b; a division is the whole part, and one by 0 is taken as by 1."""
    return jnp.select(
        [op == expression.PLUS, op == expression.MINUS, op == expression.TIMES], [a + b, a - b, a * b], a // jnp.maximum(b, 1)
    )


def text_of(problem, number_width, completion_len):
    """The problem's solution, every join but the last in parentheses, EOS, PAD: i32[T].

    Replays the joins on texts: a text is a row of T tokens padded with PAD.
    """
    most = problem.number_K.shape[0]

    def row(*pieces):
        tokens = jnp.concatenate(pieces)
        return vocab.pack(tokens, tokens != vocab.PAD, completion_len, "left")

    digits_KxW, shown_KxW = jax.vmap(lambda x: vocab.decimal(x, number_width))(problem.number_K)
    text_KxT = jax.vmap(row)(jnp.where(shown_KxW, digits_KxW, vocab.PAD))
    for step in range(most - 1):
        left, right = problem.left_J[step], problem.right_J[step]
        happens, last = step < problem.count - 1, step == problem.count - 2
        begin = jnp.where(last, vocab.PAD, vocab.TOKEN["("])[None]
        end = jnp.where(last, vocab.PAD, vocab.TOKEN[")"])[None]
        op = (vocab.TOKEN["+"] + problem.op_J[step])[None]
        joined_T = row(begin, text_KxT[left], op, text_KxT[right], end)
        text_KxT = jnp.where(happens, merge(text_KxT, left, right, joined_T, problem.count - step), text_KxT)
    return row(text_KxT[0], jnp.asarray([vocab.EOS]))


def steps_of(problem, key, detours, value_width):
    """The joins as steps, and joins that lead nowhere as detours."""
    most = problem.number_K.shape[0]

    def text(a, op, b, value):
        width = value_width
        return traces.joined(traces.number(a, width), vocab.TOKEN["+"] + op, traces.number(b, width), "=",
                             traces.number(value, width), ";")

    result_W = jnp.arange(3 * value_width + 3) // (value_width + 1) == 2
    value_K, token, slots = problem.number_K, [], []
    for step in range(most - 1):
        left, right, op = problem.left_J[step], problem.right_J[step], problem.op_J[step]
        a, b = value_K[left], value_K[right]
        value = join(a, b, op)
        happens = step < problem.count - 1
        token.append(jnp.where(happens, text(a, op, b, value), vocab.PAD))
        slots.append(value_K)
        value_K = jnp.where(happens, merge(value_K, left, right, value, problem.count - step), value_K)
    steps = traces.Steps(jnp.stack(token), jnp.broadcast_to(result_W, (most - 1, result_W.shape[0])))
    if not detours:
        return steps

    left_J = problem.count - jnp.arange(most - 1)
    triple_JxCx3, value_JxC, dead_JxC = jax.vmap(lambda v, n: dead_ends(v, n, problem.target))(jnp.stack(slots), left_J)
    dead_C = dead_JxC.reshape(-1)
    order_C = jnp.lexsort((jax.random.bits(key, dead_C.shape, "uint32"), ~dead_C))
    chosen_K = order_C[jnp.arange(detours) % jnp.maximum(dead_C.sum(), 1)]
    a_K, op_K, b_K = jnp.moveaxis(triple_JxCx3.reshape(-1, 3)[chosen_K], -1, 0)
    detour_KxD = jax.vmap(text)(a_K, op_K, b_K, value_JxC.reshape(-1)[chosen_K])
    return steps._replace(detour_KxD=detour_KxD, before_K=chosen_K // value_JxC.shape[1])


def children(value_V, count):
    """Every join of two of the first `count` values: ((a, op, b) [C, 3], values left [C, V - 1], possible [C]); C = 2V(V-1)."""
    V = value_V.shape[0]
    pair_Cx2 = np.repeat(np.asarray(list(itertools.combinations(range(V), 2))), 4, axis=0)
    rest = [[k for k in range(V) if k not in pair] for pair in pair_Cx2.tolist()]
    rest_CxR = np.asarray(rest, np.int32).reshape(len(rest), -1)
    op_C = np.tile(np.arange(4, dtype=np.int32), len(pair_Cx2) // 4)
    big_C, small_C = jnp.max(value_V[pair_Cx2], axis=1), jnp.min(value_V[pair_Cx2], axis=1)
    value_C = join(big_C, small_C, op_C)
    exact_C = (op_C != expression.DIVIDE) | ((small_C > 0) & (big_C % jnp.maximum(small_C, 1) == 0))
    left_CxV = jnp.concatenate([jnp.minimum(value_C, LIMIT)[:, None], value_V[rest_CxR]], axis=1)
    possible_C = (pair_Cx2[:, 1] < count) & exact_C & (value_C <= LIMIT)
    return jnp.stack([big_C, jnp.asarray(op_C), small_C], axis=1), left_CxV, possible_C


def _reaches(value_V, count, target):
    """Whether joins of the first `count` of at most three values reach the target."""
    done = (count == 1) & (value_V[0] == target)
    if value_V.shape[0] == 1:
        return done
    _, left_CxV, possible_C = children(value_V, count)
    return done | jnp.any(possible_C & jax.vmap(lambda values: _reaches(values, count - 1, target))(left_CxV))


def dead_ends(value_K, count, target):
    """Joins of two to four values, and which of them the target cannot be reached after: ([C, 3], values [C], dead [C])."""
    triple_Cx3, left_CxV, possible_C = children(value_K[:4], count)
    reached_C = jax.vmap(lambda values: _reaches(values, count - 1, target))(left_CxV)
    return triple_Cx3, left_CxV[:, 0], possible_C & (count <= 4) & ~reached_C


def best_template(problem_N, verify, answer):
    """Success of the best fixed template: the numbers as they stand, joined left to right by fixed operators.

    Args:
        problem_N: Joins with a leading axis N and one `count`.
        verify, answer: (problem, i32[A]) -> reward, and problem -> i32[A].
    """
    joins, count = problem_N.left_J.shape[1], int(problem_N.count[0])
    order_K = _left_to_right(count, joins + 1)

    @jax.jit
    def success(op_J):
        def one(problem):
            first_J = jnp.zeros_like(op_J)  # joining slots 0 and 1 moves the last number into slot 1
            template = problem._replace(number_K=problem.number_K[order_K], left_J=first_J, right_J=first_J + 1, op_J=op_J)
            return verify(problem, answer(template))

        return jnp.mean(jax.vmap(one)(problem_N))

    choices = itertools.product(range(4), repeat=count - 1)
    return max(float(success(np.asarray(ops + (0,) * (joins - len(ops))))) for ops in choices)


def _left_to_right(count, most):
    """Order of the numbers in the slots such that joining slots 0 and 1 again and again uses them as printed."""
    return np.asarray([0, 1, *reversed(range(2, count)), *range(count, most)], np.int32)

