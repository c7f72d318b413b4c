"""What a task that lists its problems lets probes measure: exact fit, waves of modular addition, routing of its
problems, circuits.

Shapes: N problems, P prompt tokens, V vocabulary, p modulus.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import circuits
from experiments.harness.errors import UserError
from jaxpost import models, tasks
from jaxpost.probes import catalog, fourier, routing
from jaxpost.probes.policy import table_fit as fit
from jaxpost.tasks import Task, modular

SPLITS = ("train", "id")
_ADD = list(modular.OPERATORS).index("add")


class Rows(NamedTuple):
    """Training problems as the routing probe sees them: prompt i32[N, P], answer token i32[N], operator i32[N] (0
    where a task has one).
    """

    prompt: np.ndarray
    answer: np.ndarray
    operator: np.ndarray


def subject(model: models.TransformerConfig, task: Task, probes: Sequence[str], problems: int) -> catalog.Subject:
    """What the named probes may measure of a model on a task's tables, of a split's prompts at most `problems` where they are
    many. Raises: UserError: as `addition` and `circuits.circuit`.
    """
    routed = {"route": route_of(model, task.pad), "top": model.experts_per_token} if model.experts else {}
    waves = addition(model, task) if "fourier" in probes else None
    circuit = circuits.circuit(model, task, problems) if "circuits" in probes else None
    return catalog.Subject(tables=tables(model, task), addition=waves, circuit=circuit, **routed)


def tables(model: models.TransformerConfig, task: Task) -> tuple[fit.Table, ...]:
    """Every problem of every split, for the exact loss and accuracy of the first answer token."""
    listed = []
    for split in task.splits:
        table = tasks.table(task, split)
        listed.append(fit.Table(split, answer_logits(model, task.pad), np.asarray(table.answer_NxT[:, 0]),
                                np.asarray(table.prompt_NxP)))
    return tuple(listed)


@functools.cache
def answer_logits(model: models.TransformerConfig, pad: int) -> Callable:
    """(params, prompt_NxP) -> float32 logits of the token after each prompt, [N, V]."""
    def logits(params, prompt_NxP):
        return models.token_logits(model, params, prompt_NxP, jnp.zeros((len(prompt_NxP), 1), jnp.int32), pad)[:, 0]

    return logits


def addition(model: models.TransformerConfig, task: Task) -> fourier.Addition:
    """How a decoder answers every a + b modulo p.

    Raises:
      UserError: another task, another operation among its problems, or a modulus without waves.
    """
    if task.name != modular.NAME:
        raise UserError(f"task.name={task.name!r}: Fourier measures are of {modular.NAME!r} addition")
    by_split = {split: tasks.table(task, split) for split in SPLITS}
    if any(set(np.unique(table.problem.operator)) != {_ADD} for table in by_split.values()):
        raise UserError("task.operators: Fourier measures read a + b, and another operation is among the problems")
    p = task.vocab_size - modular.NUMBER
    answer, train = np.full((p, p), -1), np.zeros((p, p), bool)
    for split, table in by_split.items():
        at = np.asarray(table.problem.a), np.asarray(table.problem.b)
        answer[at], train[at] = np.asarray(table.answer_NxT[:, 0]) - modular.NUMBER, split == "train"
    grid = np.stack(np.meshgrid(np.arange(p), np.arange(p), indexing="ij")).reshape(2, -1).astype(np.int32)
    prompts = jax.vmap(task.prompt)(modular.Problem(np.full(p * p, _ADD, np.int32), *grid))
    logits, numbers = answer_logits(model, task.pad), slice(modular.NUMBER, modular.NUMBER + p)

    def read(params, prompt_NxP) -> fourier.Reading:
        head = params["embed"] if model.tied else params["head"].T
        return fourier.Reading(logits(params, prompt_NxP)[:, numbers].reshape(p, p, p), params["embed"][numbers], head[numbers])

    try:
        return fourier.Addition(read, fourier.Problems(answer, train), fourier.Inputs(np.asarray(prompts)))
    except ValueError as error:
        raise UserError(str(error)) from error


@functools.cache
def route_of(model: models.TransformerConfig, pad: int) -> routing.Route:
    """(params, Rows) -> `routing.Routed` of a model: all prompt tokens count, the outcome is that of the answer token.

    One function a model, so that arms share the compiled measurement.
    """
    def route(params: dict, rows: Rows) -> routing.Routed:
        out = models.teacher_forced(model, params, rows.prompt, rows.answer[:, None], pad)
        logits_NxV = out.logits[:, 0]
        logp_N = jnp.take_along_axis(jax.nn.log_softmax(logits_NxV), rows.answer[:, None], axis=1)[:, 0]
        return routing.Routed(jnp.moveaxis(out.router["logits"], 0, 1), (rows.prompt != pad).astype(jnp.float32), -logp_N,
                              (logits_NxV.argmax(axis=1) == rows.answer).astype(jnp.float32), rows.operator)

    return route


def training_rows(task: Task, count: int) -> Rows:
    """`count` training problems, evenly spaced in the table's order; all of them when there are no more."""
    table = tasks.table(task, "train")
    total = len(table.prompt_NxP)
    selected = np.arange(total) if count >= total else np.linspace(0, total - 1, count).round().astype(int)
    operator = getattr(table.problem, "operator", np.zeros(total, np.int32))
    return Rows(*(np.asarray(x)[selected] for x in (table.prompt_NxP, table.answer_NxT[:, 0], operator)))
