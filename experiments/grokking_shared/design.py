"""The runner of experiments that train from scratch on whole tables: arms x seeds, measured on a grid, judged, published.

Every seed of an arm starts from an initialisation of its own, the same for all arms, and sees the whole training table at
every step. A probe's `across` statistics are taken when an arm is finished.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from ml_collections import ConfigDict

from experiments.harness import claims as claim_rules
from experiments.harness import ensemble, exhibits
from experiments.harness.arms import Arm
from experiments.harness.errors import UserError
from experiments.harness.lifecycle import Stated, opened
from experiments.harness.measure import Measurement, grid
from experiments.harness.session import Session, StopSignals
from jaxpost import models, objectives, probes, records, tasks, training
from jaxpost.lookup import nearest
from jaxpost.probes import schedules
from jaxpost.probes.policy import table_fit as fit
from jaxpost.tasks import Task

SPLITS = ("train", "id")


@dataclasses.dataclass(frozen=True)
class FromScratch(Arm):
    """An arm whose members start from `models.init` with their own seed; paired arms of one seed start equal."""

    def fresh(self, params: object, seed: int, reference: object = None) -> training.TrainState:
        """The state of a member at step 0; `params`, a base's, and a reference are not read: there is none."""
        del params, reference
        start = models.init(self.spec.model, training.stream(seed, "init", 0))
        trainable = None if self.trainable is None else self.trainable(start, seed)
        return training.create(self.spec, start, self.source.curriculum.init(jax.random.key(0)), trainable)


@dataclasses.dataclass(frozen=True)
class Measured:
    """An arm, the probes that measure it, and the probe batch where one of them needs it."""

    arm: FromScratch
    probes: Sequence[probes.Probe]
    batch: object = None


@dataclasses.dataclass(frozen=True)
class Design:
    """Everything an experiment states before any compute."""

    title: str
    question: str
    claims: Sequence[Mapping]
    arms: Sequence[Measured]
    seeds: Sequence[int]
    grid: tuple[int, ...]  # measured steps, 0 first
    gate: Callable  # of the claims: which arms support nothing
    papers: Sequence[Mapping] = ()
    derived: Callable[[pa.Table, str], dict] | None = None  # (rows of all seeds, arm) -> columns made of them, params with at=


def arm(name: str, task: Task, model: models.TransformerConfig, *, learning_rate: float, weight_decay: float,
        trainable: Callable | None = None, **fields) -> FromScratch:
    """An arm trained on every problem of the task's `train` split, its answer token only, by AdamW with betas (.9, .98).

    Args:
      trainable: (parameters, seed) -> what is trained; None: everything. fields: of `training.StepSpec`.
    """
    optimizer = (("b1", 0.9), ("b2", 0.98), ("name", "adamw"), ("weight_decay", weight_decay))
    spec = training.StepSpec(model, objectives.get("cross_entropy"), optimizer, pad=task.pad, **fields)
    return FromScratch(name, training.WholeTable(task, tokens=1), spec, training.Scalars(learning_rate),
                       rate_key="train.learning_rate", trainable=trainable)


def require_accuracy(reached: float) -> None:
    """Refuse a level that is no accuracy. Raises: UserError."""
    if not 0 < reached <= 1:
        raise UserError(f"reached={reached}: an accuracy, greater than 0 and at most 1")


def stated(claims: Sequence[Mapping], arms: Sequence[str], known: Sequence[str]) -> list[Mapping]:
    """The claims whose arms all run.

    Args:
      arms: that run; known: every arm of the experiment.

    Raises:
      UserError: an arm that is not known, or a claim that could not be judged.
    """
    for name in arms:
        if name not in known:
            raise UserError(f"arms: {name!r} is not known{nearest(name, known)}")
    claim_rules.fields(claims)
    claim_rules.require_arms(claims, known)
    found = claim_rules.judgeable(claims, arms)
    claim_rules.check(found, SPLITS)
    return found


def table_fit(task: Task, model: models.TransformerConfig, steps: Sequence[int]) -> fit.TableFit:
    """Exact loss and accuracy of the answer token on both splits, at the given steps."""
    found = []
    for split in SPLITS:
        shown = tasks.table(task, split)
        found.append(fit.Table(split, answer_logits(model, task.pad), np.asarray(shown.answer_NxT[:, 0]),
                               np.asarray(shown.prompt_NxP)))
    return fit.TableFit(tuple(found), schedule=schedules.At(tuple(steps)))


def answer_logits(model: models.TransformerConfig, pad: int) -> Callable:
    """(params, prompt_NxP) -> float32 logits of the token after each prompt, [N, V]."""
    def logits(params, prompt_NxP):
        return models.token_logits(model, params, prompt_NxP, jnp.zeros((len(prompt_NxP), 1), jnp.int32), pad)[:, 0]

    return logits


def steps_of(config: ConfigDict) -> tuple[int, ...]:
    """Measured steps of a config: 0 and `measure.grid_points` log-spaced ones up to `train.steps`."""
    return (0, *grid(config.train.steps, config.measure.grid_points))


def seeds_of(config: ConfigDict) -> list[int]:
    """The seeds of a config, the same for every arm. Raises: UserError for a mesh of several devices."""
    if config.mesh.ensemble != 1:
        raise UserError(f"mesh.ensemble={config.mesh.ensemble}: this experiment runs on one device; set it to 1")
    return list(range(config.seeds.first, config.seeds.first + config.seeds.count))


def carry_out(design: Design, config: ConfigDict, workdir: Path, name: str, signals: StopSignals) -> None:
    """Run, resume, add seeds to a finished run, or report that it is finished.

    Raises:
      UserError, BundleError, CheckpointError: one clear line; nothing that was written is lost.
    """
    _require_no_base(design)
    stated = Stated(design.title, design.question, design.claims, [one.arm.name for one in design.arms], design.seeds)
    with opened(config, stated, workdir, name, signals) as found:
        if found is None:
            return
        bundle, session = found
        for one in design.arms:
            _train(design, one, config, bundle, session)
        for one in design.arms if design.derived else ():
            if columns := design.derived(bundle.read_rows(), one.arm.name):
                bundle.write_rows(f"derived-{one.arm.name}", columns)
        last = dict.fromkeys((one.arm.name for one in design.arms), design.grid[-1])
        results = claim_rules.judge(design.claims, bundle.read_rows(), last, design.gate)
        bundle_id = records.finish(bundle, metrics=probes.METRICS, claims=results, papers=design.papers,
                                   extra={"n_seeds": len(design.seeds)})
        exhibits.print_claims(session.console, results)
        session.say(f"bundle {bundle_id[:12]}: {workdir / 'report.html'}")


def _require_no_base(design: Design) -> None:
    """Refuse probes that compare with a base. Raises: UserError."""
    for one in design.arms:
        for probe in one.probes:
            if probe.needs & {probes.WEIGHTS0, probes.PARAMS0}:
                raise UserError(f"probe {probe.id!r} compares with a base, and runs from scratch have none")


@dataclasses.dataclass(frozen=True)
class _NoBase:
    """What stands for a base where there is none: parameters for their shapes, no digest."""

    params: dict
    digest: None = None


def _train(design: Design, one: Measured, config: ConfigDict, bundle: records.Bundle, session: Session) -> None:
    """Every seed of an arm: measured at step 0, trained and measured on the grid, then across steps."""
    began, arm, directory = time.monotonic(), one.arm, bundle.path / "base-0"
    base = _NoBase(models.init(arm.spec.model, jax.random.key(0)))
    measure = Measurement(base, arm.spec.model, one.probes, batch=one.batch, bundle=bundle, directory=directory / "series")
    plan = ensemble.Plan(base, "", design.grid, config.train.steps_per_call, config.checkpoint.every_seconds, None, measure)
    for block in ensemble.blocks(directory / "arms", arm.name, design.seeds):
        if not bundle.sealed_rows(block.shard("", 0)):
            start = training.stack([arm.fresh(None, seed).params for seed in block.seeds])
            bundle.write_rows(block.shard("", 0), measure(arm, 0, block.seeds, start, {}))
        ensemble.train(arm, block, plan, bundle, session)
    measure.finish(arm.name, design.seeds)
    session.say(f"{arm.name}: {len(design.seeds)} seeds, {design.grid[-1]} steps, {time.monotonic() - began:.1f} s")
    session.boundary(f"{arm.name} is finished")
