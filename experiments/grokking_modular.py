"""Grokking of modular addition: which progress measure turns first, with controls that do not generalise."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.grokking_shared import design as grokking
from experiments.harness import arms as arm_table
from experiments.harness import checks
from experiments.harness.claims import gates
from experiments.harness.errors import UserError
from experiments.harness.session import StopSignals
from jaxpost import models, tasks
from jaxpost.probes import fourier, schedules
from jaxpost.probes.policy import table_fit as fit
from jaxpost.tasks import Task, modular

TITLE = "Progress measures of modular addition"
QUESTION = "Which measure of the Fourier circuit moves before the test loss does, when a small decoder groks addition mod p?"
ARMS = {"grok": "true", "no-decay": "true", "random-labels": "random"}  # name -> labels
PAPERS = (
    {"key": "nanda2023progress", "title": "Progress measures for grokking via mechanistic interpretability",
     "author": "Nanda, Neel and others", "year": "2023", "eprint": "2301.05217"},
    {"key": "power2022grokking", "title": "Grokking: Generalization Beyond Overfitting on Small Algorithmic Datasets",
     "author": "Power, Alethea and others", "year": "2022", "eprint": "2201.02177"},
)


def run(config: ConfigDict, claims: Sequence[Mapping], workdir: Path, name: str, signals: StopSignals) -> None:
    """Run, resume, add seeds to a finished run, or report that it is finished. Raises: as `grokking.carry_out`."""
    grokking.carry_out(design(config, claims), config, workdir, name, signals)


def design(config: ConfigDict, claims: Sequence[Mapping]) -> grokking.Design:
    """The whole experiment from its config, before any compute. Raises: UserError for what a user got wrong."""
    checks.values(config)
    seeds, steps = grokking.seeds_of(config), grokking.steps_of(config)
    stated = grokking.stated(claims, config.arms, tuple(ARMS))
    grokking.require_accuracy(config.reached)
    try:
        rule = fourier.Rule(config.measure.reach, config.measure.cap, config.measure.sets)
        problems = {labels: _Problem(config, labels) for labels in {ARMS[name] for name in config.arms}}
    except ValueError as error:
        raise UserError(str(error)) from error
    test, train = ({"metric": fit.ACCURACY.id, "split": split} for split in ("id", "train"))
    return grokking.Design(
        TITLE, QUESTION, stated, [_measured(name, problems[ARMS[name]], config, rule, steps) for name in config.arms], seeds,
        steps, gates.mean_reached(test, config.reached, control=train), PAPERS)


class _Problem:
    """The task with one kind of label, and the model and tables that belong to it. Raises: ValueError, UserError."""

    def __init__(self, config: ConfigDict, labels: str):
        if config.task.name != modular.NAME:
            raise UserError(f"task.name={config.task.name!r}: Fourier measures are of {modular.NAME!r} addition")
        self.task = arm_table.make_task(ConfigDict({**config.task.to_dict(), "labels": labels}))
        self.model = checks.model(ConfigDict({"vocab": self.task.vocab_size, **config.model.to_dict()}), (self.task,))
        self.p = config.task.modulus
        self.known = fourier.Problems(*_tables(self.task, self.p))


def _tables(task: Task, p: int) -> tuple[np.ndarray, np.ndarray]:
    """(answers [p, p], training mask [p, p]). Raises: UserError when another operation than addition is among the problems."""
    answer, train = np.full((p, p), -1), np.zeros((p, p), bool)
    for split in grokking.SPLITS:
        shown = tasks.table(task, split)
        if set(shown.problem.operator) != {list(modular.OPERATORS).index("add")}:
            raise UserError("task.operators: Fourier measures read a + b, and another operation is among the problems")
        at = shown.problem.a, shown.problem.b
        answer[at], train[at] = np.asarray(shown.answer_NxT[:, 0]) - modular.NUMBER, split == "train"
    return answer, train


def _measured(name: str, problem: _Problem, config: ConfigDict, rule: fourier.Rule, steps: Sequence[int]) -> grokking.Measured:
    """One arm with its probes."""
    train, task, model = config.train, problem.task, problem.model
    decay = 0.0 if name == "no-decay" else train.weight_decay
    arm = grokking.arm(name, task, model, learning_rate=train.learning_rate, weight_decay=decay)
    read, prompts = reader(task, model, problem.p)
    probe = fourier.Fourier(read, problem.known, rule, schedules.At(tuple(steps)),
                            inputs=fourier.Inputs(prompts))
    return grokking.Measured(arm, (grokking.table_fit(task, model, steps), probe))


def reader(task: Task, model: models.TransformerConfig, p: int):
    """((params, prompts) -> `fourier.Reading` of a decoder on a + b modulo p, prompts i32[p^2, P])."""
    grid = np.stack(np.meshgrid(np.arange(p), np.arange(p), indexing="ij")).reshape(2, -1).astype(np.int32)
    prompts = jax.vmap(task.prompt)(modular.Problem(np.full(p * p, list(modular.OPERATORS).index("add"), np.int32), *grid))
    logits, numbers = grokking.answer_logits(model, task.pad), slice(modular.NUMBER, modular.NUMBER + p)

    def read(params, prompt_NxP) -> fourier.Reading:
        head = params["embed"] if model.tied else params["head"].T
        return fourier.Reading(logits(params, prompt_NxP)[:, numbers].reshape(p, p, p), params["embed"][numbers], head[numbers])

    return read, np.asarray(prompts)
