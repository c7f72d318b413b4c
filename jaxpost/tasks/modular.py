"""Arithmetic modulo p with one token a number: the small world in which memorisation turns into generalisation.

Prompt `a op b =`, answer `c` and EOS. All |operators| p^2 problems exist; a hash of their content (no seed) puts a
given fraction into `train` and the rest into `id`, so that a split can be listed whole (`tasks.table`), trained on in
full batches and evaluated exactly. Setting: Power et al., arXiv 2201.02177, and Nanda et al., arXiv 2301.05217.

Operators: add a + b, subtract a - b, multiply a b, squares a^2 + b^2, all modulo p.

Content is the operator and the operands, unordered where they commute: a + b in `train` keeps b + a out of `id`.
`labels="random"` answers with another hash of the content modulo p: the same problems and splits, nothing to generalise.
Differs from the papers in: they split ordered pairs, so that symmetry alone solves a share of the test problems.

Tokens are the family's own: the special ones of `vocab`, `=`, the operators (all, whichever are used), the numbers.

Difficulty: 1. Guess baseline: the best constant answer of the split.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.lookup import nearest
from jaxpost.tasks import base, vocab

NAME, VERSION = "modular", 1
PAPER, VERIFIER = "arXiv:2201.02177, arXiv:2301.05217", "the residue, one token"
OPERATORS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "squares": lambda a, b: a * a + b * b,
}
LABELS = ("true", "random")
EQUALS = vocab.EOS + 1
OPERATOR = EQUALS + 1  # token of the i-th of OPERATORS is OPERATOR + i
NUMBER = OPERATOR + len(OPERATORS)  # token of the number n is NUMBER + n
LARGEST = 1024  # modulus; a table of its square is listed


class Problem(NamedTuple):
    """Operands and the operator's position in OPERATORS."""

    operator: Any  # i32[]
    a: Any  # i32[]
    b: Any  # i32[]


def make(modulus=53, operators=("add",), train_fraction=0.5, labels="true"):
    """Modular arithmetic.

    Args:
        modulus: p, 3 to 1024.
        operators: names from OPERATORS, none twice.
        train_fraction: share of the hash range that is `train`; in (0, 1).
        labels: "true", or "random" for answers that follow no rule.
    Returns:
        Task with P = 4, T = 2 and p + 8 tokens.
    Raises: ValueError for an option out of range, or a split without a problem.
    """
    _check(modulus, operators, train_fraction, labels)
    listed = _listed(modulus, tuple(operators), train_fraction)
    for split, problems in listed.items():
        base.require(len(problems.a), NAME, "train_fraction", train_fraction, f"one that leaves a problem to {split!r}")
    ordered = jax.tree.map(lambda *x: np.concatenate(x), *listed.values())
    count = {split: len(problems.a) for split, problems in listed.items()}

    def sample(key, knobs):
        place = knobs["first"] + base.below(base.words(key, 1)[0][0], knobs["count"])
        return jax.tree.map(lambda x: jnp.asarray(x)[place], ordered)

    def oracle(problem, key):
        del key
        return jnp.stack([NUMBER + _result(problem, modulus, labels), jnp.int32(vocab.EOS)])

    def verify(problem, tokens):
        base.check_tokens(NAME, tokens, 2)
        return base.exact(tokens, oracle(problem, None))

    def guess(split):
        base.knobs(task, split)
        result_N = np.asarray(jax.vmap(lambda problem: _result(problem, modulus, labels))(listed[split]))
        return float(np.bincount(result_N).max() / len(result_N))

    task = base.Task(
        name=NAME,
        version=VERSION,
        prompt_len=4,
        completion_len=2,
        splits={
            "train": {"first": np.int32(0), "count": np.int32(count["train"])},
            "id": {"first": np.int32(count["train"]), "count": np.int32(count["id"])},
        },
        sample=sample,
        prompt=_prompt,
        oracle=oracle,
        verify=verify,
        guess=guess,
        content=_content,
        difficulty=lambda problem: jnp.float32(1),
        vocab_size=NUMBER + modulus,
        words={EQUALS: "=", **{OPERATOR + i: name for i, name in enumerate(OPERATORS)},
               **{NUMBER + n: str(n) for n in range(modulus)}},
        table=lambda split: listed[split],
    )
    return task


def _check(modulus, operators, train_fraction, labels):
    base.require(isinstance(modulus, int) and 3 <= modulus <= LARGEST, NAME, "modulus", modulus,
                 f"an integer from 3 to {LARGEST}")
    for name in operators:
        if name not in OPERATORS:
            raise ValueError(f"unknown operator of task {NAME!r} {name!r}{nearest(name, OPERATORS)}")
    base.require(operators and len(set(operators)) == len(operators), NAME, "operators", operators,
                 "at least one and none twice")
    base.require(0 < train_fraction < 1, NAME, "train_fraction", train_fraction, "a number between 0 and 1")
    base.require(labels in LABELS, NAME, "labels", labels, f"one of {LABELS}")


def _listed(modulus, operators, train_fraction):
    """{split: its problems, i32[N] leaves}, in the order of (operator, a, b)."""
    index = [list(OPERATORS).index(name) for name in operators]
    grid = np.stack(np.meshgrid(index, np.arange(modulus), np.arange(modulus), indexing="ij"), axis=-1)
    problem_Nx3 = grid.reshape(-1, 3).astype(np.int32)
    hash_N = np.asarray(jax.vmap(lambda problem_3: base.hash_of(_content(Problem(*problem_3))))(problem_Nx3))
    train_N = hash_N < np.uint32(train_fraction * 2**32)
    return {split: Problem(*problem_Nx3[inside].T) for split, inside in (("train", train_N), ("id", ~train_N))}


def _content(problem):
    """(operator, operands), i32[3]; the larger operand first where they commute."""
    operator, a, b = (jnp.asarray(x, jnp.int32) for x in problem)
    swap = (a < b) & (operator != list(OPERATORS).index("subtract"))
    return jnp.stack([operator, jnp.where(swap, b, a), jnp.where(swap, a, b)])


def _prompt(problem):
    """a op b =: i32[4]."""
    tokens = (NUMBER + problem.a, OPERATOR + problem.operator, NUMBER + problem.b, EQUALS)
    return jnp.stack([jnp.asarray(token, jnp.int32) for token in tokens])


def _result(problem, modulus, labels):
    """c, i32[]."""
    if labels == "random":
        return base.below(base.hash_of(jnp.append(_content(problem), 1)), modulus)
    a, b = jnp.asarray(problem.a, jnp.int32), jnp.asarray(problem.b, jnp.int32)
    each = jnp.stack([result(a, b) for result in OPERATORS.values()])
    return (each[problem.operator] % modulus).astype(jnp.int32)
