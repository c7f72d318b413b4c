"""Measuring the seeds of an arm at a step: one compiled program, rows out. Training never sees it (sidecar lane)."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.arms import Arm
from experiments.base_model import Base
from jaxpost import models, sharding, training
from jaxpost.probes import policy, weights
from jaxpost.records import Bundle, row_ids, select


def infos(config: models.TransformerConfig) -> list[weights.TensorInfo]:
    """The inventory of 2-D weights."""
    shapes = jax.eval_shape(lambda: models.matrices(models.init(config, jax.random.key(0)), config))
    out = []
    for name, shape in shapes.items():
        parts = name.split("/")
        out.append(weights.TensorInfo(name, parts[-1], int(parts[1]) if len(parts) == 3 else None, shape.shape))
    return out


def concatenate(*columns: dict) -> dict:
    """Columns of several row sets in one; what one lacks is null there."""
    names = dict.fromkeys(name for c in columns for name in c)
    sizes = [len(next(iter(c.values()))) for c in columns]
    return {name: [x for c, n in zip(columns, sizes) for x in (list(c[name]) if name in c else [None] * n)]
            for name in names}


def grid(steps: int, points: int) -> tuple[int, ...]:
    """About `points` log-spaced steps from 1 to the last."""
    return tuple(sorted({int(round(s)) for s in np.geomspace(1, steps, points)}))


class PolicyMeasurement:
    """What policies do on fixed problems, with one base as the reference.

    Args:
      suite: evaluation problems.
    """

    def __init__(self, base: Base, suite: training.Suite, mesh=None):
        self.base, self.suite, self.mesh = base, suite, mesh
        self.guesses = {label: task.guess(split) for label, task, split in suite.splits}

    def base_values(self, seeds: Sequence[int]) -> dict[str, np.ndarray]:
        """Value name -> [S]: what the base does with the sampling noise of each seed."""
        same_S = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(seeds), *x.shape)), self.base.params)
        return self._policy(same_S, seeds)

    def base_rows(self, seeds: Sequence[int]) -> dict:
        """What the base itself does, as arm "base" at step 0, with the sampling noise of each seed."""
        return self._policy_rows(self.base_values(seeds), "base", 0, seeds)

    def __call__(self, arm: Arm, step: int, seeds: Sequence[int], params_S: dict, history: dict) -> dict:
        """Columns of the policy statistics of every seed."""
        values = self._policy(params_S, seeds)
        values["loss_tokens"] = history["loss_tokens"].mean(axis=1)
        return self._policy_rows(values, arm.name, step, seeds)

    def _policy(self, params_S: dict, seeds: Sequence[int]) -> dict[str, np.ndarray]:
        with sharding.on_mesh(self.mesh):
            seen = _policy_program(self.suite, self.mesh)(_upcast(params_S), jnp.asarray(seeds, jnp.uint32), self.base.params)
        return {name: np.asarray(x) for name, x in seen.items()}

    def _policy_rows(self, values, arm, step, seeds) -> dict:
        return policy.finalize(values, arm=arm, step=step, seeds=seeds, conditional_on=self.base.digest,
                               guesses=self.guesses)


class Measurement(PolicyMeasurement):
    """Weight and policy statistics against one base.

    Args:
      panel: the full weight panel; grid steps before the last read its primary part.
      suite: evaluation problems.
      last: the step that gets the full panel.
    """

    def __init__(self, base: Base, model: models.TransformerConfig, panel: weights.Panel, suite: training.Suite,
                 last: int, mesh=None):
        super().__init__(base, suite, mesh)
        self.model, self.panel, self.last = model, panel, last
        self.infos = infos(model)
        self.base_weights = models.matrices(base.params, model)
        self.references = weights.prepare(panel, self.base_weights, training.stream(0, "nulls", 0))

    def __call__(self, arm: Arm, step: int, seeds: Sequence[int], params_S: dict, history: dict) -> dict:
        """Columns of every statistic of every seed."""
        panel = self.panel if step == self.last else self.panel.primary()
        of_the_policy = super().__call__(arm, step, seeds, params_S, history)
        return concatenate(self.weight_rows(panel, arm.name, step, seeds, params_S), of_the_policy)

    def matrices(self, params_S: dict) -> dict[str, jax.Array]:
        """Every 2-D weight by name, [S, m, n], upcast to float32 (exact for bf16 masters)."""
        return _matrix_program(self.model)(params_S)

    def weight_rows(self, panel: weights.Panel, arm: str, step: int, seeds: Sequence[int], params_S: dict) -> dict:
        """Columns of the weight panel alone."""
        with sharding.on_mesh(self.mesh):
            values = _weight_program(panel, self.mesh)(self.matrices(params_S), self.references)
        return weights.finalize(panel, self.infos, self.references, jax.device_get(values), arm=arm, step=step,
                                seeds=seeds, conditional_on=self.base.digest, row_ids=row_ids)


def write_base_rows(bundle: Bundle, prefix: str, measure: PolicyMeasurement, seeds: Sequence[int]) -> None:
    """What the base does with each seed's sampling noise, for the seeds that do not have it yet."""
    rows = select(bundle.read_rows(), arm="base", conditional_on=measure.base.digest)
    if missing := sorted(set(seeds) - set(rows["seed"].to_pylist())):
        bundle.write_rows(f"{prefix}base-seeds-{missing[0]}-{missing[-1]}", measure.base_rows(missing))


@jax.jit
def _upcast(params: dict) -> dict:
    return jax.tree.map(lambda w: w.astype(jnp.float32), params)


@functools.cache
def _matrix_program(model):
    return jax.jit(jax.vmap(lambda params: _upcast(models.matrices(params, model))))


@functools.cache
def _weight_program(panel, mesh):
    return jax.jit(sharding.map_members(lambda matrices, references: weights.measure(panel, references, matrices), mesh))


@functools.cache
def _policy_program(suite, mesh):
    mapped = sharding.map_members(
        lambda member, base: suite.measure(member[0], base, training.stream(member[1], "evaluate", 0)), mesh)
    return jax.jit(lambda params_S, seeds_S, base: mapped((params_S, seeds_S), base))
