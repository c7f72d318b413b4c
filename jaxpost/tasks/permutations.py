"""Group tables for grokking: permutations of five, and further operations modulo p, one token an element.

Prompt `a op b =`, answer `c` and EOS; every pair of operands is a problem. A hash of (operation, a, b) puts a given fraction
into `train` and the rest into `id`, so that a split can be listed whole (`tasks.table`).

    s5            a b, the permutation that applies a first: c_i = b[a_i]        120^2 pairs
    s5_conjugate  a b a^-1
    s5_aba        a b a
    divide        a / b modulo p, b not 0
    cubes         a^3 + b
    cubic_mixed   a^3 + a b
    parity_mixed  a / b if b is odd (a value in 1..p-1), else a - b
    quadratic     a^2 + a b + b^2

After Power et al., arXiv:2201.02177, and its code (openai/grok, MIT); `modular` has the commuting operations. Differs from
them in: a hash in place of a shuffle, no label noise, no token at the beginning of a prompt.

Reasoning: answers only. Difficulty: 1. Guess baseline: the best constant answer of the split.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.lookup import nearest
from jaxpost.tasks import base, traces, vocab

NAME, VERSION = "permutations", 1
PAPER, VERIFIER = "arXiv:2201.02177", "the element, one token"
S5 = np.asarray(list(itertools.permutations(range(5))), np.int32)
OPERATIONS = ("s5", "s5_conjugate", "s5_aba", "divide", "cubes", "cubic_mixed", "parity_mixed", "quadratic")
EQUALS = vocab.EOS + 1
OPERATION = EQUALS + 1
ELEMENT = OPERATION + len(OPERATIONS)  # token of the i-th element is ELEMENT + i; permutations are in lexicographic order


class Problem(NamedTuple):
    """Operands and result as numbers of elements."""

    a: Any  # i32[]
    b: Any  # i32[]
    c: Any  # i32[]


def make(operation="s5", modulus=53, train_fraction=0.5, style="answer", room=0):
    """The table of one operation.

    Args:
        operation: a name of the list above.
        modulus: p, an odd prime from 3 to 251, for the operations modulo p.
        train_fraction: share of the hash range that is `train`; in (0, 1).
        style, room: see `traces`; answers only.
    Raises: ValueError for an option out of range, or a split without a problem.
    """
    if operation not in OPERATIONS:
        raise ValueError(f"unknown operation of task {NAME!r} {operation!r}{nearest(operation, OPERATIONS)}")
    prime = isinstance(modulus, int) and 3 <= modulus <= 251 and all(modulus % d for d in range(2, int(modulus**0.5) + 1))
    base.require(prime and modulus % 2 == 1, NAME, "modulus", modulus, "an odd prime from 3 to 251")
    base.require(0 < train_fraction < 1, NAME, "train_fraction", train_fraction, "a number between 0 and 1")
    every = _all(operation, modulus)
    number = OPERATIONS.index(operation)

    def content(problem):
        return jnp.stack([jnp.int32(number), jnp.asarray(problem.a, jnp.int32), jnp.asarray(problem.b, jnp.int32)])

    train_N = np.asarray(jax.vmap(lambda problem: base.hash_of(content(problem)))(every)) < np.uint32(train_fraction * 2**32)
    listed = {split: Problem(*(x[inside] for x in every)) for split, inside in (("train", train_N), ("id", ~train_N))}
    for split, problems in listed.items():
        base.require(len(problems.a), NAME, "train_fraction", train_fraction, f"one that leaves a problem to {split!r}")
    ordered = jax.tree.map(lambda *x: np.concatenate(x), *listed.values())
    count = {split: len(problems.a) for split, problems in listed.items()}

    def sample(key, knobs):
        place = knobs["first"] + base.below(base.words(key, 1)[0][0], knobs["count"])
        return jax.tree.map(lambda x: jnp.asarray(x)[place], ordered)

    def prompt(problem):
        tokens = (ELEMENT + problem.a, OPERATION + number, ELEMENT + problem.b, EQUALS)
        return jnp.stack([jnp.asarray(token, jnp.int32) for token in tokens])

    def answer(problem):
        return jnp.stack([ELEMENT + jnp.asarray(problem.c, jnp.int32), jnp.int32(vocab.EOS)])

    def guess(split):
        base.knobs(task, split)
        return float(np.bincount(listed[split].c).max() / len(listed[split].c))

    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=4, answer_len=2,
        splits={"train": {"first": np.int32(0), "count": np.int32(count["train"])},
                "id": {"first": np.int32(count["train"]), "count": np.int32(count["id"])}},
        sample=sample, prompt=prompt, answer=answer, verify=lambda problem, tokens_A: base.exact(tokens_A, answer(problem)),
        guess=guess, content=content, difficulty=lambda problem: jnp.float32(1),
        vocab_size=(size := ELEMENT + int(max(x.max() for x in every)) + 1), table=lambda split: listed[split],
        words={EQUALS: "=", **{OPERATION + i: name for i, name in enumerate(OPERATIONS)},
               **{token: str(token - ELEMENT) for token in range(ELEMENT, size)}})
    return task


def _all(operation, p) -> Problem:
    """Every problem of an operation, i32[N] leaves, by a and then b."""
    if operation.startswith("s5"):
        place = {tuple(row): i for i, row in enumerate(S5.tolist())}
        a, b = (x.reshape(-1).astype(np.int32) for x in np.meshgrid(np.arange(120), np.arange(120), indexing="ij"))
        ab = _then(S5[a], S5[b])
        c = {"s5": ab, "s5_conjugate": _then(ab, np.argsort(S5[a], axis=1)), "s5_aba": _then(ab, S5[a])}[operation]
        return Problem(a, b, np.asarray([place[tuple(row)] for row in c.tolist()], np.int32))
    a, b = (x.reshape(-1).astype(np.int64) for x in np.meshgrid(np.arange(p), np.arange(p), indexing="ij"))
    if operation == "divide":
        a, b = a[b > 0], b[b > 0]
    inverse = np.asarray([0] + [pow(x, -1, p) for x in range(1, p)])
    c = {"divide": a * inverse[b], "cubes": a**3 + b, "cubic_mixed": a**3 + a * b, "quadratic": a * a + a * b + b * b,
         "parity_mixed": np.where(b % 2 == 1, a * inverse[b], a - b)}[operation] % p
    return Problem(*(x.astype(np.int32) for x in (a, b, c)))


def _then(first, second):
    """The permutations that apply `first` and then `second`: row i is second[first_i]."""
    return np.take_along_axis(second, first, axis=1)
