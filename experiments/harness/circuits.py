"""What a task over a fact store lets the circuit probe ask of a decoder: the bridge or values on the way, and other prompts.

Legend: N prompts, T positions, K targets of the lens, C kinds of replaced token.
"""

import functools
from collections import defaultdict
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.harness.errors import UserError
from jaxpost import models, tasks
from jaxpost.probes import circuits
from jaxpost.tasks import Task, facts


class Form(NamedTuple):
    """Of one problem of the store: names of its positions, where a token is replaced, and what the lens looks for where."""

    positions: tuple[str, ...]
    replaced: tuple[int, ...]
    targets: tuple[tuple[str, int], ...]


FORMS = {  # number of tokens of an inference -> form
    3: Form(("entity", "first_relation", "second_relation"), (0, 1, 2),
            (("bridge", 1), ("second_relation", 2), ("answer", 2))),
    5: Form(("attribute", "query", "first_entity", "mask", "second_entity"), (0, 2, 4),
            (("first_value", 2), ("second_value", 4), ("answer", 4))),
}


def circuit(model: models.TransformerConfig, task: Task, count: int) -> circuits.Circuit:
    """At most `count` inferences of every split, evenly spaced in its table.

    Raises: UserError: another task, or a split without an inference that has a partner for every kind of replaced token.
    """
    if task.name != facts.NAME:
        raise UserError(f"task.name={task.name!r}: circuits are of {facts.NAME!r}")
    pool = {split: _inferences(task, split) for split in task.splits}
    return circuits.Circuit(run_of(model), read_of(model),
                            tuple(_asked(split, own, pool["train"], count) for split, own in pool.items()))


@functools.cache
def run_of(model: models.TransformerConfig):
    """(params, tokens_NxT, edit) -> residual states and logits of the last position; one function a model."""
    def run(params, tokens_NxT, edit):
        stream = models.residual_stream(model, params, tokens_NxT, valid_BxS=jnp.ones(tokens_NxT.shape, bool),
                                        first=tokens_NxT.shape[1] - 1, edit=edit)
        return stream.state_JxBxTxD, stream.logits_BxTxV[:, 0]

    return run


@functools.cache
def read_of(model: models.TransformerConfig):
    """(params, state_JxNxD) -> logits of the logit lens."""
    return lambda params, state_JxNxD: models.logit_lens(model, params, state_JxNxD)


def _inferences(task: Task, split: str) -> facts.Problem:
    problems = tasks.table(task, split).problem
    kept = np.asarray(facts.inferred_of(problems))
    return facts.Problem(*(np.asarray(x)[kept] for x in problems))


def _asked(split: str, own: facts.Problem, trained: facts.Problem, count: int) -> circuits.Asked:
    form = FORMS[own.prompt_P.shape[1]]
    other_CxNxT, found_N = _partners(own, trained, form.replaced)
    if not found_N.any():
        raise UserError(f"task: no inference of split {split!r} has a partner for every kind of replaced token; use a larger "
                        "world")
    kept = np.flatnonzero(found_N)
    kept = kept[np.linspace(0, len(kept) - 1, min(count, len(kept))).round().astype(int)]
    first, last = own.between_2.T
    named = {"bridge": first, "first_value": first, "second_value": last, "second_relation": own.prompt_P[:, -1],
             "answer": own.answer}
    inputs = circuits.Inputs(own.prompt_P[kept], np.stack([named[name][kept] for name, _ in form.targets]),
                             other_CxNxT[:, kept])
    return circuits.Asked(split, form.positions, form.targets, tuple(form.positions[p] for p in form.replaced), inputs)


def _partners(own: facts.Problem, trained: facts.Problem, replaced: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(prompts of the same split, or of training, that differ in one token and in the answer, [C, N, T]; who has all, [N])."""
    rng, other_CxNxT = np.random.default_rng(0), np.stack([own.prompt_P] * len(replaced))
    found_N = np.ones(len(own.answer), bool)
    pool = [(prompt, answer) for part in (own, trained) for prompt, answer in zip(part.prompt_P, part.answer, strict=True)]
    for c, position in enumerate(replaced):
        alike = defaultdict(list)
        for prompt, answer in pool:
            alike[tuple(np.delete(prompt, position))].append((prompt, answer))
        for n, (prompt, answer) in enumerate(zip(own.prompt_P, own.answer, strict=True)):
            others = [other for other, result in alike[tuple(np.delete(prompt, position))] if result != answer]
            found_N[n] &= bool(others)
            if others:
                other_CxNxT[c, n] = others[rng.integers(len(others))]
    return other_CxNxT, found_N
