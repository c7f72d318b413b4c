"""RLVR against SFT in weight space: pretrain a base, train every arm over seeds, measure, match, judge, publish."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from ml_collections import ConfigDict

from experiments.harness import arms as arm_table
from experiments.harness import checks, ensemble, exhibits, matched, probing
from experiments.harness import claims as claim_rules
from experiments.harness import forgetting as razor
from experiments.harness.base_model import Base, Pretraining
from experiments.harness.lifecycle import Stated, opened
from experiments.harness.measure import Measurement, concatenate, grid, write_base_rows
from experiments.harness.session import Session, StopSignals
from jaxpost import probes, records, training
from jaxpost.probes import weights

COMPARED = ("weight", "policy")  # probes that the comparisons at matched norm and matched success are made of
TITLE = "RLVR against SFT in weight space"
QUESTION = ("Do RL with verifiable rewards and supervised fine-tuning move weights differently, once dtype, learning rate, "
            "update norm and a blind null are accounted for?")


class Setup:
    """Everything a config determines before any compute; building it finds what a user got wrong.

    Raises:
      UserError: a value that cannot run; the message names the fix.
    """

    metrics: Mapping[str, probes.Metric] = MappingProxyType({})  # of an experiment's own rows

    def __init__(self, config: ConfigDict, claims: Sequence[dict]):
        self.config = config
        checks.values(config)
        self.task, self.second = arm_table.make_task(config.task), arm_table.make_task(config.second)
        self.model = checks.model(config.model, (self.task, self.second))
        self.mesh = checks.mesh(config.mesh, config.train.prompts * config.train.group)
        self.arms = self.make_arms()
        checks.claim_fields(claims)
        self.claims = claim_rules.judgeable(claims, config.arms)
        claim_rules.check(self.claims)
        self.grid = grid(config.train.steps, config.measure.grid_points)
        self.suite = training.Suite(
            self.model, (*((split, self.task, split) for split in self._splits()), ("second", self.second, "id")),
            config.measure.problems, "id")
        panel = {"ks": config.measure.ks, "alphas": config.measure.alphas}
        self.probes = probing.chosen(config.measure.probes, self.suite, self.grid, {"weight": panel})
        probing.require(self.probes, COMPARED, self.claims)
        needs = probes.merge_needs(self.probes)
        self.batch = probing.demonstration_batch(self.task, config.measure.problems) if probes.PROBE_BATCH in needs else None
        probing.require_batch(self.probes, self.batch, self.model)

    def make_arms(self) -> list[arm_table.Arm]:
        """The arms named in `config.arms`, in that order."""
        return arm_table.build(self.config, self.model, self.task)

    def write_more(self, bundle: records.Bundle, prefix: str, base: Base) -> None:
        """Rows of an experiment's own about a base, beside those of every experiment of this kind: none here."""

    def _splits(self) -> list[str]:
        return ["id"] + [s for s in self.task.splits if s.startswith("ood/")]

    @property
    def seeds(self) -> list[int]:
        """The test seeds."""
        return list(range(self.config.seeds.first, self.config.seeds.first + self.config.seeds.count))


def run(config: ConfigDict, claims: Sequence[dict], workdir: Path, name: str, signals: StopSignals) -> None:
    """Run, resume, add seeds to a finished run, or report that it is finished.

    Raises:
      UserError, BundleError, CheckpointError: one clear line; nothing that was written is lost.
    """
    carry_out(Setup(config, claims), TITLE, QUESTION, workdir, name, signals)


def carry_out(setup: Setup, title: str, question: str, workdir: Path, name: str, signals: StopSignals) -> None:
    """Every base, every arm, the comparisons, the verdicts and the report of a checked experiment. Raises: as `run`."""
    config = setup.config
    stated = Stated(title, question, setup.claims, config.arms, setup.seeds, config.seeds.bases)
    with opened(config, stated, workdir, name, signals) as found:
        if found is None:
            return
        bundle, session = found
        if not len(bundle.read_rows()):
            step = probing.step_seconds(setup.arms[0], setup.model, len(setup.seeds), config.train.steps_per_call, setup.mesh)
            probing.predict(session, setup.probes, probing.shapes(setup.model, setup.batch), config.train.steps,
                            config.measure.probes, config.measure.budget, step)
        inventory = [_one_base(setup, b, bundle, session) for b in range(config.seeds.bases)]
        probing.report_costs(bundle, session)
        session.phase("report", 1)
        began = time.monotonic()
        results = claim_rules.judge(setup.claims, bundle.read_rows(), setup.grid[-1])
        bundle_id = records.finish(bundle, metrics={**probes.METRICS, **setup.metrics}, claims=results,
                                   tensors=concatenate(*inventory), papers=exhibits.PAPERS,
                                   extra={"n_seeds": config.seeds.count}, hierarchical=config.seeds.bases > 1)
        session.say(f"report written in {time.monotonic() - began:.0f} s")
        exhibits.print_claims(session.console, results)
        session.say(f"bundle {bundle_id[:12]}: {workdir / 'report.html'}")


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
    setup.write_more(bundle, prefix, base)
    steps = probing.measured_steps(setup.probes, setup.grid[-1])
    plan = ensemble.Plan(base, prefix, steps, config.train.steps_per_call, config.checkpoint.every_seconds, setup.mesh,
                         measure)
    finals = {}
    for arm in setup.arms:
        began = time.monotonic()
        found = ensemble.blocks(directory / "arms", arm.name, setup.seeds, config.mesh.ensemble)
        for block in found:
            ensemble.train(arm, block, plan, bundle, session)
        finals[arm.name] = ensemble.final_params(arm, found, plan)
        measure.finish(arm.name, setup.seeds)
        session.say(f"{arm.name}: {len(setup.seeds)} seeds, {setup.grid[-1]} steps, {time.monotonic() - began:.0f} s")
        session.boundary(f"{arm.name} is finished")
    matrices = {name: measure.matrices(params_S) for name, params_S in finals.items()}
    _compare(setup, plan, measure, finals, matrices, bundle, session)
    session.boundary("all arms are finished")
    return exhibits.inventory(measure.infos, base, matrices, setup.seeds)


def _compare(setup: Setup, plan: ensemble.Plan, measure: Measurement, finals: dict, matrices: dict, bundle,
             session) -> None:
    """What needs several seeds or several arms: Jaccard, matched points, rescaled updates, forgetting, arrays."""
    session.phase("comparing", 3)
    base, last = plan.base, setup.grid[-1]
    parts = []
    for arm, matrices_S in matrices.items():
        found = weights.jaccard(measure.base_weights, matrices_S)
        parts.append(weights.finalize_jaccard(measure.infos, found, arm=arm, step=last, conditional_on=base.digest,
                                              row_ids=records.row_ids))
    bundle.write_rows(f"{plan.prefix}jaccard", concatenate(*parts))
    session.advance(1)
    derived = (f"{plan.prefix}matched", f"{plan.prefix}forgetting")
    table = bundle.read_rows(exclude=(*derived, "summary", "claims"))
    sets = {"all": tuple(setup.config.arms)} | {claim_rules.among(c): c["arms"] for c in setup.claims if c["at"] != "final"}
    parts = []
    for among, members in sets.items():
        columns, target = matched.at_matched_norm(table, members, base.digest, among)
        parts += [columns, matched.at_matched_success(table, members, base.digest, among)[0]]
        parts += _rescaled(setup, measure, finals, table, members, target, among)
    bundle.write_rows(derived[0], concatenate(*parts))
    bundle.write_rows(derived[1], razor.columns(table, base.digest))
    session.advance(1)
    for name, arrays in exhibits.arrays(measure, matrices).items():
        bundle.write_arrays(f"{plan.prefix}{name}", arrays)
    session.advance(1)


def _rescaled(setup: Setup, measure: Measurement, finals: dict, table, members, target: float, among: str) -> list[dict]:
    runs = matched.Trajectories(table).of(members, measure.base.digest)
    parts = []
    for arm in setup.arms:
        if arm.name not in members or arm.spec.storage_dtype != "float32":
            continue  # W0 + c dW of bf16 masters leaves their grid
        norm_S = np.asarray([matched.update_norm(runs[arm.name, seed])[-1] for seed in setup.seeds])
        parts.append(matched.at_rescaled_norm(
            lambda params_S, name=arm.name: measure.rows(measure.named("weight"), name, setup.grid[-1], setup.seeds, params_S),
            measure.base.params, finals[arm.name], setup.seeds, norm_S, target, among))
    return parts
