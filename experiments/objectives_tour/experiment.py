"""A tour of the recipe table: every row is trained shortly from one base, judged by one rule, and listed."""

import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from scipy import stats as scipy_stats

from experiments.harness import arms as arm_table
from experiments.harness import checks, ensemble, probing
from experiments.harness.base_model import Pretraining
from experiments.harness.errors import Diverged, UserError
from experiments.harness.lifecycle import Stated, opened, publish
from experiments.harness.measure import Measurement, concatenate, grid
from experiments.harness.precompile import Ahead, Untrainable
from experiments.harness.session import Session, StopSignals
from experiments.objectives_tour import rows as tour_rows
from experiments.objectives_tour import terminal as tour_terminal
from experiments.objectives_tour import verdicts as tour_verdicts
from jaxpost import models, probes, records, training
from jaxpost.records.drawing import changes
from jaxpost.records.tabulating.variants import summarised

TITLE = "A tour of the objectives"
QUESTION = "Does every row of the recipe table improve its metric, or at least hold it, in a short run from one base?"
_REEVALUATIONS = 2**31  # first of the seeds that evaluate the base again; a run's own seeds are below


class Setup:
    """Everything a config determines before any compute; building it finds what a user got wrong.

    Raises:
      UserError: a value that cannot run; the message names the fix.
    """

    def __init__(self, config: ConfigDict):
        self.config = config
        checks.values(config)
        train = config.train
        if train.prompts % train.minibatches:
            near = max(m for m in range(1, train.minibatches) if train.prompts % m == 0)
            raise UserError(f"train.minibatches={train.minibatches} does not divide train.prompts={train.prompts}: an update "
                            f"takes whole groups; nearest valid: {near}")
        self.task, self.second = arm_table.make_task(config.task), arm_table.make_task(config.second)
        checks.competence(config.pretrain, self.task)
        self.model = checks.model(config.model, (self.task, self.second))
        self.mesh = checks.mesh(config.mesh, train.prompts * train.group)
        self.rows = tour_rows.build(config, self.model, self.task)
        self.claims = tour_verdicts.claims(self.rows, config.margins)
        self.grid = grid(train.steps, config.measure.grid_points)
        self.suite = training.Suite(self.model, (("id", self.task, "id"), ("second", self.second, "id")),
                                    config.measure.problems, "id")
        self.probes = probing.build_on_suite(("policy", "loss_tokens"), self.suite, self.grid)

    @property
    def arms(self) -> list[arm_table.Arm]:
        """Those of the rows that can be trained."""
        return [row.arm for row in self.rows if row.arm is not None]

    @property
    def seeds(self) -> list[int]:
        """The seeds, the same for every row."""
        return list(range(self.config.seeds.first, self.config.seeds.first + self.config.seeds.count))


class TourMeasurement(Measurement):
    """Policy statistics and the loss; the base's rows carry the noise of evaluating it again."""

    def __call__(self, arm: arm_table.Arm, step: int, seeds: Sequence[int], params_S: dict, history: dict,
                 carried_S: dict | None = None) -> dict:
        """Columns of every seed."""
        shared = {name: params_S[name] for name in self.base.params}  # without a critic's head
        loss = {"metric": tour_terminal.LOSS.id, "arm": arm.name, "role": "seed", "step": step, "granularity": "policy",
                "conditional_on": self.base.digest, "seed": list(seeds), "value": history["loss"].mean(axis=1).tolist()}
        loss = {name: x if isinstance(x, list) else [x] * len(seeds) for name, x in loss.items()}
        return concatenate(super().__call__(arm, step, seeds, shared, history, carried_S), loss)

    def reevaluated(self, count: int, members: int) -> dict[str, np.ndarray]:
        """split -> success of the base in `count` evaluations that share nothing but the problems, `members` at a time."""
        parts = [self.base_values(self.named("policy"), range(first, first + members))
                 for first in range(_REEVALUATIONS, _REEVALUATIONS + count, members)]
        names = [name for name in parts[0] if name.startswith("success/")]
        return {name.removeprefix("success/"): np.concatenate([part[name] for part in parts])[:count] for name in names}


def null_columns(base_rows: dict, success: dict[str, np.ndarray]) -> dict:
    """Rows of role "null" that belong to the base's rows of success: where one further evaluation would fall (95 %).

      mean -+ t_{R-1} sd sqrt(1 + 1/R) over R evaluations; with N problems of success p, sd is about sqrt(p (1 - p) / N)
    """
    rows = []
    for i, row_id in enumerate(records.row_ids(base_rows)):
        if base_rows["metric"][i] == tour_verdicts.METRIC:
            x_R = success[base_rows["split"][i]]
            half = scipy_stats.t.ppf(0.975, len(x_R) - 1) * x_R.std(ddof=1) * np.sqrt(1 + 1 / len(x_R))
            rows.append({name: base_rows[name][i] for name in ("metric", "arm", "step", "seed", "granularity", "split",
                                                               "conditional_on")}
                        | {"role": "null", "of": row_id, "null_kind": changes.REEVALUATION, "null_value": x_R.mean(),
                           "null_lo": x_R.mean() - half, "null_hi": x_R.mean() + half})
    return {name: [row[name] for row in rows] for name in rows[0]}


def run(config: ConfigDict, claims: Sequence[dict], workdir: Path, name: str, signals: StopSignals) -> None:
    """Run, resume, add seeds to a finished run, or report that it is finished.

    Raises:
      UserError, BundleError, CheckpointError: one clear line; nothing that was written is lost.
    """
    if claims:
        raise UserError("a tour states its own claims, one a row; remove CLAIMS from the config's file")
    setup = Setup(config)
    stated = Stated(TITLE, QUESTION, setup.claims, [arm.name for arm in setup.arms], setup.seeds)
    with opened(config, stated, workdir, name, signals) as running:
        if running is None:
            return
        bundle, session = running
        untrained = {row.name: row.reason for row in setup.rows if row.arm is None}
        untrained |= _train(setup, bundle, session)
        publish(stated, bundle, session,
                lambda table: tour_verdicts.judge(setup.claims, table, setup.grid[-1], untrained),
                metrics={**probes.METRICS, tour_terminal.LOSS.id: tour_terminal.LOSS},
                show=lambda console, results: tour_terminal.print_table(
                    console, summarised(records.read_measurements(workdir)), results))


def _train(setup: Setup, bundle: records.Bundle, session: Session) -> dict[str, str]:
    """Every arm from one base; returns those that could not be trained, with the reason."""
    config, directory, began = setup.config, bundle.path / "base-0", time.monotonic()
    todo = [(arm, block) for arm in setup.arms
            for block in ensemble.blocks(directory / "arms", arm.name, setup.seeds, config.mesh.ensemble)]
    shapes = jax.eval_shape(lambda: models.init(setup.model, jax.random.key(0)))
    with Ahead(shapes, config.train.steps_per_call, config.train.optimization_level, bundle) as ahead:
        for arm, block in todo if setup.mesh is None else ():
            if not bundle.has_rows(block.shard("", setup.grid[-1])):
                ahead.begin(arm, block.count)
        base = Pretraining(config.pretrain, setup.model, setup.task, setup.second, config.seeds.base).run(
            directory, session, config.checkpoint.every_seconds)
        bundle.require_base("base-0", base.digest)
        session.say(f"base {base.digest}: step {base.step}, new task {base.success:.3f}, second task {base.second:.3f}")
        bundle.cost("pretrain", arm="base-0", wall_s=time.monotonic() - began)
        measure = TourMeasurement(base, setup.model, setup.probes, mesh=setup.mesh, bundle=bundle)
        _write_base_rows(setup, measure, bundle)
        plan = ensemble.Plan(base, "", setup.grid, config.train.steps_per_call, config.checkpoint.every_seconds, setup.mesh,
                             measure, program=ahead.program if setup.mesh is None else None)
        return {arm.name: refused for arm, block in todo if (refused := _train_one(arm, block, plan, bundle, session))}


def _train_one(arm: arm_table.Arm, block: ensemble.Block, plan: ensemble.Plan, bundle, session: Session) -> str:
    """One block to its end, or to where it diverged; returns why it could not be trained, or nothing."""
    began, outcome, refused = time.monotonic(), f"{block.count} seeds, {plan.grid[-1]} steps", ""
    try:
        ensemble.train(arm, block, plan, bundle, session)
    except Diverged as error:  # a row of the tour, not its end
        outcome = _write_diverged(arm, block, plan, bundle, error)
    except Untrainable as error:
        outcome = refused = str(error)
    bundle.cost("arm", arm=arm.name, step=block.first, wall_s=time.monotonic() - began)
    session.say(f"{arm.name}: {outcome}, {time.monotonic() - began:.1f} s")
    session.boundary(f"{arm.name} is finished")
    return refused


def _write_base_rows(setup: Setup, measure: TourMeasurement, bundle: records.Bundle) -> None:
    """The base's rows with their nulls, for the seeds that have none yet."""
    have = records.select(bundle.read_rows(), arm="base", role="seed")["seed"].to_pylist()
    if missing := sorted(set(setup.seeds) - set(have)):
        columns = measure.base_rows(missing)
        null = null_columns(columns, measure.reevaluated(setup.config.measure.reevaluations, len(missing)))
        bundle.write_rows(f"base-seeds-{missing[0]}-{missing[-1]}", concatenate(columns, null))


def _write_diverged(arm: arm_table.Arm, block: ensemble.Block, plan: ensemble.Plan, bundle: records.Bundle,
                    error: Diverged) -> str:
    """Rows without a value at the last step, with the reason; returns it."""
    lost = error.__cause__
    reason = (f"the loss of seed {block.seeds[lost.member]} is not finite at step {lost.step} (learning rate "
              f"{arm.scalars.learning_rate:g})")
    shard = block.shard(plan.prefix, plan.grid[-1])
    if not bundle.sealed_rows(shard):
        n = block.count
        bundle.write_rows(shard, {
            "metric": [tour_verdicts.METRIC] * n, "split": [tour_verdicts.SPLIT] * n, "arm": [arm.name] * n,
            "role": ["seed"] * n, "step": [plan.grid[-1]] * n, "seed": block.seeds, "granularity": ["policy"] * n,
            "value": [None] * n, "status": ["nan"] * n, "status_reason": [reason] * n,
            "conditional_on": [plan.base.digest] * n})
    return reason
