"""Arithmetic, linear equations and dynamic programming: problems that are easy step by step and hard at once.

    problem     prompt                        answer                  size
    expression  `((3*4)+5)=`                  its value modulo p      operators
    equations   `120=3;011=2;...?` (rows)     x_1 ... x_m modulo p    unknowns m
    increasing  `3,7,2,5?`                    the length of the longest strictly increasing subsequence, numbers below p

Numbers are single tokens from `vocab.ID` on. After arXiv:2305.15408 (whose title asks for the mystery of chain of thought);
reconstructed: sizes are ours. Differs from the paper in: edit distance is left out, expressions have every subexpression in
parentheses, and nothing is multiplied by 0.

An expression grows from its value: a number in it is replaced by `(a op b)` of that value, so that its steps are the same
sequence backwards. A system has an invertible matrix. Splits: train, id (sizes in `size`), ood/depth (sizes in `ood_size`).
Content is the prompt.

Reasoning (`traces`): expression: `=` and the expression after one more operation, the last written first; equations: the
augmented matrix after each column is cleared; increasing: `v>l;` for each number, l the longest that ends there.

Difficulty: the size. Guess baseline: the commonest answer of 2,048 problems.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpost.lookup import nearest
from jaxpost.tasks import base, traces, vocab

NAME, VERSION = "arithmetic", 1
PAPER, VERIFIER = "arXiv:2305.15408", "the whole answer, token by token"
PROBLEMS = ("expression", "equations", "increasing")
SIZES = {"expression": ((1, 4), (5, 6)), "equations": ((2, 2), (3, 3)), "increasing": ((5, 8), (9, 12))}
PRIMES = (5, 7, 11, 13)


class Problem(NamedTuple):
    """States i32[S + 1, W] of the work, from the task (0) to its end; what they are depends on the problem."""

    state: Any
    changed: Any  # bool[S + 1, W], what the step to a state has found
    size: Any  # i32[]


def make(problem="expression", modulus=11, size=None, ood_size=None, style="answer", room=0):
    """Expressions, equations or increasing subsequences.

    Args:
        problem: a name of the table above.
        modulus: p, one of 5, 7, 11, 13.
        size, ood_size: (low, high) of train and id, and of ood/depth; at most 12. None: small ones of the problem. `high` of
            `size` is at least 2 for increasing, as a single number leaves too few problems.
        style, room: see `traces`.
    """
    if problem not in PROBLEMS:
        raise ValueError(f"unknown problem of task {NAME!r} {problem!r}{nearest(problem, PROBLEMS)}")
    base.require(modulus in PRIMES, NAME, "modulus", modulus, f"one of {PRIMES}")
    low, high = base.length_range(NAME, "size", size or SIZES[problem][0], 1, 12)
    base.require(high > (problem == "increasing"), NAME, "size", size, "(low, high) with high at least 2 for increasing")
    ood_low, M = base.length_range(NAME, "ood_size", ood_size or SIZES[problem][1], high + 1, 12)
    ids = max(modulus, M + 1)
    kind = {"expression": _expression, "equations": _equations, "increasing": _increasing}[problem](M, modulus)

    def sample(key, knobs):
        def draw(key):
            return kind.draw(key, base.span(base.words(key, 1)[0][0], knobs["low"], knobs["high"]))

        def accept(drawn):
            made, good = drawn
            return good & (base.fold_of(_content(made)) == knobs["fold"])

        return base.first_accepted(draw, accept, key)[0][0]

    def prompt(made):
        tokens = traces.joined(vocab.BOS, kind.prompt(made))
        return vocab.pack(tokens, tokens != vocab.PAD, kind.prompt_len, "right")

    def answer(made):
        tokens = jnp.append(kind.answer(made), vocab.EOS)
        return vocab.pack(tokens, tokens != vocab.PAD, kind.answer_len, "left")

    def setting(fold, low, high):
        return base.setting(fold, low=low, high=high)

    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=kind.prompt_len, answer_len=kind.answer_len,
        splits={"train": setting(base.TRAIN_FOLD, low, high), "id": setting(base.EVAL_FOLD, low, high),
                "ood/depth": setting(base.EVAL_FOLD, ood_low, M)},
        sample=sample, prompt=prompt, answer=answer, verify=lambda made, tokens_A: base.exact(tokens_A, answer(made)),
        guess=functools.cache(lambda split: base.best_constant(task, split)), content=_content,
        difficulty=lambda made: made.size.astype(jnp.float32),
        reasoning=traces.Reasoning(lambda made, key, detours: kind.steps(made), longest=kind.longest, detour=kind.detour,
                                   ids=ids),
        vocab_size=vocab.ID + ids)
    return task


def _inverses(p):
    """The inverse of every residue modulo p, 0 for 0."""
    return jnp.asarray([0] + [pow(b, -1, p) for b in range(1, p)], jnp.int32)


def _content(made):
    return jnp.append(made.state[0], made.size)


class _Kind(NamedTuple):
    """What differs between the problems: functions of a Problem, and lengths."""

    draw: Any  # (key, size) -> (Problem, whether it is one)
    prompt: Any
    answer: Any
    steps: Any
    prompt_len: int
    answer_len: int
    longest: int
    detour: int


def _expression(M, p):
    """Row s of the state is the expression after s of at most M operations; its tokens, PAD at the end."""
    W = 4 * M + 1
    def draw(key, size):
        value_word, place_M, op_M, second_M = base.words(jax.random.fold_in(key, 1), 1, M, M, M)
        start_W = jnp.zeros(W, jnp.int32).at[0].set(vocab.ID + base.below(value_word[0], p))

        def grow(token_W, word_3):
            place_word, op_word, second_word = word_3
            number_W = token_W >= vocab.ID
            rank = base.below(place_word, jnp.sum(number_W))
            place = jnp.argmax(jnp.cumsum(number_W) > rank)
            value, op = token_W[place] - vocab.ID, base.below(op_word, 4)
            b = jnp.where(op < 2, base.below(second_word, p), 1 + base.below(second_word, p - 1))  # + - * /
            a = jnp.stack([value - b, value + b, value * _inverses(p)[b], value * b])[op] % p
            symbol = jnp.asarray(vocab.encode("+-*/"))[op]
            new_5 = jnp.stack([vocab.TOKEN["("], vocab.ID + a, symbol, vocab.ID + b, vocab.TOKEN[")"]]).astype(jnp.int32)
            index_W = jnp.arange(W)
            after_W = jnp.where(index_W < place, token_W, token_W[jnp.maximum(index_W - 4, 0)])
            inside_W = (index_W >= place) & (index_W < place + 5)
            return jnp.where(inside_W, new_5[jnp.clip(index_W - place, 0, 4)], after_W), (token_W, index_W == place)

        end_W, (before_MxW, place_MxW) = jax.lax.scan(grow, start_W, (place_M, op_M, second_M))
        grown = jnp.concatenate([before_MxW, end_W[None]])  # row n: n operators
        row = jnp.maximum(size - jnp.arange(M + 1), 0)
        changed = jnp.concatenate([place_MxW, jnp.zeros((1, W), bool)])
        return Problem(grown[row], changed[row], size), True

    def steps(made):
        live_S = jnp.arange(1, M + 1) <= made.size
        token_SxW = jnp.concatenate([jnp.full((M, 1), vocab.TOKEN["="]), made.state[1:]], axis=1)
        result_SxW = jnp.concatenate([jnp.zeros((M, 1), bool), made.changed[1:]], axis=1)
        return traces.Steps(jnp.where(live_S[:, None], token_SxW, vocab.PAD), result_SxW)

    return _Kind(draw, lambda made: traces.joined(made.state[0], "="), lambda made: made.state[-1, :1], steps,
                 prompt_len=W + 2, answer_len=2, longest=sum(4 * n + 2 for n in range(M)), detour=4 * (M - 1) + 2)


def _equations(M, p):
    """Row s of the state is the augmented matrix [M, M + 1] after s columns are cleared; 0 from row and column `size` on."""
    def draw(key, size):
        live_M = jnp.arange(M) < size
        matrix = base.below(base.words(jax.random.fold_in(key, 1), M * (M + 1))[0], p).reshape(M, M + 1)
        matrix = jnp.where(live_M[:, None] & jnp.append(live_M, True)[None], matrix, 0)

        def clear(state, column):
            matrix, good = state
            happens = column < size
            pivot_M = (matrix[:, column] != 0) & (jnp.arange(M) >= column)
            pivot = jnp.argmax(pivot_M)
            swapped = matrix.at[column].set(matrix[pivot]).at[pivot].set(matrix[column])
            row = swapped[column] * _inverses(p)[swapped[column, column]] % p
            cleared = (swapped - swapped[:, column, None] * row[None]) % p
            cleared = cleared.at[column].set(row)
            good = good & (~happens | jnp.any(pivot_M))
            matrix = jnp.where(happens, cleared, matrix)
            return (matrix, good), matrix

        (_, good), after = jax.lax.scan(clear, (matrix, jnp.bool_(True)), jnp.arange(M))
        state = jnp.concatenate([matrix[None], after]).reshape(M + 1, -1)
        changed = jnp.ones(state.shape, bool)
        return Problem(state, changed, size), good

    def text(made, state):
        live_M = jnp.arange(M) < made.size
        matrix = vocab.ID + state.reshape(M, M + 1)
        left = jnp.where(live_M[:, None] & live_M[None], matrix[:, :M], vocab.PAD)
        right = jnp.stack([jnp.full(M, vocab.TOKEN["="]), matrix[:, M], jnp.full(M, vocab.TOKEN[";"])], axis=1)
        return jnp.concatenate([left, jnp.where(live_M[:, None], right, vocab.PAD)], axis=1).reshape(-1)

    def steps(made):
        token_SxW = jax.vmap(lambda state: text(made, state))(made.state[1:])
        live_Mx1 = (jnp.arange(M) < made.size)[:, None]
        token_SxW = jnp.where(live_Mx1, jnp.concatenate([token_SxW, jnp.full((M, 1), vocab.TOKEN["|"])], axis=1), vocab.PAD)
        return traces.Steps(token_SxW, token_SxW >= vocab.ID)

    def answer(made):
        return jnp.where(jnp.arange(M) < made.size, vocab.ID + made.state[-1].reshape(M, M + 1)[:, M], vocab.PAD)

    return _Kind(draw, lambda made: traces.joined(text(made, made.state[0]), "?"), answer, steps,
                 prompt_len=M * (M + 3) + 2, answer_len=M + 1, longest=M * (M * (M + 3) + 1), detour=M * (M + 3) + 1)


def _increasing(M, p):
    """Row 0 of the state are the numbers, row 1 the longest increasing subsequence that ends at each."""

    def draw(key, size):
        live_M = jnp.arange(M) < size
        number_M = jnp.where(live_M, base.below(base.words(jax.random.fold_in(key, 1), M)[0], p), 0)

        def extend(length_M, i):
            earlier_M = (jnp.arange(M) < i) & (number_M < number_M[i])
            return length_M.at[i].set(1 + jnp.max(jnp.where(earlier_M, length_M, 0))), None

        length_M, _ = jax.lax.scan(extend, jnp.zeros(M, jnp.int32), jnp.arange(M))
        state = jnp.stack([number_M, jnp.where(live_M, length_M, 0)])
        return Problem(state, jnp.zeros(state.shape, bool), size), True

    def prompt(made):
        live_M = jnp.arange(M) < made.size
        mark_M = jnp.where(jnp.arange(M) == made.size - 1, vocab.TOKEN["?"], vocab.TOKEN[","])
        return jnp.where(live_M[:, None], jnp.stack([vocab.ID + made.state[0], mark_M], axis=1), vocab.PAD).reshape(-1)

    def steps(made):
        return traces.table([vocab.ID + made.state[0], ">", vocab.ID + made.state[1], ";"], (2,), made.size, M)

    return _Kind(draw, prompt, lambda made: vocab.ID + jnp.max(made.state[1])[None], steps,
                 prompt_len=2 * M + 1, answer_len=2, longest=4 * M, detour=4)
