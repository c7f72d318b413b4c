"""An arm of a study: where its seeds start, its training and measurements, and the parameters that it ends with."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from experiments.harness import ensemble, stages
from experiments.harness.arms import Arm
from experiments.harness.measure import concatenate, unmeasured
from experiments.harness.session import Session
from jaxpost import models, training
from jaxpost.records import Bundle


def mean(policies: Sequence[dict], seed: int) -> dict:
    """The average of several parameter trees, in float32."""
    return jax.tree.map(lambda *x: np.mean([np.asarray(leaf, np.float32) for leaf in x], axis=0, dtype=np.float32), *policies)


def ends(names: Sequence[str], finals: Mapping, arm: Arm, base: dict | None, seeds: Sequence[int]) -> Callable[[int], dict]:
    """seed -> parameters: the base's, initial ones, the end of the same seed's run of another arm, or what is made of several:
    the arm's edit of those that it starts from, or else their average.

    Args:
      names: of `stages.Stage.start` or `reference`. finals: arm -> final parameters of all seeds, leading axis S.
    """
    combine = arm.edit if arm.edit and names == arm.start else mean

    def of(name: str, seed: int) -> dict:
        if name == stages.BASE:
            return base
        if name == stages.SCRATCH:
            return models.init(arm.spec.model, training.stream(seed, "init", 0))
        return jax.tree.map(lambda x: x[seeds.index(seed)], finals[name])

    def end(seed: int) -> dict:
        policies = [of(name, seed) for name in names]
        return policies[0] if len(policies) == 1 else combine(policies, seed)

    return end


def train(arm: Arm, plan: ensemble.Plan, seeds: Sequence[int], finals: Mapping, directory: Path, members: int, bundle: Bundle,
          session: Session) -> list[ensemble.Block]:
    """Train and measure every seed of an arm, at step 0 too where the plan's grid begins there; returns its blocks of seeds.

    Args:
      directory: of all arms; members: devices that share a block.
    """
    began = time.monotonic()
    starts = ends(arm.start, finals, arm, plan.base.params, seeds)
    references = ends(arm.reference, finals, arm, plan.base.params, seeds) if arm.spec.reference_refresh else None
    trained = ensemble.blocks(directory, arm.name, seeds, members)
    for block in trained:
        if plan.grid[0] == 0 and not bundle.sealed_rows(block.shard(plan.prefix, 0)):
            fresh_S = training.stack([arm.fresh(starts(seed), seed + arm.offset).params for seed in block.seeds])
            columns = plan.measure(arm, 0, block.seeds, fresh_S, {})
            bundle.write_rows(block.shard(plan.prefix, 0), columns)
            session.telemetry.measured(arm.name, 0, columns)
        ensemble.train(arm, block, plan, bundle, session, starts, references)
    plan.measure.finish(arm.name, seeds)
    session.say(f"{arm.name}: {len(seeds)} seeds, {arm.steps} steps, {time.monotonic() - began:.1f} s")
    session.boundary(f"{arm.name} is finished")
    return trained


def final_params(arm: Arm, trained: Sequence[ensemble.Block], plan: ensemble.Plan) -> dict:
    """The final parameters of all seeds, leading axis S, without a critic's head that the base does not have."""
    return {name: x for name, x in ensemble.final_params(arm, trained, plan).items() if name in plan.base.params}


def combined(arm: Arm, plan: ensemble.Plan, seeds: Sequence[int], finals: Mapping, bundle: Bundle, session: Session) -> dict:
    """The average or edit of what an arm starts from; its parameters, leading axis S. Seeds that have no rows of it yet are
    measured at step 0.
    """
    starts = ends(arm.start, finals, arm, plan.base.params, seeds)
    params_S = jax.tree.map(lambda *x: np.stack(x), *map(starts, seeds))
    if missing := unmeasured(bundle, arm.name, plan.base.digest, seeds):
        places = np.asarray([list(seeds).index(seed) for seed in missing])
        standing = concatenate(*plan.measure.standing(arm.name, missing, jax.tree.map(lambda x: x[places], params_S)))
        bundle.write_rows(f"{plan.prefix}{arm.name}-start-{missing[0]}-{missing[-1]}", standing)
        session.telemetry.measured(arm.name, 0, standing)
    if not arm.steps:
        session.telemetry.ended(arm.name, seeds)
    what = arm.edit.rule if arm.edit else "the average"
    session.say(f"{arm.name}: {what} of {', '.join(arm.start)}, measured")
    return params_S
