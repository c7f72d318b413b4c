"""Satisfiability: an assignment that satisfies every clause.

Prompt `!ab!d&ac!e?` (clauses of literals, `!` negates), answer one digit a variable, `10110$` (a first). Any satisfying
assignment is accepted; exactly k digits are needed. After Saturn, arXiv:2505.16368, SAT(n, k, l): n literals a clause, k
variables, l clauses. Differs from the paper in: clauses stand in random order (sorted there), a missing digit is wrong (0
there), no box around the answer, reward 1 or 0 (there -1 without a box and -2 for an exception).

A formula is made around a planted assignment: each clause takes n different variables and one of the 2^n - 1 sign patterns
that the assignment satisfies; formulas are drawn again until all clauses differ. The oracle answers with the planted
assignment. Content is the set of clauses.

Splits: train, id (n, k, l), ood/clauses (l + 2 clauses), ood/variables (k + 1 variables), ood/literals (n + 1 literals a
clause; where k = n it is left out of reach by refusing such options).

Reasoning (`traces`): for each clause the first literal that the planted assignment satisfies, `!b&`.

Difficulty: D = log2 k + 2 log2 l - n + k / n, the paper's estimate. Guess baseline: a uniformly random assignment, measured
over 2,048 problems of the split; it is not monotone in D.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpost.tasks import base, traces, vocab

NAME, VERSION = "satisfiability", 1
PAPER, VERIFIER = "arXiv:2505.16368", "evaluation of the formula: any satisfying assignment"


class Problem(NamedTuple):
    """Clauses of literals: variables i32[L, N] (-1: none) and signs (1: negated), and the planted assignment of K variables."""

    variable_LxN: Any
    negated_LxN: Any
    planted_K: Any  # i32, 0 or 1, and 0 from k on
    k: Any  # i32[]


def make(literals=3, variables=5, clauses=10, style="answer", room=0):
    """SAT(n, k, l).

    Args:
        literals: n, 2 to 5.
        variables: k, more than n (so that n + 1 literals find room) up to 10.
        clauses: l, 2 to 24, and so few that in no split fewer than one formula in twenty has different clauses.
        style, room: see `traces`.
    """
    base.require(isinstance(literals, int) and 2 <= literals <= 5, NAME, "literals", literals, "an integer from 2 to 5")
    base.require(isinstance(variables, int) and literals < variables <= 10, NAME, "variables", variables,
                 f"an integer from literals + 1 = {literals + 1} to 10")
    base.require(isinstance(clauses, int) and 2 <= clauses <= 24, NAME, "clauses", clauses, "an integer from 2 to 24")
    most = max(count for count in range(2, 25) if min(
        _different(literals, variables, count + 2), _different(literals, variables + 1, count),
        _different(literals + 1, variables, count)) >= 0.05)
    base.require(clauses <= most, NAME, "clauses", clauses, f"at most {most} different ones of {literals} literals over "
                 f"{variables} variables")
    N, K, L = literals + 1, variables + 1, clauses + 2
    prompt_len = 1 + max((clauses + 2) * (2 * literals + 1), clauses * (2 * N + 1))

    def setting(fold, n=literals, k=variables, count=clauses):
        return base.setting(fold, n=n, k=k, l=count)

    def sample(key, knobs):
        def draw(planted_word, variable_word, sign_word):
            planted_K = jnp.where(jnp.arange(K) < knobs["k"], base.below(planted_word, 2), 0)
            word_LxK = jnp.where((jnp.arange(K) < knobs["k"])[None], variable_word.reshape(L, K) >> 1, jnp.uint32(2**31))
            inside_1xN = (jnp.arange(N) < knobs["n"])[None]
            live_LxN = (jnp.arange(L) < knobs["l"])[:, None] & inside_1xN
            variable_LxN = jnp.sort(jnp.where(inside_1xN, jnp.argsort(word_LxK, axis=1)[:, :N], K), axis=1)
            variable_LxN = jnp.where(live_LxN, variable_LxN, -1).astype(jnp.int32)
            falsifying_LxN = planted_K[jnp.maximum(variable_LxN, 0)]  # signs that make every literal false
            pattern_L = 1 + base.below(sign_word, 2 ** knobs["n"] - 1)  # which literals differ from those: not none
            turned_LxN = (pattern_L[:, None] >> jnp.arange(N)[None]) & 1
            negated_LxN = jnp.where(live_LxN, falsifying_LxN ^ turned_LxN, 0)
            return Problem(variable_LxN, negated_LxN, planted_K, jnp.asarray(knobs["k"], jnp.int32))

        def accept(made):
            code_L = _codes(made)
            twice = jnp.any((code_L[:-1] == code_L[1:]) & (code_L[1:] > 0))
            return ~twice & (base.fold_of(_content(made)) == knobs["fold"])

        return base.choose(key, (K, L * K, L), draw, accept)

    def prompt(made):
        live_LxN = made.variable_LxN >= 0
        literal = jnp.stack([jnp.where(live_LxN & (made.negated_LxN == 1), vocab.TOKEN["!"], vocab.PAD),
                             jnp.where(live_LxN, vocab.LETTER + made.variable_LxN, vocab.PAD)], axis=-1).reshape(L, 2 * N)
        last_L = jnp.arange(L) == jnp.sum(live_LxN[:, 0]) - 1
        end_L = jnp.where(live_LxN[:, 0], jnp.where(last_L, vocab.TOKEN["?"], vocab.TOKEN["&"]), vocab.PAD)
        tokens = traces.joined(vocab.BOS, jnp.concatenate([literal, end_L[:, None]], axis=1).reshape(-1))
        return vocab.pack(tokens, tokens != vocab.PAD, prompt_len, "right")

    def answer(made):
        tokens = jnp.append(jnp.where(jnp.arange(K) < made.k, vocab.DIGIT + made.planted_K, vocab.PAD), vocab.EOS)
        return vocab.pack(tokens, tokens != vocab.PAD, K + 1, "left")

    def verify(made, tokens_A):
        value_K = tokens_A[:K] - vocab.DIGIT
        inside_K = jnp.arange(K) < made.k
        formed = jnp.all(~inside_K | (value_K == 0) | (value_K == 1)) & (tokens_A[made.k] == vocab.EOS)
        return (formed & satisfied(made, value_K)).astype(jnp.float32)

    def steps(made, key, detours):
        true_LxN = (made.variable_LxN >= 0) & (made.planted_K[jnp.maximum(made.variable_LxN, 0)] != made.negated_LxN)
        first_L = jnp.argmax(true_LxN, axis=1)
        variable_L, negated_L = (x[jnp.arange(L), first_L] for x in (made.variable_LxN, made.negated_LxN))
        sign_L = jnp.where(negated_L == 1, vocab.TOKEN["!"], vocab.PAD)
        size = jnp.sum(made.variable_LxN[:, 0] >= 0)
        return traces.table([sign_L, vocab.LETTER + jnp.maximum(variable_L, 0), "&"], (1,), size, L)

    @functools.cache
    def guess(split):
        problem_N = base.problems(task, split, jnp.arange(2048))
        value_NxK = base.below(jax.random.bits(jax.random.key(0), (2048, K), "uint32"), 2)
        return float(jnp.mean(jax.jit(jax.vmap(satisfied))(problem_N, value_NxK)))

    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=prompt_len, answer_len=K + 1,
        splits={"train": setting(base.TRAIN_FOLD), "id": setting(base.EVAL_FOLD),
                "ood/clauses": setting(base.EVAL_FOLD, count=clauses + 2),
                "ood/variables": setting(base.EVAL_FOLD, k=variables + 1),
                "ood/literals": setting(base.EVAL_FOLD, n=literals + 1)},
        sample=sample, prompt=prompt, answer=answer, verify=verify, guess=guess, content=_content, difficulty=difficulty,
        reasoning=traces.Reasoning(steps, longest=3 * L, detour=3))
    return task


def _different(n, k, count):
    """Chance that so many clauses drawn at random are all different."""
    every = math.comb(k, n) * (2**n - 1)
    return math.prod(max(1 - i / every, 0) for i in range(count))


def satisfied(made, value_K):
    """bool[]: every clause has a literal that is true."""
    true_LxN = (made.variable_LxN >= 0) & (value_K[jnp.maximum(made.variable_LxN, 0)] != made.negated_LxN)
    return jnp.all(jnp.any(true_LxN, axis=1) | (made.variable_LxN[:, 0] < 0))


def difficulty(made):
    """D(n, k, l) = log2 k + 2 log2 l - n + k / n, f32[]."""
    n = jnp.sum(made.variable_LxN[0] >= 0).astype(jnp.float32)
    count = jnp.sum(made.variable_LxN[:, 0] >= 0).astype(jnp.float32)
    k = made.k.astype(jnp.float32)
    return jnp.log2(k) + 2 * jnp.log2(count) - n + k / n


def _codes(made):
    """The clauses as numbers in ascending order, 0 for none: i32[L]."""
    place_N = 24 ** jnp.arange(made.variable_LxN.shape[1])
    literal_LxN = jnp.where(made.variable_LxN >= 0, 2 * made.variable_LxN + made.negated_LxN + 1, 0)
    return jnp.sort(jnp.sum(literal_LxN * place_N[None], axis=1))


def _content(made):
    return jnp.append(_codes(made), made.k)
