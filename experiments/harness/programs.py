"""Every program that a run would execute, with abstract arrays: compiled to say what memory it takes, never run.

`--config.memory.report=True` prints it for the devices that are there, before step 0; `--compile_for=v5e-16` for the chips of a
TPU slice that is not there (see experiments/compile_for.py).
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from experiments.harness import measure
from experiments.harness.arms import Arm
from experiments.harness.base_model import Pretraining
from experiments.harness.errors import UserError
from jaxpost import aot, models, probes, sharding, training
from jaxpost.aot import replicated, stacked
from jaxpost.probes.updates import ever_changed

# What to change where a program does not fit.
TRAINING = "raise train.microbatches, set memory.remat to layer, lower memory.logprob_chunk, or give mesh.fsdp more chips"
SAMPLING = "lower train.prompts or the lengths in data, or give mesh.data and mesh.fsdp more chips"
EVALUATION = "lower measure.rows, or give mesh.fsdp more chips"
PROBING = "leave the probe out of measure.probes, lower measure.problems, or give mesh.fsdp more chips"


@dataclasses.dataclass(eq=False)
class Program:
    """One program of a run, compiled when it is asked for."""

    name: str
    function: Any  # of jax.jit
    arguments: tuple  # ShapeDtypeStructs, laid out
    mesh: Mesh | None  # on which it runs; None: the default device
    beside: Any = ()  # what else lies on the devices meanwhile: ShapeDtypeStructs
    flops: float = 0.0  # analytic, of one execution (of one step, where it loops over steps), on all chips; 0: not counted
    advice: str = ""  # what to change where it does not fit

    @functools.cached_property
    def compiled(self) -> aot.Compiled:
        """The program and how long it took to compile. Raises: aot.DoesNotFit."""
        return aot.compiled(self.function, self.arguments, self.mesh)


@dataclasses.dataclass(frozen=True)
class Unseen:
    """A program that depends on values, so that it cannot be compiled before they are there."""

    name: str
    why: str


def model_with(config: ConfigDict, model: models.TransformerConfig) -> models.TransformerConfig:
    """The model with what the section memory says of its passes. Raises: UserError."""
    try:
        return dataclasses.replace(model, remat=config.memory.remat, logprob_chunk=config.memory.logprob_chunk)
    except ValueError as error:
        raise UserError(str(error).replace("model.", "memory.")) from error


def by_rows(tree, mesh: Mesh | None):
    """ShapeDtypeStructs whose first axis is split as the rows of a batch."""
    def place(x):
        if mesh is None:
            return x
        axes = ("batch", *(None,) * (len(x.shape) - 1)) if x.shape else ()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, sharding.partition(axes, x.shape, mesh)))

    return jax.tree.map(place, tree)


def parameters(model: models.TransformerConfig, mesh: Mesh | None) -> dict:
    """float32 parameters, laid out by the rules."""
    table = models.parameter_table(model)
    params = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
    if mesh is None:
        return params
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), params,
                        sharding.parameter_shardings(table, mesh))


def matrices(model: models.TransformerConfig, mesh: Mesh | None, count: int | None = None) -> dict:
    """float32 matrices by name, [count, m, n] of several members, each laid out as its parameter."""
    shapes = jax.eval_shape(lambda: models.matrices(models.init(model, jax.random.key(0)), model))
    table = models.parameter_table(model)

    def place(name, x):
        kind = name.rpartition("/")[2]
        axes = (table["layers"].get(kind) or table[kind]).axes[-2:]
        lead = () if count is None else (count,)
        where = None if mesh is None else NamedSharding(mesh, PartitionSpec(*(None,) * len(lead),
                                                                            *sharding.partition(axes, x.shape, mesh)))
        return jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype, sharding=where)

    return {name: place(name, x) for name, x in shapes.items()}


def of_arms(arms: Sequence[Arm], count: int, steps_per_call: int, mesh: Mesh | None, beside: Any) -> list[Program]:
    """The program of every arm that trains in the fused loop; arms that share one are named together."""
    shared: dict[tuple, list[Arm]] = {}
    for arm in arms:
        if arm.steps:
            shared.setdefault((arm.source, arm.spec, arm.trainable is not None), []).append(arm)
    made = []
    for (source, spec, _), alike in shared.items():
        arm = alike[0]
        member = jax.eval_shape(lambda arm=arm: training.Member(jnp.uint32(0), jax.tree.map(jnp.asarray, arm.scalars)))
        program, arguments = aot.ensemble_program(source, spec, mesh, count, steps_per_call, _state(arm), member)
        name = ", ".join(other.name for other in alike)
        made.append(Program(name, program, arguments, mesh, beside, count * aot.step_flops(source, spec), TRAINING))
    return made


def of_pretraining(base: Pretraining, mesh: Mesh | None) -> list[Program]:
    """The two programs that train a base, on one of the devices of a mesh."""
    one = None if mesh is None else sharding.make_mesh({}, mesh.devices.flat[:1])
    arguments = (*(replicated(tree, one) for tree in (base.abstract(), base.members)),
                 replicated(jax.ShapeDtypeStruct((), jnp.int32), one), None)
    P, T = [max(getattr(task, name) for task in (base.task, base.second)) for name in ("prompt_len", "completion_len")]
    flops = 3 * aot.forward_flops(base.model, base.c.rows * (P + T - 1), P + T - 1, base.c.rows * T)
    return [Program(f"pretraining, {name}", program, arguments, one, flops=flops, advice="lower pretrain.rows")
            for name, program in (("second task", base.alone), ("both tasks", base.mixed))]


def _state(arm: Arm):
    """Shapes of a member's state; a mask is chosen from values, so of an arm with one a state is made."""
    params = jax.eval_shape(lambda: models.init(arm.spec.model, jax.random.key(0)))
    if arm.trainable is None:
        return jax.eval_shape(lambda p: arm.fresh(p, 0), params)
    made = arm.fresh(models.init(arm.spec.model, jax.random.key(0)), 0)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), made)


def of_probes(measured: Sequence[probes.Probe], model: models.TransformerConfig, batch: Any, count: int, mesh: Mesh | None,
              beside: Any) -> Iterator[Program | Unseen]:
    """The programs of the probes that are compiled apart, of `count` seeds at once, and of their references.

    A run makes references operation by operation; here they are one program, whose compiled layout the probe then reads.

    Args:
      batch: the probe batch, or None; beside: what else lies on the devices.
    """
    params = parameters(model, mesh)
    changed = jax.eval_shape(ever_changed.start, params)[ever_changed.ITEM]
    shared = {probes.WEIGHTS0: matrices(model, mesh), probes.PARAMS0: params}
    if batch is not None:
        shared[probes.PROBE_BATCH] = replicated(batch, mesh)
    own = {probes.WEIGHTS: matrices(model, mesh, count), probes.PARAMS: stacked(params, model, count, mesh),
           ever_changed.EVER: stacked(changed, model, count, mesh)}
    first = {probes.WEIGHTS: shared[probes.WEIGHTS0], probes.PARAMS: params}
    states = {}
    for probe in measured:
        if probe.lane == "inline":
            continue
        name = f"probe {probe.id}" + (", other settings" if probe.id in states else "")
        if probe.id not in states:
            references = _references(probe, {**shared, **first}, mesh, beside)
            if isinstance(references, Program):
                yield references
            states[probe.id] = _laid_out(references)
        state = states[probe.id]
        if isinstance(state, Unseen):
            yield state
            continue
        parts = [probes.Context({need: x for need, x in source.items() if need in probe.needs}) for source in (own, shared)]
        seeds, step = (replicated(jax.ShapeDtypeStruct(shape, dtype), mesh) for shape, dtype in (((count,), jnp.uint32),
                                                                                               ((), jnp.int32)))
        yield Program(name, measure.program(probe, mesh), ((parts[0], seeds), parts[1], state, step), mesh,
                      beside, advice=PROBING)


def _references(probe: probes.Probe, given: dict, mesh: Mesh | None, beside: Any) -> Program | Unseen | None:
    """The program of a probe's references; None where it keeps none."""
    arguments = (probes.Context({need: x for need, x in given.items() if need in probe.needs}),
                 replicated(jax.random.key(0), mesh))
    shapes = measure.reference_shapes(probe, *arguments)
    if shapes is None:
        return Unseen(f"probe {probe.id}", "its references depend on the values of the base")
    if not jax.tree.leaves(shapes):
        return None
    return Program(f"probe {probe.id}, references", jax.jit(probe.init), arguments, mesh, beside, advice=PROBING)


def _laid_out(references: Program | Unseen | None):
    """What a probe's references are like, each where the compiler put it."""
    if not isinstance(references, Program):
        return references
    try:
        compiled = references.compiled.program
    except aot.DoesNotFit:
        return Unseen(references.name.partition(",")[0], "its references do not fit")
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), compiled.out_info,
                        compiled.output_shardings)
