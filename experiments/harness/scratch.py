"""A study without a base: every seed begins at initial parameters of its own, the same in every arm of one model.

Arms may have models and tasks of their own, so each is measured by itself, from step 0 on. Probes that compare with a base are
refused: there is none.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.harness import arms as arm_table
from experiments.harness import (
    checks,
    completions,
    ensemble,
    follower,
    one_arm,
    power,
    probing,
    programs,
    stages,
    tables,
    trainable,
    trends,
    work,
)
from experiments.harness.arms import Arm
from experiments.harness.checked import Checked
from experiments.harness.errors import UserError
from experiments.harness.measure import Measurement, grid
from experiments.harness.session import Session
from jaxpost import models, probes, tasks, training
from jaxpost.records import Bundle
from jaxpost.tasks import Task


@dataclasses.dataclass(frozen=True)
class Measured:
    """How an arm is measured: its probes, and the probe batch where one of them needs it."""

    probes: Sequence[probes.Probe]
    batch: object = None


class Setup(Checked):
    """Everything a config determines before any compute; building it finds what a user got wrong.

    Raises:
      UserError: a value that cannot run; the message names the fix.
    """

    def __init__(self, config: ConfigDict, claims: Sequence[dict], devices: Sequence | None = None):
        super().__init__(config)
        self.arms = arm_table.build(config, self._model, self.tasks, trainable.of_stage(config))
        self._require_chains()
        for arm in self.arms:
            self.mesh = checks.mesh(config.mesh, arm.source.rows, devices, f"a step of arm {arm.name!r}")
        self.measured: dict[str, Measured] = {}
        for arm in self.arms:  # an average is measured like the first arm that it is of
            self.measured[arm.name] = self._measured(arm) if arm.steps else next(
                self.measured[name] for name in arm.start if name in self.measured)
        self.state(claims, self.splits, [probe for own in self.measured.values() for probe in own.probes])

    def _model(self, stage: stages.Stage, task: Task) -> models.TransformerConfig:
        """The model of an arm; its vocabulary is the task's own where none is stated."""
        fields = {"vocab": task.vocab_size, **self.config.model.to_dict(), **dict(stage.model)}
        return programs.model_with(self.config, checks.model(ConfigDict(fields), (task,)))

    def _require_chains(self) -> None:
        """Refuse an arm that goes on from another model, or compares with a policy that there is not. Raises: UserError."""
        own = {arm.name: arm for arm in self.arms}
        for arm in self.arms:
            for start in arm.start:
                if start in own and own[start].spec.model != arm.spec.model:
                    raise UserError(f"arm {arm.name!r} starts from {start!r}, whose model is another; give both one model")
            if arm.source.needs_reference:
                raise UserError(f"arm {arm.name!r}: its objective compares with a reference policy, and a study from scratch "
                                "has no base; set reference to 'start' or to an arm")

    @property
    def splits(self) -> list[str]:
        """On which something is measured."""
        return list(dict.fromkeys([*tables.SPLITS, *(label for arm in self.arms for label, _, _ in self._evaluated(arm))]))

    def steps(self, arm: Arm) -> tuple[int, ...]:
        """Measured steps: 0, then `measure.grid_points` log-spaced and `measure.even_points` evenly spaced ones to the last."""
        measure = self.config.measure
        if not arm.steps:
            return (0,)
        even = np.linspace(0, arm.steps, measure.even_points + 1)[1:].round().astype(int)
        return (0, *sorted({*grid(arm.steps, measure.grid_points), *(int(step) for step in even)}))

    def _measured(self, arm: Arm) -> Measured:
        """The probes that the arm names, or all of `measure.probes`. Raises: UserError: as `probing.build`."""
        config, names, task = self.config, arm.probes or self.config.measure.probes, arm.task
        problems = config.measure.problems
        if isinstance(arm.source, training.WholeTable):
            given, rows = tables.subject(arm.spec.model, task, names, problems), tables.training_rows
        else:
            suite = training.Suite(arm.spec.model, self._evaluated(arm), problems, "id")
            given, rows = probing.subject(suite, names), probing.demonstration_batch
        built = probing.build(names, given, arm.spec.model, self.steps(arm), probing.settings_of(config))
        for probe in built:
            if probe.needs & {probes.WEIGHTS0, probes.PARAMS0}:
                raise UserError(f"probe {probe.id!r} compares with a base, and a study from scratch has none; leave it out")
        batch = rows(task, problems) if probes.PROBE_BATCH in probes.merge_needs(built) else None
        probing.require_batch(built, batch, arm.spec.model)
        return Measured(built, batch)

    def _evaluated(self, arm: Arm) -> tuple[tuple[str, Task, str], ...]:
        """(label, task, split) of what a policy is asked: the splits of its arm's task, and the tasks of the arms before it,
        each as it was trained, under its name.
        """
        own = {name: other for other in self.arms if (name := other.name) in stages.chain(arm.name, self.stages)}
        before = {self.stages[name].task: other.task for name, other in own.items() if other.task is not arm.task}
        return (*((split, arm.task, split) for split in tasks.evaluated(arm.task)),
                *((name, task, "id") for name, task in sorted(before.items())))

    def carry_out(self, bundle: Bundle, session: Session) -> None:
        """Every arm, and what is made of the rows of finished arms."""
        config, finals = self.config, {}
        if config.pilot and not len(follower.read_rows(bundle)):
            power.announce(session.console, self.claims, config.pilot, config.seeds.count)
        needed = {name for stage in self.stages.values() for name in (*stage.start, *stage.reference)}
        for arm in self.arms:
            plan = self._plan(arm, bundle, session)
            if not arm.steps:
                finals[arm.name] = one_arm.combined(arm, plan, self.seeds, finals, bundle, session)
                continue
            blocks = one_arm.train(arm, plan, self.seeds, finals, bundle.path / "base-0" / "arms", config.mesh.ensemble, bundle,
                                   session)
            if arm.name in needed:
                finals[arm.name] = one_arm.final_params(arm, blocks, plan)
        bundle.write_rows("work", work.rows(self.arms, self.stages, None))
        for arm in self.arms if config.trend else ():
            if columns := trends.rows(config.trend, follower.read_rows(bundle), arm.name, list(self.last)):
                bundle.write_rows(f"derived-{arm.name}", columns)
        probing.report_costs(bundle, session)

    def listed(self) -> Iterator[programs.Program | programs.Unseen]:
        """Every program that the arms would run but those of a few milliseconds, see `harness.programs`."""
        count = len(self.seeds)
        yield from programs.of_arms(self.arms, count, self.config.train.steps_per_call, self.mesh, ())
        done = set()
        for arm in self.arms:
            own = self.measured[arm.name]
            fresh = [probe for probe in own.probes if (probe, arm.spec.model) not in done]
            done |= {(probe, arm.spec.model) for probe in fresh}
            yield from programs.of_probes(fresh, arm.spec.model, own.batch, count, self.mesh, ())

    def _plan(self, arm: Arm, bundle: Bundle, session: Session) -> ensemble.Plan:
        own, config, model = self.measured[arm.name], self.config, arm.spec.model
        base = _NoBase(models.init(model, jax.random.key(0)))
        measure = Measurement(base, model, own.probes, batch=own.batch, mesh=self.mesh, bundle=bundle,
                              directory=bundle.path / "base-0" / "series")
        answers = completions.Answers(model, arm.task, "id", config.measure.completions, bundle, session.telemetry,
                                      mesh=self.mesh)
        return ensemble.Plan(base, "", self.steps(arm), config.train.steps_per_call, config.checkpoint.every_seconds, self.mesh,
                             measure, answers=answers)


@dataclasses.dataclass(frozen=True)
class _NoBase:
    """What stands for a base where there is none: parameters for their shapes, no digest."""

    params: dict
    digest: None = None
