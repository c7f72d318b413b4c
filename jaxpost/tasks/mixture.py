"""Mixtures: the problems of several families in one task, with weights, for transfer from domain to domain.

Members are families with options, written as calls: `("countdown(numbers=3)", "machine", "satisfiability")`. A problem is of
member i with probability weights_i / sum(weights); prompts and completions have the length of the longest, so that mixtures of
the same members in other weights, zeros among them, share every shape and one vocabulary. A matrix of transfer is made of them:
training on (1, 0, 0), (1, 1, 0), (1, 1, 1), ... and evaluating on each member alone.

Splits: train and id in these weights; ood/MEMBER/KNOB, every further split of a member that has a weight, alone (MEMBER is the
family's name; with its place where several members are of one family). Everything else is the members': problems and their
keys, verifiers, folds, reasoning. A member cannot have a vocabulary of its own or a verifier on the host.

After Can One Domain Help Others? A Data-Centric Study on Multi-Domain Reasoning via Reinforcement Learning (mathematics, code
and puzzles, alone, in pairs and all three); reconstructed: the three defaults, expressions for mathematics, runs of a machine
for code and formulas for puzzles. Content is the member and its content.

Difficulty: the member's own. Guess baseline: the members' in these weights.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.tasks import base, traces
from jaxpost.tasks.members import FORM, task_of

NAME, VERSION = "mixture", 1
PAPER, VERIFIER = "after Can One Domain Help Others? (see the module)", "the member's"
UNIT = 2**16


class Problem(NamedTuple):
    """Which member's problem counts, and one problem of each."""

    member: Any  # i32[]
    each: Any  # tuple of the members' problems


def family(get):
    """`make` of the mixtures of the families that `get` (name, **options) -> Task finds."""

    def make(members=("countdown(numbers=3)", "machine(problem='bubble_sort')", "satisfiability"), weights=None):
        """A mixture.

        Args:
            members: two to six families with their options, `NAME` or `NAME(OPTION=VALUE, ...)`.
            weights: of each member, whole numbers from 0 to 1000, not all 0; None: equal.
        Raises: ValueError: as `get` for a member; a member with a vocabulary or a host verifier of its own; weights.
        """
        base.require(isinstance(members, tuple) and 2 <= len(members) <= 6, NAME, "members", members,
                     f"two to six of {FORM}")
        weights = (1,) * len(members) if weights is None else weights
        good = isinstance(weights, tuple) and all(isinstance(w, int) and 0 <= w <= 1000 for w in weights)
        base.require(good and len(weights) == len(members) and any(weights), NAME, "weights", weights,
                     f"{len(members)} whole numbers from 0 to 1000, not all 0")
        parts = [task_of(get, NAME, "members", text) for text in members]
        return _mixed(parts, _labels(parts), weights)

    return make


def _mixed(parts, labels, weights):
    M = len(parts)
    P, T = (max(getattr(part, name) for part in parts) for name in ("prompt_len", "completion_len"))
    share = np.cumsum(weights) * UNIT // sum(weights)

    def setting(split, bound_M, member=None):
        each = [part.splits[split if member in (None, i) else "id"] for i, part in enumerate(parts)]
        return {"bound_M": np.asarray(bound_M, np.int32), "each": each}

    splits = {split: setting(split, share) for split in ("train", "id")}
    alone = {}  # split -> (member, the member's split)
    for i, (label, part) in enumerate(zip(labels, parts)):
        alone |= {f"ood/{label}/{split.removeprefix('ood/')}": (i, split) for split in part.splits
                  if split.startswith("ood/") and weights[i]}
    splits |= {name: setting(split, np.where(np.arange(M) < i, 0, UNIT), i) for name, (i, split) in alone.items()}

    def sample(key, knobs):
        word = base.words(jax.random.fold_in(key, M), 1)[0][0]
        member = jnp.sum(base.below(word, UNIT) >= jnp.asarray(knobs["bound_M"])).astype(jnp.int32)
        each = (part.sample(jax.random.fold_in(key, i), knobs["each"][i]) for i, part in enumerate(parts))
        return Problem(member, tuple(each))

    def of_member(made, of):
        """What the member's `of` (part, problem) gives, i32 of one width or f32[]."""
        return jnp.stack([of(part, problem) for part, problem in zip(parts, made.each)])[made.member]

    def oracle(made, key):
        return of_member(made, lambda part, problem: jnp.pad(part.oracle(problem, key), (0, T - part.completion_len)))

    def verify(made, tokens_T):
        base.check_tokens(NAME, tokens_T, T)
        return of_member(made, lambda part, problem: part.verify(problem, tokens_T[:part.completion_len]))

    def content(made):
        row_M = [part.content(problem) for part, problem in zip(parts, made.each)]
        width = max(len(row) for row in row_M)
        return jnp.append(made.member, jnp.stack([jnp.pad(row, (0, width - len(row))) for row in row_M])[made.member])

    def guess(split):
        base.knobs(task, split)
        if split in alone:
            member, own = alone[split]
            return parts[member].guess(own)
        return float(sum(w * part.guess(split) for w, part in zip(weights, parts) if w) / sum(weights))

    thinking = any(part.role is not None for part in parts)
    task = base.Task(
        name=NAME, version=VERSION, prompt_len=P, completion_len=T, splits=splits, sample=sample,
        prompt=lambda made: of_member(made, lambda part, p: jnp.pad(part.prompt(p), (P - part.prompt_len, 0))),
        oracle=oracle, verify=verify, guess=guess, vocab_size=max(part.vocab_size for part in parts),
        roles=("answer", "think", "plan") if thinking else ("answer",), role=traces.role if thinking else None,
        content=content if all(part.content for part in parts) else None,
        difficulty=(lambda made: of_member(made, lambda part, p: part.difficulty(p)))
        if all(part.difficulty for part in parts) else None)
    return task


def _labels(parts):
    """Names of members in splits."""
    names = [part.name for part in parts]
    return [name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names)]
