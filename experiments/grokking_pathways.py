"""Do routing pathways of the training set follow generalisation? A small mixture of experts that memorises first."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from ml_collections import ConfigDict

from experiments.grokking_shared import design as grokking
from experiments.grokking_shared import trends as pathway_trends
from experiments.harness import arms as arm_table
from experiments.harness import checks
from experiments.harness.claims import gates
from experiments.harness.errors import UserError
from experiments.harness.measure import grid
from experiments.harness.session import StopSignals
from jaxpost import models, probes, tasks
from jaxpost.models import declare
from jaxpost.probes import routing, schedules
from jaxpost.tasks import Task
from jaxpost.training import masking

TITLE = "Routing pathways and delayed generalisation"
QUESTION = ("Do pathway distance and consistency between layers, read on the training set alone, follow the test accuracy of a "
            "mixture of experts beyond what training time explains?")
ARMS = ("moe", "moe-no-decay-random", "dense", "moe-frozen-router")
MIXTURE = ("experts", *declare.MIXTURE)
PAPERS = (
    {"key": "li2025grokking", "title": "Where to find Grokking in LLM Pretraining? Monitor Memorization-to-Generalization "
     "without Test", "author": "Li, Ziyue and others", "year": "2025", "eprint": "2506.21551"},
    {"key": "power2022grokking", "title": "Grokking: Generalization Beyond Overfitting on Small Algorithmic Datasets",
     "author": "Power, Alethea and others", "year": "2022", "eprint": "2201.02177"},
)


class Rows(NamedTuple):
    """Training problems as the routing probe sees them: prompt i32[N, P], answer token i32[N], operator i32[N]."""

    prompt: np.ndarray
    answer: np.ndarray
    operator: np.ndarray


def run(config: ConfigDict, claims: Sequence[Mapping], workdir: Path, name: str, signals: StopSignals) -> None:
    """Run, resume, add seeds to a finished run, or report that it is finished. Raises: as `grokking.carry_out`."""
    grokking.carry_out(design(config, claims), config, workdir, name, signals)


def design(config: ConfigDict, claims: Sequence[Mapping]) -> grokking.Design:
    """The whole experiment from its config, before any compute. Raises: UserError for what a user got wrong."""
    checks.values(config)
    stated = grokking.stated(claims, config.arms, ARMS)
    grokking.require_accuracy(config.reached)
    seeds, steps = grokking.seeds_of(config), steps_of(config)
    settings = pathway_trends.Settings(config.trend.block, config.trend.draws)
    measured = [_measured(name, config, steps) for name in config.arms]

    def derived(table: pa.Table, arm: str) -> dict:
        return pathway_trends.rows(table, arm, config.arms, settings)

    return grokking.Design(TITLE, QUESTION, stated, measured, seeds, steps,
                           gates.runs_reached("fit.accuracy", config.reached, never=(pathway_trends.CONTROL,)), PAPERS, derived)


def steps_of(config: ConfigDict) -> tuple[int, ...]:
    """Measured steps: 0, `measure.grid_points` log-spaced ones and `measure.even_points` evenly spaced ones, to the last."""
    even = np.linspace(0, config.train.steps, config.measure.even_points + 1)[1:].round().astype(int)
    return (0, *sorted({*grid(config.train.steps, config.measure.grid_points), *(int(step) for step in even)}))


def model_of(arm: str, section: ConfigDict, task: Task) -> models.TransformerConfig:
    """The arm's model. The dense one has the multiplications of a token's experts: ff = k * F + shared width.

    Raises: UserError for sizes that do not fit, or a section without experts.
    """
    fields = {"vocab": task.vocab_size, **section.to_dict()}
    if not fields["experts"]:
        raise UserError("model.experts=0: the arms compare a mixture of experts with a dense model; set it to at least 2")
    if arm == "dense":
        width = fields["experts_per_token"] * fields["ff"] + fields["shared_ff"]
        fields = {key: value for key, value in fields.items() if key not in MIXTURE} | {"ff": width}
    return checks.model(ConfigDict(fields), (task,))


def frozen_router(params: dict, seed: int) -> masking.Mask:
    """Everything is trained but the routers."""
    del seed
    return masking.without(params, ("router",))


@functools.cache
def route_of(model: models.TransformerConfig, pad: int):
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
    shown = tasks.table(task, "train")
    total = len(shown.prompt_NxP)
    chosen = np.arange(total) if count >= total else np.linspace(0, total - 1, count).round().astype(int)
    return Rows(*(np.asarray(x)[chosen] for x in (shown.prompt_NxP, shown.answer_NxT[:, 0], shown.problem.operator)))


def _measured(name: str, config: ConfigDict, steps: Sequence[int]) -> grokking.Measured:
    """One arm with its probes. Raises: UserError."""
    train, control = config.train, name == "moe-no-decay-random"
    task = arm_table.make_task(ConfigDict({**config.task.to_dict(), "labels": "random" if control else "true"}))
    model = model_of(name, config.model, task)
    decay = 0.0 if control else train.weight_decay
    arm = grokking.arm(name, task, model, learning_rate=train.learning_rate, weight_decay=decay,
                       trainable=frozen_router if name == "moe-frozen-router" else None)
    found: list[probes.Probe] = [grokking.table_fit(task, model, steps)]
    if model.experts:
        found.append(_routing(config.measure, model, task, steps))
    return grokking.Measured(arm, found, training_rows(task, config.measure.examples))


def _routing(measure: ConfigDict, model: models.TransformerConfig, task: Task, steps: Sequence[int]) -> routing.Routing:
    try:
        return routing.Routing(route_of(model, task.pad), top=model.experts_per_token, eps=measure.eps, delta=measure.delta,
                               pairs=measure.pairs, draws=measure.draws, split="train", schedule=schedules.At(tuple(steps)))
    except ValueError as error:
        raise UserError(str(error)) from error
