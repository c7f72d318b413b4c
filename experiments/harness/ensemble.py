"""One arm, all its seeds: trained segment by segment, measured on the grid, saved at boundaries, resumed after a kill."""

import dataclasses
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.arms import Arm
from experiments.harness.base_model import Base
from experiments.harness.errors import Diverged, UserError
from experiments.harness.session import Session
from jaxpost import models, processes, sharding, training
from jaxpost.checkpoint import Checkpoints
from jaxpost.records import Bundle


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


def begun(directory: Path, arm: str) -> list[Block]:
    """The blocks of an arm that have a directory, in seed order."""
    matches = [(re.fullmatch(r"seeds-(\d+)-(\d+)", path.name), path) for path in (directory / arm).glob("seeds-*")]
    blocks_begun = [Block(arm, int(m[1]), int(m[2]) - int(m[1]) + 1, path) for m, path in matches if m]
    return sorted(blocks_begun, key=lambda block: block.first)


def runs(seeds: Iterable[int]) -> list[tuple[int, int]]:
    """(first, last) of every run of consecutive integers.

    >>> runs([7, 1, 2, 3])
    [(1, 3), (7, 7)]
    """
    ranges = []
    for seed in sorted(seeds):
        if ranges and ranges[-1][1] == seed - 1:
            ranges[-1] = (ranges[-1][0], seed)
        else:
            ranges.append((seed, seed))
    return ranges


def blocks(directory: Path, arm: str, seeds: Sequence[int], members: int = 1) -> list[Block]:
    """The blocks that cover exactly `seeds`, in seed order: those begun before, and new ones for what is missing.

    Args:
      directory: of all arms; one directory an arm, in it one a block.
      members: devices that share a block (mesh axis `ensemble`); must divide each block.

    Raises:
      UserError: a block was begun with seeds that are not asked for, or has a size that `members` does not divide.
    """
    covering = begun(directory, arm)
    covered = {seed for block in covering for seed in block.seeds}
    if extra := sorted(covered - set(seeds)):
        raise UserError(f"{directory} was begun with seeds that are not asked for now ({extra[0]} to {extra[-1]} of arm "
                        f"{arm!r}): seeds are added, never dropped; set seeds.count to at least "
                        f"{extra[-1] - min(seeds) + 1}, or choose another --workdir")
    for low, high in runs(set(seeds) - covered):
        covering.append(Block(arm, low, high - low + 1, directory / arm / f"seeds-{low}-{high}"))
    for block in covering:
        if block.count % members:
            raise UserError(f"arm {arm!r}: its {block.count} seeds {block.first} to {block.first + block.count - 1} are "
                            f"not divisible by mesh.ensemble={members}; change seeds.count by "
                            f"{members - block.count % members} or set mesh.ensemble to a divisor of {block.count}")
    return sorted(covering, key=lambda block: block.first)


def require(directory: Path, arm: str, seeds: Sequence[int], done: Sequence[int], members: int) -> None:
    """Refuse, before any compute, seeds that cannot be added to what the directory has.

    Args:
      done: seeds that finished rows exist for.
      directory, arm, seeds, members: as in `blocks`.

    Raises:
      UserError: as `blocks`, or the checkpoints of finished seeds are gone.
    """
    blocks(directory, arm, seeds, members)
    covered = {seed for block in begun(directory, arm) for seed in block.seeds}
    if gone := sorted(set(done) - covered):
        raise UserError(f"{directory}/{arm}: the checkpoints of the finished seed {gone[0]} are gone, and comparisons "
                        "with added seeds need them; put them back, or run all seeds in another --workdir")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What every arm of the experiment shares."""

    base: Base
    prefix: str  # of shard names; "" when there is one base
    grid: tuple[int, ...]  # measured steps, the last is the end
    steps_per_call: int
    every_seconds: float  # between checkpoints
    mesh: jax.sharding.Mesh | None
    measure: Callable  # (arm, step, seeds, params_S, history, probe_state_S) -> columns
    _: dataclasses.KW_ONLY
    answers: Callable | None = None  # (arm, step, seeds, params_S): asks the policies and keeps what they say
    program: Callable | None = None  # (arm, members) -> its compiled program; None: compiled at the first call


def boundaries(grid: tuple[int, ...], steps_per_call: int) -> list[int]:
    """All steps where the host looks: the grid, and every multiple of steps_per_call between its points."""
    return sorted(set(grid) | set(range(steps_per_call, grid[-1], steps_per_call)))


def train(arm: Arm, block: Block, plan: Plan, bundle: Bundle, session: Session,
          starts: Callable[[int], dict] | None = None, references: Callable[[int], dict] | None = None) -> None:
    """Train a block to its end unless it is there already; every grid step's rows are written exactly once.

    Args:
      starts: seed -> the parameters that it starts from; None: those of the base.
      references: seed -> those of the reference that its state keeps; None: it keeps none of its own.

    Raises:
      Diverged: a loss that is not finite; the last checkpoint and all rows before stay.
      Stopped: a signal came; saved at this boundary.
      CheckpointError: it has checkpoints, and none of them is what was saved.
    """
    members = training.stack([training.Member(jnp.uint32(s + arm.offset), arm.scalars) for s in block.seeds])
    with Checkpoints(block.directory, say=telling(session, bundle, arm.name)) as saves:
        step = 0
        if (latest := resumable(saves, arm.name, block, plan, bundle, session)) is not None:
            step = latest[0]
            if step == plan.grid[-1]:
                return
        states = training.stack([
            arm.fresh(plan.base.params if starts is None else starts(seed), seed + arm.offset,
                      None if references is None else references(seed)) for seed in block.seeds])
        places = None if plan.mesh is None else sharding.member_shardings(
            states, models.parameter_table(arm.spec.model), plan.mesh)
        if latest is not None:
            states = saves.restore(step, _abstract(states, places))
            session.say(f"{arm.name}: resuming at step {step}")
        elif places is not None:
            states = processes.put(states, places)
        program = (training.segment_program(arm.source, arm.spec, plan.steps_per_call, plan.mesh) if plan.program is None
                   else plan.program(arm, block.count))
        _segments(arm, block, plan, bundle, session, program, members, states, step, saves)


def _abstract(states, places):
    """Shapes, dtypes and, where there are any, places of states."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), states)
    return shapes if places is None else jax.tree.map(lambda x, place: x.update(sharding=place), shapes, places)


def telling(session: Session, bundle: Bundle, arm: str) -> Callable[[str], None]:
    """What checkpoints have to say goes to the terminal and into the events."""
    def say(text: str) -> None:
        session.say(f"{arm}: {text}")
        bundle.event("checkpoint", 0, arm=arm, said=text)

    return say


def resumable(saves: Checkpoints, arm: str, block: Block, plan: Plan, bundle: Bundle, session: Session
              ) -> tuple[int, dict] | None:
    """The newest sound checkpoint before which every measurement is there: what is gone or damaged is measured again.

    Raises:
      CheckpointError: there are checkpoints, and none is what was saved.
    """
    latest = saves.latest()
    if latest is None:
        return None
    damaged = getattr(plan.measure, "damaged", lambda *_: False)

    def missing() -> int | None:
        lacking = (step for step in plan.grid if step <= latest[0] and not bundle.sealed_rows(block.shard(plan.prefix, step))
                   and (not bundle.has_rows(block.shard(plan.prefix, step)) or damaged(arm, step, block.seeds)))
        return next(lacking, None)

    if (step := processes.agreed(missing)) is not None:
        shard, latest = block.shard(plan.prefix, step), saves.latest(before=step)
        back = f"from step {latest[0]}" if latest else "from the base"
        session.say(f"{arm}: the measurement {shard} is gone or damaged and is made again: training goes on {back}")
        bundle.event("measured-again", step, arm=arm, shard=shard)
    return latest


def _segments(arm, block, plan, bundle, session, program, members, states, step, saves):
    session.phase(arm.name, plan.grid[-1], step)
    saved = time.monotonic()
    reference = plan.base.params if arm.source.needs_reference else None
    for target in [b for b in boundaries(plan.grid, plan.steps_per_call) if b > step]:
        began = time.monotonic()
        try:
            with sharding.on_mesh(plan.mesh):
                states, history = training.run_segment(program, states, members, target - step, reference)
        except training.NonFiniteLoss as error:
            saves.wait()
            latest = saves.latest()
            kept = f"the checkpoint of step {latest[0]}" if latest else "no checkpoint of this arm (none was due yet)"
            raise Diverged(f"arm {arm.name}, seed {block.seeds[error.member]}: the loss is not finite at step "
                           f"{error.step} (learning rate {arm.scalars.learning_rate:g}); kept: {kept} and all rows before; "
                           f"lower --config.{arm.rate_key} and start a new run") from error
        seconds, steps, step = time.monotonic() - began, target - step, target
        scalars = {k: float(np.mean(v[:, -1])) for k, v in history.items() if v.ndim == 2}  # others: a value a tensor
        bundle.event(arm.name, target, **scalars)
        session.telemetry.steps(arm.name, block.seeds, target - steps, history)
        bundle.cost("train", arm=arm.name, step=target, wall_s=seconds)
        if step in plan.grid and not bundle.sealed_rows(block.shard(plan.prefix, step)):
            columns = plan.measure(arm, step, block.seeds, states.params, history, states.probe_state)
            bundle.write_rows(block.shard(plan.prefix, step), columns)
            session.telemetry.measured(arm.name, step, columns)
            if plan.answers is not None:
                plan.answers(arm, step, block.seeds, states.params)
        due = session.look(time.monotonic() - saved > plan.every_seconds)
        if step == plan.grid[-1] or session.stopping or due:
            saves.save(step, states, {"seeds": block.seeds, "arm": arm.name})
            saved = time.monotonic()
        tokens = history["loss_tokens"].sum() / seconds
        session.advance(steps, note=f"{tokens:,.0f} tokens/s")
        if session.stopping:
            saves.wait()
            session.boundary(f"{arm.name} is saved at step {step}")
    session.telemetry.ended(arm.name, block.seeds)


def final_params(arm: Arm, trained: Sequence[Block], plan: Plan) -> dict:
    """Final parameters of all seeds of an arm, stacked in seed order, read from the checkpoints as host arrays."""
    one = jax.eval_shape(lambda: training.create(arm.spec, plan.base.params, {}).params)
    read = []
    for block in sorted(trained, key=lambda block: block.first):
        abstract = jax.tree.map(lambda x, n=block.count: jax.ShapeDtypeStruct((n, *x.shape), x.dtype), one)
        with Checkpoints(block.directory) as saves:
            read.append(jax.device_get(saves.restore_params(plan.grid[-1], abstract)))
    return jax.tree.map(lambda *x: np.concatenate(x), *read)
