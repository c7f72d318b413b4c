"""A study: pretrain a base, train every arm over seeds, measure, match, judge, publish. What it trains is in the config.

A study whose arms start from scratch has no base (`experiments.harness.scratch`).
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.harness import arms as arm_table
from experiments.harness import (
    checks,
    comparisons,
    completions,
    ensemble,
    final_weights,
    follower,
    forgetting,
    lifelong,
    matched,
    one_arm,
    power,
    probing,
    program_report,
    programs,
    scratch,
    stages,
    trainable,
    trends,
    work,
)
from experiments.harness import claims as claim_rules
from experiments.harness.arms import Arm
from experiments.harness.base_model import Pretraining
from experiments.harness.checked import Checked
from experiments.harness.errors import UserError
from experiments.harness.lifecycle import Stated, opened, publish
from experiments.harness.measure import Measurement, concatenate, grid, write_base_rows
from experiments.harness.session import Session, StopSignals
from jaxpost import aot, probes, processes, records, tasks, training
from jaxpost.probes import weights

SEVERAL_PROCESSES = True  # it runs in several (harness/distributed.py)
COMPARED = ("weight", "policy")  # probes that the comparisons at matched norm and matched success are made of
METRICS = {**probes.METRICS, **trainable.METRICS, **work.METRICS}


class Setup(Checked):
    """Everything a config determines before any compute; building it finds what a user got wrong.

    Raises:
      UserError: a value that cannot run; the message names the fix.
    """

    def __init__(self, config: ConfigDict, claims: Sequence[dict], devices: Sequence | None = None):
        super().__init__(config)
        if absent := [section for section in ("pretrain", "second") if section not in config]:
            raise UserError(f"the config has no section {absent[0]!r}, and its arms start from a base; give them "
                            f"start={stages.SCRATCH!r}, or begin with defaults.study()")
        self.second = self.tasks["second"]
        checks.competence(config.pretrain, self.task)
        self.model = programs.model_with(config, checks.model(config.model, tuple(self.tasks.values())))
        self.mesh = checks.mesh(config.mesh, config.train.prompts * config.train.group, devices)
        self.arms = arm_table.build(config, self.model, self.tasks, trainable.of_stage(config))
        trained = [arm for arm in self.arms if arm.steps]
        self.grid = tuple(sorted({step for arm in trained for step in grid(arm.steps, config.measure.grid_points)}))
        others = [(name, task, "id") for name, task in self.tasks.items() if name != "task"]
        own = [(split, self.task, split) for split in tasks.evaluated(self.task)]
        self.suite = training.Suite(self.model, (*own, *others), config.measure.problems, "id")
        self.probes = probing.build_on_suite(config.measure.probes, self.suite, self.grid, probing.settings_of(config))
        self.state(claims, [label for label, _, _ in self.suite.splits], self.probes, COMPARED)
        self.arms = [dataclasses.replace(arm, probes=probing.of_arm(arm.name, arm.probes, self.probes, COMPARED))
                     for arm in self.arms]
        probing.require_chunks(trained, self.probes, claims)
        needs = probes.merge_needs(self.probes)
        self.batch = probing.demonstration_batch(self.task, config.measure.problems) if probes.PROBE_BATCH in needs else None
        probing.require_batch(self.probes, self.batch, self.model)

    @property
    def ends(self) -> dict[str, claim_rules.End]:
        """arm -> where it ends and starts, and the split of the task that it trains on."""
        label, last = {"task": "id"}, {arm.name: arm.steps for arm in self.arms}

        def start(arm: Arm) -> claim_rules.Start:
            name = arm.start[0] if len(arm.start) == 1 else arm.name
            return claim_rules.Start(name, 0 if name == arm.name else last.get(name, 0))

        return {arm.name: claim_rules.End(arm.steps, label.get(task := self.stages[arm.name].task, task), self.made_of(arm),
                                          start(arm)) for arm in self.arms}

    def measured(self, arm: Arm) -> tuple[int, ...]:
        """The steps at which an arm is measured; the last is its end."""
        due = [step for step in probing.measured_steps(self.probes, self.grid[-1]) if step < arm.steps]
        return (*due, arm.steps)

    def carry_out(self, bundle: records.Bundle, session: Session) -> dict:
        """Every base with its arms; returns the inventory of their tensors."""
        config = self.config
        if not len(follower.read_rows(bundle)):
            if config.pilot:
                power.announce(session.console, self.claims, config.pilot, config.seeds.count, config.seeds.bases)
            first = next(arm for arm in self.arms if arm.steps)
            seconds = probing.step_seconds(first, self.model, len(self.seeds), config.train.steps_per_call, self.mesh)
            probing.predict(session, self.probes, probing.shapes(self.model, self.batch), self.grid[-1],
                            config.measure.probes, config.measure.budget, processes.agreed(lambda: seconds))
        inventory = [_one_base(self, b, bundle, session) for b in range(config.seeds.bases)]
        probing.report_costs(bundle, session)
        return concatenate(*inventory)

    def listed(self) -> Iterator[programs.Program | programs.Unseen]:
        """Every program that a base and its arms would run but those of a few milliseconds, see `harness.programs`."""
        mesh, model, count = self.mesh, self.model, len(self.seeds)
        base = [aot.replicated(made(model, None), mesh) for made in (programs.parameters, programs.matrices)]
        yield from programs.of_pretraining(Pretraining(self.config.pretrain, model, self.task, self.second, 0), mesh)
        yield from programs.of_arms(self.arms, count, self.config.train.steps_per_call, mesh, base)
        yield from programs.of_probes(self.probes, model, self.batch, count, mesh, base)


def setup_of(config: ConfigDict, claims: Sequence[dict], devices: Sequence | None = None) -> "Setup | scratch.Setup":
    """The checked study of a config, from a base or from scratch, `devices` as in `checks.mesh`. Raises: UserError."""
    checks.values(config)  # before the stages are made of them
    return (scratch.Setup if stages.from_scratch(stages.stages(config)) else Setup)(config, claims, devices)


def run(config: ConfigDict, claims: Sequence[dict], workdir: Path, name: str, signals: StopSignals) -> None:
    """Run, resume, add seeds to a finished run, or report that it is finished.

    Raises:
      UserError, BundleError, CheckpointError: one clear line; nothing that was written is lost.
    """
    setup = setup_of(config, claims)
    bases, trained = config.seeds.get("bases", 1), [arm.name for arm in setup.arms if arm.steps]
    stated = Stated(config.title, config.question, setup.claims, trained, setup.seeds, bases)
    with opened(config, stated, workdir, name, signals) as running:
        if running is None:
            return
        bundle, session = running
        if config.memory.report:
            program_report.print_report(session, setup.listed())
        inventory = setup.carry_out(bundle, session)
        publish(stated, bundle, session, claim_rules.judging(setup.claims, setup.last, setup.gate), metrics=METRICS,
                tensors=inventory, papers=config.papers, hierarchical=bases > 1)


def _one_base(setup: Setup, index: int, bundle: records.Bundle, session: Session) -> dict:
    """Everything conditional on one base; returns its tensor inventory."""
    config = setup.config
    directory = bundle.path / f"base-{index}"
    began = time.monotonic()
    base = Pretraining(config.pretrain, setup.model, setup.task, setup.second, config.seeds.base + index).run(
        directory, session, config.checkpoint.every_seconds)
    bundle.require_base(f"base-{index}", base.digest)
    session.say(f"base {base.digest}: step {base.step}, new task {base.success:.3f}, second task {base.second:.3f}")
    bundle.cost("pretrain", arm=f"base-{index}", wall_s=time.monotonic() - began)
    prefix = f"base{index}-" if config.seeds.bases > 1 else ""
    measure = Measurement(base, setup.model, setup.probes, batch=setup.batch, mesh=setup.mesh, bundle=bundle,
                          directory=directory / "series", prefix=prefix)
    write_base_rows(bundle, prefix, measure, setup.seeds)
    if partial := trainable.budget_rows(setup.arms, base.params, base.digest, setup.seeds[0]):
        bundle.write_rows(f"{prefix}budgets", partial)
    answers = completions.Answers(setup.model, setup.task, "id", config.measure.completions, bundle, session.telemetry,
                                  mesh=setup.mesh, prefix=prefix)
    if not bundle.sealed_rows(f"{prefix}work"):
        answers("base", 0, setup.seeds[:1], jax.tree.map(lambda x: x[None], base.params))
    plan = ensemble.Plan(base, prefix, setup.grid, config.train.steps_per_call, config.checkpoint.every_seconds, setup.mesh,
                         measure, answers=answers)
    bundle.write_rows(f"{prefix}work", work.rows(setup.arms, setup.stages, base.digest))
    finals = {}
    for arm in setup.arms:
        finals[arm.name] = _one_arm(setup, arm, finals, plan, directory, bundle, session)
    matrices = {name: measure.matrices(params_S) for name, params_S in finals.items()}
    _compare(setup, plan, measure, finals, matrices, bundle, session)
    session.boundary("all arms are finished")
    return final_weights.inventory(measure.infos, base, matrices, setup.seeds)


def _one_arm(setup: Setup, arm: Arm, finals: Mapping, plan: ensemble.Plan, directory: Path, bundle, session: Session) -> dict:
    """The final parameters of an arm's seeds, leading axis S: trained, or the average that it starts from."""
    if len(arm.start) > 1:
        average_S = one_arm.combined(arm, plan, setup.seeds, finals, bundle, session)
        if not arm.steps:
            return average_S
    own = dataclasses.replace(plan, grid=setup.measured(arm))
    blocks = one_arm.train(arm, own, setup.seeds, finals, directory / "arms", setup.config.mesh.ensemble, bundle, session)
    return one_arm.final_params(arm, blocks, own)


def _compare(setup: Setup, plan: ensemble.Plan, measure: Measurement, finals: dict, matrices: dict, bundle,
             session) -> None:
    """What needs several seeds or several arms: Jaccard, matched points, rescaled updates, forgetting, arrays."""
    session.phase("comparing", 3)
    base, ends = plan.base, setup.ends
    parts = []
    for arm, matrices_S in matrices.items():
        overlaps = weights.jaccard(measure.base_weights, matrices_S)
        parts.append(weights.finalize_jaccard(measure.infos, overlaps, arm=arm, step=ends[arm].step, conditional_on=base.digest,
                                              row_ids=records.row_ids))
    bundle.write_rows(f"{plan.prefix}jaccard", concatenate(*parts))
    session.advance(1)
    names = ("matched", "forgetting", "lifelong", *(f"derived-{arm}" for arm in setup.last))
    derived = [f"{plan.prefix}{name}" for name in names]
    table = follower.read_rows(bundle, exclude=(*derived, "summary", "claims"))
    bundle.write_rows(derived[0], concatenate(*_matched(setup, measure, finals, table)))
    bundle.write_rows(derived[1], forgetting.columns(table, base.digest))
    if sequences := lifelong.columns(table, setup.stages, ends, base.digest):
        bundle.write_rows(derived[2], sequences)
    for arm in setup.arms if setup.config.trend else ():
        own = records.select(table, conditional_on=base.digest)
        if columns := trends.rows(setup.config.trend, own, arm.name, list(setup.last), base.digest):
            bundle.write_rows(f"{plan.prefix}derived-{arm.name}", columns)
    session.advance(1)
    for name, arrays in final_weights.arrays(measure, matrices).items():
        bundle.write_arrays(f"{plan.prefix}{name}", arrays)
    session.advance(1)


def _matched(setup: Setup, measure: Measurement, finals: dict, table) -> list[dict]:
    """Rows at matched norm and matched success: among all arms that were trained, and among the arms of each claim."""
    trained = tuple(arm.name for arm in setup.arms if arm.steps)
    read = [(matched.SUCCESS, label) for label, _, _ in setup.suite.splits if label == "id" or label in setup.tasks]
    read += [(claim["metric"], claim.get("split")) for claim in setup.claims
             if claim["at"] == "matched_success" and claim["metric"].startswith("policy.")]
    before = {arm.name: arm.start[0] for arm in setup.arms if len(arm.start) == 1}
    runs, parts = matched.Trajectories(table), []
    for compared in comparisons.of_sets(runs, setup.claims, trained, measure.base.digest, tuple(dict.fromkeys(read)), before):
        parts += compared.columns
        if compared.norm is not None:
            parts += _rescaled(setup, measure, finals, runs, compared)
    return parts


def _rescaled(setup: Setup, measure: Measurement, finals: dict, runs: matched.Trajectories, compared: comparisons.Compared
              ) -> list[dict]:
    series = runs.of(compared.arms, measure.base.digest)
    parts = []
    for arm in setup.arms:
        if arm.name not in compared.arms or arm.spec.storage_dtype != "float32":
            continue  # W0 + c dW of bf16 masters leaves their grid
        norm_S = np.asarray([matched.update_norm(series[arm.name, seed])[1][-1] for seed in setup.seeds])
        parts.append(matched.at_rescaled_norm(
            lambda params_S, arm=arm: measure.rows(measure.named("weight"), arm.name, arm.steps, setup.seeds, params_S),
            measure.base.params, finals[arm.name], setup.seeds, norm_S, compared.norm, compared.among))
    return parts
