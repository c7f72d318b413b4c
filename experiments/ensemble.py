"""One arm, all its seeds: trained segment by segment, measured on the grid, saved at boundaries, resumed after a kill."""

import dataclasses
import re
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import sharding, training
from jaxpost.checkpoint import Checkpoints
from jaxpost.records import Bundle

from experiments.arms import Arm
from experiments.base_model import Base
from experiments.errors import Diverged
from experiments.session import Session


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive seeds of one arm that run as one ensemble; a directory holds their checkpoints."""

    arm: str
    first: int
    count: int
    directory: Path

    @property
    def seeds(self) -> list[int]:
        """The seeds, in order."""
        return list(range(self.first, self.first + self.count))

    def shard(self, prefix: str, step: int) -> str:
        """The name of the measurement shard of a step."""
        return f"{prefix}{self.arm}-{step:05d}-seeds-{self.first}-{self.first + self.count - 1}"


def blocks(directory: Path, arm: str, first: int, count: int) -> list[Block]:
    """The blocks that cover seeds first .. first + count - 1: those begun before, then one for what is missing."""
    found, covered = [], set()
    for path in sorted((directory / arm).glob("seeds-*")):
        if match := re.fullmatch(r"seeds-(\d+)-(\d+)", path.name):
            low, high = int(match[1]), int(match[2])
            found.append(Block(arm, low, high - low + 1, path))
            covered |= set(range(low, high + 1))
    missing = [s for s in range(first, first + count) if s not in covered]
    if missing:
        low, high = missing[0], missing[-1]
        found.append(Block(arm, low, high - low + 1, directory / arm / f"seeds-{low}-{high}"))
    return found


@dataclasses.dataclass(frozen=True)
class Plan:
    """What every arm of the experiment shares."""

    base: Base
    prefix: str  # of shard names; "" when there is one base
    grid: tuple[int, ...]  # measured steps, the last is the end
    steps_per_call: int
    every_seconds: float  # between checkpoints
    mesh: jax.sharding.Mesh | None
    measure: Callable  # (arm, step, seeds, params_S) -> columns


def boundaries(grid: tuple[int, ...], steps_per_call: int) -> list[int]:
    """All steps where the host looks: the grid, and every multiple of steps_per_call between its points."""
    return sorted(set(grid) | set(range(steps_per_call, grid[-1], steps_per_call)))


def train(arm: Arm, block: Block, plan: Plan, bundle: Bundle, session: Session) -> None:
    """Train a block to its end unless it is there already; every grid step's rows are written exactly once.

    Raises:
      Diverged: a loss that is not finite; the last checkpoint and all rows before stay.
      Stopped: a signal came; saved at this boundary.
    """
    program = training.segment_program(arm.source, arm.spec, plan.steps_per_call, plan.mesh)
    members = training.stack([training.Member(jnp.uint32(s), arm.scalars) for s in block.seeds])
    saves = Checkpoints(block.directory)
    try:
        states = training.stack([training.create(arm.spec, plan.base.params, arm.source.curriculum.init())
                                 for _ in block.seeds])
        step = 0
        if (found := saves.latest()) is not None:
            step = found[0]
            if step == plan.grid[-1]:
                return
            states = saves.restore(step, jax.eval_shape(lambda: states))
            session.say(f"{arm.name}: resuming at step {step}")
        _segments(arm, block, plan, bundle, session, program, members, states, step, saves)
    finally:
        saves.close()


def _segments(arm, block, plan, bundle, session, program, members, states, step, saves):
    session.phase(arm.name, plan.grid[-1])
    session.advance(step)
    saved = time.monotonic()
    reference = plan.base.params if arm.spec.objective.needs_reference else None
    for target in [b for b in boundaries(plan.grid, plan.steps_per_call) if b > step]:
        began = time.monotonic()
        try:
            with sharding.on_mesh(plan.mesh):
                states, history = training.run_segment(program, states, members, target - step, reference)
        except training.NonFiniteLoss as error:
            kept = f"its checkpoint of step {saves.latest()[0]}" if saves.latest() else "no checkpoint yet"
            raise Diverged(f"arm {arm.name}, seed {block.seeds[error.member]}: the loss is not finite at step "
                           f"{error.step} (learning rate {arm.scalars.learning_rate}); kept: {kept} and the rows before; "
                           "lower train.learning_rates and start a new run") from error
        seconds, steps, step = time.monotonic() - began, target - step, target
        shown = {k: float(np.mean(v[:, -1])) for k, v in history.items()}
        bundle.event(arm.name, target, **shown)
        session.mirror(step=target, **{f"{arm.name}/{k}": v for k, v in shown.items()})
        bundle.cost("train", arm=arm.name, step=target, wall_s=seconds)
        if step in plan.grid:
            columns = plan.measure(arm, step, block.seeds, states.params, history)
            bundle.write_rows(block.shard(plan.prefix, step), columns)
        if step == plan.grid[-1] or session.stopping or time.monotonic() - saved > plan.every_seconds:
            saves.save(step, states, {"seeds": block.seeds, "arm": arm.name})
            saved = time.monotonic()
        tokens = history["loss_tokens"].sum() / seconds
        session.advance(steps, note=f"{tokens:,.0f} tokens/s")
        if session.stopping:
            saves.close()
            session.stop(f"{arm.name} is saved at step {step}")


def final_params(arm: Arm, found: list[Block], plan: Plan) -> dict:
    """Final parameters of all seeds of an arm, stacked in seed order, read from the checkpoints."""
    read = []
    for block in found:
        saves = Checkpoints(block.directory)
        one = jax.eval_shape(lambda: training.create(arm.spec, plan.base.params, {}).params)
        abstract = jax.tree.map(lambda x, n=block.count: jax.ShapeDtypeStruct((n, *x.shape), x.dtype), one)
        read.append(saves.restore_params(plan.grid[-1], abstract))
        saves.close()
    return jax.tree.map(lambda *x: jnp.concatenate(x), *read)
