"""One run of a text arm: trained in the split loop, measured on the grid, saved, resumed, exported as a directory."""

import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import completions, ensemble, follower
from experiments.harness.arms import Arm
from experiments.harness.errors import Diverged
from experiments.harness.measure import Measurement, concatenate
from experiments.harness.session import Session
from experiments.post_train_hf import packed
from jaxpost import models, processes, tasks, training
from jaxpost.checkpoint import Checkpoints
from jaxpost.models import hf
from jaxpost.models.hf_adapter import inexpressible, save_adapter
from jaxpost.probes import policy
from jaxpost.records import Bundle, select
from jaxpost.tasks import text, text_data
from jaxpost.training import metrics, split


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The base of all arms."""

    params: dict
    digest: str


@dataclasses.dataclass(frozen=True)
class Run:
    """One seed of an arm."""

    arm: Arm
    seed: int
    directory: Path  # of the bundle

    @property
    def block(self) -> ensemble.Block:
        """Where its checkpoints are, and how its shards are named."""
        return ensemble.Block(self.arm.name, self.seed, 1, self.directory / "base-0" / "arms" / self.arm.name
                              / f"seeds-{self.seed}-{self.seed}")

    @property
    def export(self) -> Path:
        """The tuned policy as a Hugging Face directory; it exists when the run is finished."""
        return self.directory / "policies" / f"{self.arm.name}-seed-{self.seed}"

    @property
    def best(self) -> Path:
        """The same of the measured step with the largest success on the evaluation set, where `export.best` asks for it."""
        return self.export.with_name(f"{self.export.name}-best")

    @property
    def fresh(self) -> Path:
        """Where the next best is written, before it takes the place of the last one."""
        return self.best.with_name(f"{self.best.name}.new")


def adapter_of(export: Path) -> Path:
    """Where the adapters of a LoRA arm are, beside the policy that they make of the base."""
    return export.with_name(f"{export.name}-adapter")


class TextMeasurement(Measurement):
    """The weight probes, and policy statistics with a verifier on the host."""

    def __init__(self, base: Loaded, setup, bundle: Bundle, telemetry):
        super().__init__(base, setup.model, setup.probes, batch=setup.probe_batch, mesh=setup.mesh, bundle=bundle,
                         directory=bundle.path / "series")
        self._telemetry, self._count = telemetry, setup.config.measure.completions
        self.suite, self._others, self._general, self._drawn = setup.suite, setup.others, setup.general, {}
        self._guesses = {suite.label: suite.task.guess(suite.label) for suite in (setup.suite, *setup.others)}

    def __call__(self, arm: Arm, step: int, seeds: Sequence[int], params_S: dict, history, carried_S=None) -> dict:
        """Columns of one seed."""
        measured = super().__call__(arm, step, seeds, params_S, history, carried_S)
        params = jax.tree.map(lambda x: x[0], params_S)
        return concatenate(measured, self._policy(arm.name, step, seeds[0], params))

    def base_rows(self, seeds: Sequence[int]) -> dict:
        """What the base does with each seed's sampling noise."""
        return concatenate(*(self._policy("base", 0, seed, self.base.params) for seed in seeds))

    def _policy(self, arm: str, step: int, seed: int, params: dict) -> dict:
        began, key = time.monotonic(), training.stream(seed, "evaluate", 0)
        if seed not in self._drawn:
            self._drawn = {seed: self.suite.samples(self.base.params, key)}
        made = self.suite.samples(params, key)
        values = self.suite.measure(params, self.base.params, self._drawn[seed], key, made)
        values |= {f"success/{suite.label}": suite.reward(suite.samples(params, key)) for suite in self._others}
        values |= {} if self._general is None else self._general.measure(params, self.base.params)
        self._keep_answers(arm, step, seed, made)
        self._cost(_NAMED, arm, step, wall_s=time.monotonic() - began)
        return policy.finalize({name: [x] for name, x in values.items()}, arm=arm, step=step, seeds=[seed],
                               conditional_on=self.base.digest, guesses=self._guesses)

    def _keep_answers(self, arm: str, step: int, seed: int, made: Sequence[models.Completions]) -> None:
        """The answers to the first problems, of those that were evaluated anyway."""
        suite, rows = self.suite, []
        first = made[0]
        tokens_NxT, logp_NxT, mask_NxT = processes.whole((first.tokens_NxT, first.logp_NxT, first.mask_NxT))
        count = min(self._count, len(tokens_NxT))
        score_N = text.reward(suite.task, suite.decode, suite.problems[:count], tokens_NxT[:count])
        for i in range(count):
            length = int(mask_NxT[i].sum())
            ended = np.flatnonzero(np.asarray(tasks.ends(tokens_NxT[i], suite.task.ends)))
            prompt = [int(t) for t in np.asarray(suite.rows_N.prompt_P[i]) if t != suite.task.pad]
            rows.append({"seed": seed, "split": suite.label, "problem": i, "prompt": suite.decode(prompt),
                         "answer": suite.decode([int(t) for t in tokens_NxT[i][:ended[0] if len(ended) else length]]),
                         "reward": float(score_N[i]), "parts": None, "logp": float(logp_NxT[i].sum()), "tokens": length,
                         "finished": bool(len(ended))})
        completions.keep(self.bundle, self._telemetry, rows, arm, step)


@dataclasses.dataclass(frozen=True)
class _Named:
    id: str = "policy"


_NAMED = _Named()


def carry_out(run: Run, setup, base: Loaded, measure: TextMeasurement, bundle: Bundle, session: Session) -> None:
    """Train a run to its end and export it, unless it was; checkpoints go when the export is there.

    Raises:
      Diverged: a loss that is not finite; the last checkpoint and all rows before stay.
      Stopped: a signal came; saved at this boundary.
    """
    if not processes.agreed(run.export.is_dir):
        state = _trained(run, setup, base, measure, bundle, session)
        _save(run, run.export, setup, state)
    _remove(run.fresh)
    processes.agreed(lambda: _empty(run.block.directory), follower.ERRORS)  # the directory itself says that the seed was run


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _trained(run: Run, setup, base: Loaded, measure: TextMeasurement, bundle: Bundle, session: Session):
    """The state at the last step. Raises: as `carry_out`."""
    arm, fresh = run.arm, run.arm.source.curriculum.init(jax.random.key(0))
    trainable = None if arm.trainable is None else arm.trainable(base.params, run.seed + arm.offset)
    with Checkpoints(run.block.directory, say=ensemble.telling(session, bundle, arm.name)) as saves:
        plan = ensemble.Plan(base, "", setup.grid, 0, 0.0, setup.mesh, measure)
        if (latest := ensemble.resumable(saves, arm.name, run.block, plan, bundle, session)) is not None:
            state = saves.restore(latest[0], split.abstract(arm.spec, base.params, fresh, setup.mesh, trainable))
            session.say(f"{arm.name}, seed {run.seed}: resuming at step {latest[0]}")
        else:
            state = split.start(arm.spec, base.params, fresh, setup.mesh, trainable)
        return _segments(run, setup, base, state, measure, bundle, session, saves)


def _segments(run: Run, setup, base, state, measure, bundle, session, saves) -> training.TrainState:
    arm, block, last = run.arm, run.block, setup.grid[-1]
    advance, step, saved = stepper(run, setup, base), int(state.step), time.monotonic()
    session.phase(f"{arm.name}, seed {run.seed}", last, step)
    for target in [b for b in ensemble.boundaries(setup.grid, setup.config.train.steps_per_call) if b > step]:
        began, told = time.monotonic(), []
        for t in range(step, target):
            state, seen = advance(state, t)
            told.append(seen)
        history = metrics.compute(jax.tree.map(lambda *x: np.stack(x)[None], *processes.whole(told)))
        _require_finite(run, step, history, saves)
        seconds, steps, step = time.monotonic() - began, target - step, target
        scalars = {name: float(x[0, -1]) for name, x in history.items() if x.ndim == 2}  # others: a value a tensor
        bundle.event(arm.name, step, seed=run.seed, **scalars)
        session.telemetry.steps(arm.name, [run.seed], step - steps, history)
        bundle.cost("train", arm=f"{arm.name}-seed-{run.seed}", step=step, wall_s=seconds)
        if step in setup.grid and not bundle.sealed_rows(block.shard("", step)):
            params_S = jax.tree.map(lambda x: x[None], state.params)
            carried_S = jax.tree.map(lambda x: x[None], state.probe_state)
            columns = measure(arm, step, [run.seed], params_S, history, carried_S)
            bundle.write_rows(block.shard("", step), columns)
            session.telemetry.measured(arm.name, step, columns)
        if step in setup.grid and setup.config.export.best:
            _keep_best(run, setup, state, bundle)
        due = session.look(time.monotonic() - saved > setup.config.checkpoint.every_seconds)
        if step == last or session.stopping or due:
            saves.save(step, state, {"seeds": [run.seed], "arm": arm.name})
            saved = time.monotonic()
        session.advance(steps, note=f"{history['loss_tokens'].sum() / seconds:,.0f} tokens/s")
        if session.stopping:
            saves.wait()
            session.boundary(f"{arm.name}, seed {run.seed} is saved at step {step}")
    session.telemetry.ended(arm.name, [run.seed])
    return state


def _save(run: Run, path: Path, setup, state: training.TrainState) -> None:
    """The policy, without a critic's head, after its adapters: where it is, they are, unless they are `inexpressible`."""
    base, dtype, tuned = setup.config.model.directory, setup.config.export.dtype, run.arm.trainable
    _remove(path)
    if tuned and tuned.name == "lora" and not inexpressible(setup.model, tuned.modules):
        adapter = state.trainable
        save_adapter(adapter_of(path), setup.model, adapter.factors, float(adapter.scale), base=base, dtype=dtype)
    policy = {name: x for name, x in state.params.items() if name != "value"}
    hf.save(path, setup.model, policy, like=base, dtype=dtype)


def _remove(path: Path) -> None:
    """Take an unfinished export away, with its adapters."""
    for place in (path, adapter_of(path)):
        processes.agreed(lambda place=place: shutil.rmtree(place, ignore_errors=True), follower.ERRORS)


def _keep_best(run: Run, setup, state: training.TrainState, bundle: Bundle) -> None:
    """Export a measured step whose success on the evaluation set is above that of every measured step before."""
    rows = select(follower.read_rows(bundle), metric="policy.success", role="seed", arm=run.arm.name, seed=run.seed,
                  split=setup.suite.label)
    success = dict(zip(rows["step"].to_pylist(), rows["value"].to_pylist()))
    step = int(state.step)
    if success[step] > max((value for at, value in success.items() if at < step), default=-1.0):
        _save(run, run.fresh, setup, state)
        processes.agreed(lambda: _replace(run.best, run.fresh), follower.ERRORS)
        bundle.event(run.arm.name, step, seed=run.seed, best_success=success[step])


def _replace(path: Path, fresh: Path) -> None:
    for old, new in ((path, fresh), (adapter_of(path), adapter_of(fresh))):
        if new.is_dir():
            shutil.rmtree(old, ignore_errors=True)
            new.rename(old)


def stepper(run: Run, setup, base: Loaded):
    """(state, step) -> (state, metrics of the step): the arm's split step on the step's own range of the data."""
    arm, data, task = run.arm, setup.train, setup.task
    rows, group = arm.source.rows, arm.spec.group
    rl = isinstance(arm.source, training.Rollouts)
    programs = split.programs(task, arm.spec, arm.source if rl else None, setup.mesh)
    member = training.Member(jnp.uint32(run.seed + arm.offset), arm.scalars)
    order, count = text_data.Order(len(data), run.seed + arm.offset), setup.packed.get(arm.name)
    own = split.local(count or rows, setup.mesh)
    reference = base.params if arm.source.needs_reference else None

    def verify(rows_N, tokens_NxT):
        return text.reward(task, setup.tokenizer.decode, [data.problems[i] for i in rows_N.index], tokens_NxT)

    def advance(state, step):
        index_N = np.repeat(order.take(step, rows // group), group)
        if count:
            return split.supervised_step(programs, member, state, reference, packed.made(arm, setup, index_N, own))
        problems_N = text.rows(data, index_N[own])
        if not rl:
            return split.supervised_step(programs, member, state, reference, problems_N)
        return split.rl_step(programs, member, state, reference, problems_N, verify)

    return advance


def _require_finite(run: Run, before: int, history: dict, saves: Checkpoints) -> None:
    """Raises: Diverged at the first step whose gradient is not finite."""
    bad = np.flatnonzero(~np.isfinite(history["grad_norm"][0]))
    if not len(bad):
        return
    saves.wait()
    latest = saves.latest()
    kept = f"the checkpoint of step {latest[0]}" if latest else "no checkpoint of this run (none was due yet)"
    raise Diverged(f"arm {run.arm.name}, seed {run.seed}: the loss is not finite at step {before + int(bad[0]) + 1} (learning "
                   f"rate {run.arm.scalars.learning_rate:g}); kept: {kept} and all rows before; lower "
                   f"--config.{run.arm.rate_key} and start a new run")
