"""Measuring the seeds of an arm at a step: one compiled program a probe, rows out. Training never sees it (sidecar lane)."""

import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from safetensors.numpy import load, save

from experiments.harness import follower
from experiments.harness.arms import Arm
from experiments.harness.base_model import Base
from jaxpost import models, probes, processes, sharding, training
from jaxpost.probes import weights
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.records import Bundle, digests, row_ids, select


def infos(config: models.TransformerConfig) -> list[weights.TensorInfo]:
    """The inventory of 2-D weights."""
    shapes = jax.eval_shape(lambda: models.matrices(models.init(config, jax.random.key(0)), config))
    out = []
    for name, shape in shapes.items():
        parts = name.split("/")
        kind = parts[-1].removeprefix("shared_")  # of the expert that every token takes
        out.append(weights.TensorInfo(name, kind, int(parts[1]) if parts[0] == "layers" else None, shape.shape))
    return out


def reference_shapes(probe: probes.Probe, ctx: probes.Context, key: jax.Array):
    """Shapes of what a probe's `init` makes of a context of shapes; None where values decide.

    Raises:
      ValueError: settings that do not fit the context.
    """
    try:
        return jax.eval_shape(probe.init, ctx, key)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
        return None


def concatenate(*columns: dict) -> dict:
    """Columns of several row sets in one; what one lacks is null there."""
    names = dict.fromkeys(name for c in columns for name in c)
    sizes = [len(next(iter(c.values()))) for c in columns]
    return {name: [x for c, n in zip(columns, sizes) for x in (list(c[name]) if name in c else [None] * n)]
            for name in names}


def grid(steps: int, points: int) -> tuple[int, ...]:
    """About `points` log-spaced steps from 1 to the last."""
    return tuple(sorted({int(round(s)) for s in np.geomspace(1, steps, points)}))


class Measurement:
    """A set of probes against one base.

    Args:
      chosen: the probes; of several with one id the first makes the references that all of them read.
      batch: the probe batch, where a probe needs one.
      bundle: where costs go; prefix: of its shards. Trajectories wait in `directory` until an arm is finished.
    """

    def __init__(self, base: Base, model: models.TransformerConfig, measured: Sequence[probes.Probe], *, batch=None, mesh=None,
                 bundle: Bundle | None = None, directory: Path | None = None, prefix: str = ""):
        self.base, self.model, self.probes, self.mesh = base, model, tuple(measured), mesh
        self.bundle, self.directory, self.prefix = bundle, directory, prefix
        self.infos = infos(model)
        self.base_weights = models.matrices(base.params, model)
        self._shared = {probes.WEIGHTS0: self.base_weights, probes.PARAMS0: base.params}
        if batch is not None:
            self._shared[probes.PROBE_BATCH] = batch
        own = {probes.WEIGHTS: self.base_weights, probes.PARAMS: base.params}
        self._states = {}
        for probe in self.probes:
            if probe.id not in self._states and probe.lane != "inline":
                ctx = probes.Context({need: x for need, x in {**self._shared, **own}.items() if need in probe.needs})
                self._states[probe.id] = probe.init(ctx, training.stream(0, "nulls", 0))
        self._seen = set()

    def named(self, name: str) -> probes.Probe:
        """The last probe of an id: of several settings the cheapest."""
        return [probe for probe in self.probes if probe.id == name][-1]

    def __call__(self, arm: Arm, step: int, seeds: Sequence[int], params_S: dict, history: Mapping,
                 carried_S: Mapping | None = None) -> dict:
        """Columns of every probe that is due at a step, of every seed; what trajectories need is kept.

        Args:
          history: metrics of the steps since the last measurement, [S, steps].
          carried_S: the train state's `probe_state`, item -> pytree.
        """
        due = [probe for probe in self.probes if probe.schedule(step) and (not arm.probes or probe.id in arm.probes)
               and (step > 0 or _of_parameters(probe))]
        policy_S = {name: x for name, x in params_S.items() if name in self.base.params}  # without a critic's head
        given = self._given(due, policy_S, carried_S)
        parts = []
        for probe in due:
            values = self._values(probe, given, seeds, step, history, arm.name)
            self._keep(probe, values, arm.name, step, seeds)
            parts.append(self._rows(probe, values, arm.name, step, seeds))
        return concatenate(*parts)

    def standing(self, arm: str, seeds: Sequence[int], params_S: dict) -> list[dict]:
        """Columns at step 0 of what can be read from parameters [S, ...] that no step has led to, such as an average."""
        alone = [self.named(name) for name in dict.fromkeys(probe.id for probe in self.probes)]
        return [self.rows(probe, arm, 0, seeds, params_S) for probe in alone if _of_parameters(probe)]

    def rows(self, probe: probes.Probe, arm: str, step: int, seeds: Sequence[int], params_S: dict) -> dict:
        """Columns of one probe on any parameters [S, ...]."""
        return self._rows(probe, self.values(probe, step, seeds, params_S), arm, step, seeds)

    def values(self, probe: probes.Probe, step: int, seeds: Sequence[int], params_S: dict) -> dict:
        """Values of one probe on any parameters, leading axis S."""
        return self._values(probe, self._given([probe], params_S), seeds, step, {})

    def base_values(self, probe: probes.Probe, seeds: Sequence[int]) -> dict:
        """Values of the base itself, with the random key of each seed."""
        same_S = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(seeds), *x.shape)), self.base.params)
        return self._values(probe, self._given([probe], same_S), seeds, 0, {}, "base")

    def base_rows(self, seeds: Sequence[int]) -> dict:
        """What the base itself does, as arm "base" at step 0: rows of the probes that say so by `at_base`."""
        return concatenate(*(self._rows(probe, self.base_values(probe, seeds), "base", 0, seeds)
                             for probe in self.probes if getattr(probe, "at_base", False)))

    def matrices(self, params_S: dict) -> dict[str, jax.Array]:
        """Every 2-D weight by name, [S, m, n], upcast to float32 (exact for bf16 masters)."""
        return _matrix_program(self.model)(params_S)

    def finish(self, arm: str, seeds: Sequence[int]) -> None:
        """An arm is finished: its trajectories go into the bundle's arrays, the statistics across steps into its rows."""
        if not processes.first():
            return
        parts = []
        for name in dict.fromkeys(probe.id for probe in self.probes if hasattr(probe, "arrays")):
            series = _series(self.directory, f"{name}-{arm}")
            if not series:
                continue
            flat = {f"{step}/{key}": x for step, arrays in series.items() for key, x in arrays.items()}
            self.bundle.write_arrays(f"{self.prefix}{name}-{arm}", flat)
            probe = next(probe for probe in self.probes if probe.id == name)
            if hasattr(probe, "across"):
                parts.append(probe.across(series, infos=self._infos(probe), arm=arm, seeds=seeds,
                                          conditional_on=self.base.digest, row_ids=row_ids))
        if parts:
            shard = f"{self.prefix}across-{arm}"
            fresh = _without(concatenate(*parts), self.bundle.read_rows(exclude=(shard,)))
            if fresh["metric"]:
                self.bundle.write_rows(shard, fresh)

    def damaged(self, arm: str, step: int, seeds: Sequence[int]) -> bool:
        """Whether something that was kept of these seeds at a step for the end of the arm is not what was written."""
        if self.directory is None:
            return False
        kept = [self.directory / f"{probe.id}-{arm}" / f"{step}-{seeds[0]}.safetensors" for probe in self.probes]
        return any(path.exists() and not digests.sound(path) for path in kept)

    def _given(self, due: Sequence[probes.Probe], params_S: dict, carried_S: Mapping | None = None) -> dict[probes.Need, dict]:
        """Every need that differs from seed to seed, computed once for all probes."""
        wanted = probes.merge_needs(due)
        make = {probes.WEIGHTS: self.matrices, probes.PARAMS: _upcast}
        given = {need: call(params_S) for need, call in make.items() if need in wanted}
        return given | {need: carried_S[dict(need.params)["item"]] for need in wanted if need.kind == "probe_state"}

    def _values(self, probe, given, seeds, step, history, arm=None) -> dict:
        if probe.lane == "inline":
            return dict(history)
        own, shared = (probes.Context({need: x for need, x in source.items() if need in probe.needs})
                       for source in (given, self._shared))
        arguments = ((own, jnp.asarray(seeds, jnp.uint32)), shared, self._states[probe.id], jnp.int32(step))
        call, key = program(probe, self.mesh), (probe, len(seeds))
        with sharding.on_mesh(self.mesh):
            if key not in self._seen:
                began = time.monotonic()
                call.lower(*arguments).compile()
                self._cost(probe, arm, step, compile_s=time.monotonic() - began)
                self._seen.add(key)
            began = time.monotonic()
            values = processes.whole(call(*arguments))
            self._cost(probe, arm, step, wall_s=time.monotonic() - began)
        return values

    def _cost(self, probe, arm, step, **quantities) -> None:
        if self.bundle is not None and arm is not None:
            self.bundle.cost(f"probe.{probe.id}", arm=f"{self.prefix}{arm}", step=step, **quantities)

    def _infos(self, probe) -> list[weights.TensorInfo]:
        return self.infos if probe.needs & {probes.WEIGHTS, probes.WEIGHTS0} else gradient_sums.inventory(self.base.params)

    def _rows(self, probe, values, arm, step, seeds) -> dict:
        return probe.finalize(values, self._states.get(probe.id), infos=self._infos(probe), arm=arm, step=step, seeds=seeds,
                              conditional_on=self.base.digest, row_ids=row_ids)

    def _keep(self, probe, values, arm, step, seeds) -> None:
        if processes.first() and hasattr(probe, "arrays") and (kept := probe.arrays(values)):
            path = self.directory / f"{probe.id}-{arm}" / f"{step}-{seeds[0]}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            data = save({name: np.ascontiguousarray(x) for name, x in kept.items()})
            digests.write(path, lambda temporary: temporary.write_bytes(data))


def _series(directory: Path, name: str) -> dict[int, dict[str, np.ndarray]]:
    """{step: arrays of all seeds, in seed order}, steps ascending."""
    by_step: dict[int, list] = {}
    for path in (directory / name).glob("*.safetensors"):
        step, first = map(int, path.stem.split("-"))
        by_step.setdefault(step, []).append((first, path))
    read = {step: [load(digests.read(path)) for _, path in sorted(parts)] for step, parts in sorted(by_step.items())}
    return {step: {key: np.concatenate([part[key] for part in parts]) for key in parts[0]} for step, parts in read.items()}


def _of_parameters(probe: probes.Probe) -> bool:
    """Whether a probe reads parameters that no step has led to: not the steps of a run, nor what a train state carries."""
    return probe.lane != "inline" and all(need.kind != "probe_state" for need in probe.needs)


def _without(columns: dict, table: pa.Table) -> dict:
    """Columns without the rows that a table has: those of finished seeds, when seeds were added."""
    have = set(table["row_id"].to_pylist())
    keep = [i for i, name in enumerate(row_ids(columns)) if name not in have]
    return {name: [values[i] for i in keep] for name, values in columns.items()}


def unmeasured(bundle: Bundle, arm: str, base: str, seeds: Sequence[int]) -> list[int]:
    """The seeds of which the bundle has no rows of an arm at step 0."""
    rows = select(follower.read_rows(bundle), arm=arm, step=0, conditional_on=base, role="seed")
    return sorted(set(seeds) - set(rows["seed"].to_pylist()))


def write_base_rows(bundle: Bundle, prefix: str, measure: Measurement, seeds: Sequence[int]) -> None:
    """What the base does with each seed's sampling noise, for the seeds that do not have it yet."""
    if missing := unmeasured(bundle, "base", measure.base.digest, seeds):
        bundle.write_rows(f"{prefix}base-seeds-{missing[0]}-{missing[-1]}", measure.base_rows(missing))


@jax.jit
def _upcast(params: dict) -> dict:
    return jax.tree.map(lambda w: w.astype(jnp.float32), params)


@functools.cache
def _matrix_program(model):
    return jax.jit(jax.vmap(lambda params: _upcast(models.matrices(params, model))))


@functools.cache
def program(probe: probes.Probe, mesh):
    """jit of ((context, seed) of every seed, shared context, state, step) -> values of every seed."""
    fixed = getattr(probe, "stream", None)

    def one(member, shared, state, step):
        own, seed = member
        key = training.stream(seed, fixed or f"probe/{probe.id}", 0 if fixed else step)
        return probe.measure(probes.Context({**own.given, **shared.given}), state, key)[1]

    return jax.jit(sharding.map_members(one, mesh, whole=True))
