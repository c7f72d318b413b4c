"""The base: pretrained until it holds the second task and is partly competent at the new one, then rounded to bf16."""

import dataclasses
import hashlib
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments.harness.arms import ADAMW
from experiments.harness.errors import Diverged, UserError
from experiments.harness.session import Session
from jaxpost import models, objectives, processes, training
from jaxpost.checkpoint import CheckpointError, Checkpoints
from jaxpost.tasks import Task


@dataclasses.dataclass(frozen=True)
class Base:
    """A base model on the bf16 grid, and what was seen when it was chosen."""

    params: dict
    digest: str  # SHA-256 of its parameter bytes, 16 digits
    step: int
    success: float  # on the new task, at temperature 1
    second: float  # on the second task


def digest(params: dict) -> str:
    """The first 16 hex digits of SHA-256 over names and bytes of a parameter tree."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        sha.update(jax.tree_util.keystr(path).encode() + processes.whole(leaf).tobytes())
    return sha.hexdigest()[:16]


class Pretraining:
    """Two phases: the second task alone, then an equal mixture, checked every few steps for partial competence."""

    def __init__(self, config, model: models.TransformerConfig, task: Task, second: Task, seed: int):
        self.c, self.model, self.task, self.second, self.seed = config, model, task, second, seed
        self.spec = training.StepSpec(model, objectives.get("cross_entropy"), ADAMW)
        alone = training.Demonstrations(((second, config.rows),))
        half = config.rows // 2
        mixed = training.Demonstrations(((task, config.rows - half), (second, half)))
        self.alone = training.segment_program(alone, self.spec, 50)
        self.mixed = training.segment_program(mixed, self.spec, config.check_every)
        suite = training.Suite(model, (("new", task, "id"), ("second", second, "id")), config.problems, "new")
        self._check = jax.jit(lambda params, key: suite.success(training.bf16_grid(params), key)[0])
        self.members = training.stack([training.Member(jnp.uint32(seed), training.Scalars(config.learning_rate))])

    def fresh(self) -> training.TrainState:
        """An ensemble of one at initialisation."""
        params = models.init(self.model, training.stream(self.seed, "init", 0))
        return training.stack([training.create(self.spec, params, {})])

    def abstract(self) -> training.TrainState:
        """Shapes and dtypes of `fresh`."""
        one = jax.eval_shape(lambda: training.create(self.spec, models.init(self.model, jax.random.key(0)), {}))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), one)

    def check(self, states: training.TrainState) -> tuple[float, float]:
        """(new-task success, second-task success) of the rounded parameters."""
        params = jax.tree.map(lambda x: x[0], states.params)
        step = int(states.step[0])
        seen = self._check(params, training.stream(self.seed, "check", step))
        return tuple(processes.agreed(lambda: [float(seen["new"]), float(seen["second"])]))

    def run(self, directory: Path, session: Session, every_seconds: float) -> Base:
        """Pretrain, or take up where a killed run stopped, or read the finished base.

        Several processes pretrain alike, each by itself, and then all read the base that the first one saved.

        Raises:
          UserError: the range was jumped over or not reached; the message has what was seen.
          CheckpointError: the finished base is not what was saved.
        """
        with Checkpoints(directory / "base", say=session.say) as checkpoints:
            if (latest := checkpoints.latest()) is not None:
                params = checkpoints.restore_params(latest[0], self.abstract().params)
                params = jax.tree.map(lambda x: x[0], params)
                if (read := digest(params)) != (was := latest[1].get("digest", read)):
                    raise CheckpointError(f"the base in {directory / 'base'} is {read}, and {was} was saved there: remove that "
                                          "directory: the run then pretrains it again")
                return Base(params, read, latest[0], latest[1]["success"], latest[1]["second"])
            with Checkpoints(directory / "pretraining", say=session.say) as saves:
                base = self._search(saves, session, every_seconds)
            rounded = self.fresh()._replace(params=jax.tree.map(lambda x: x[None], base.params))
            checkpoints.save(base.step, rounded, {"success": base.success, "second": base.second, "digest": base.digest})
            checkpoints.wait()
        return self.run(directory, session, every_seconds) if processes.several() else base

    def _search(self, saves: Checkpoints, session: Session, every_seconds: float) -> Base:
        c = self.c
        states, seen, saved = self.fresh(), [], time.monotonic()
        if (latest := saves.latest()) is not None:
            states, seen = saves.restore(latest[0], self.abstract()), latest[1]["seen"]
        session.phase("pretraining", c.second_steps + c.max_steps, int(states.step[0]), early=True)
        while (step := int(states.step[0])) < c.second_steps + c.max_steps:
            alone = step < c.second_steps
            steps = min(50, c.second_steps - step) if alone else c.check_every
            began = time.monotonic()
            try:
                states, history = training.run_segment(self.alone if alone else self.mixed, states, self.members, steps, None)
            except training.NonFiniteLoss as error:
                raise Diverged(f"pretraining: seed {self.seed}: the loss is not finite at step {error.step} (learning rate "
                               f"{c.learning_rate:g}); the last checkpoint is kept; lower --config.pretrain.learning_rate and "
                               "start a new run") from error
            tokens = f"{history['loss_tokens'].sum() / (time.monotonic() - began):,.0f} tokens/s"
            if not alone:
                seen.append([step + steps, *self.check(states)])
                if (base := self._decide(states, seen)) is not None:
                    return base
            session.advance(steps, note=tokens + (f", new task {seen[-1][1]:.2f}, second {seen[-1][2]:.2f}" if seen else ""))
            due = session.look(time.monotonic() - saved > every_seconds)
            if session.stopping or due:
                saves.save(step + steps, states, {"seen": seen})
                saved = time.monotonic()
            if session.stopping:
                saves.wait()
                session.boundary(f"pretraining is saved at step {step + steps}")
        best = max(seen, key=lambda s: s[1])
        raise UserError(f"pretraining ended at step {step} with new-task success {seen[-1][1]:.2f} (best {best[1]:.2f} at step "
                        f"{best[0]}), second task {seen[-1][2]:.2f}; wanted [{c.success_low}, {c.success_high}] and >= "
                        f"{c.second_min}: raise pretrain.max_steps")

    def _decide(self, states, seen: list) -> Base | None:
        c = self.c
        step, success, second = seen[-1]
        if c.success_low <= success <= c.success_high and second >= c.second_min:
            params = training.bf16_grid(jax.tree.map(lambda x: x[0], states.params))
            return Base(params, digest(params), step, success, second)
        if success > c.success_high:
            before = seen[-2] if len(seen) > 1 else [step - c.check_every, 0.0, 0.0]
            raise UserError(
                f"pretraining passed the range [{c.success_low}, {c.success_high}]: new-task success {before[1]:.2f} at step "
                f"{before[0]}, {success:.2f} at step {step}, second task {second:.2f} (wanted >= {c.second_min}); lower "
                "pretrain.check_every, raise pretrain.second_steps, or choose another seeds.base")
        return None
