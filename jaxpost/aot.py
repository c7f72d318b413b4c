"""Compile a step for a TPU topology on a machine without one: the memory, FLOPs and collectives it would take.

    mesh = sharding.make_mesh({"data": 2, "fsdp": 4, "tensor": 2}, devices=aot.devices("v5e:4x4"))
    program, arguments = aot.step_program(source, spec, mesh)
    aot.report(program, arguments, mesh)

Needs the package `libtpu` (extra `tpu`), no TPU. Start Python with JAX_PLATFORMS=cpu, so that it is not taken for one.
"""

import contextlib
import math
import os
import re
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpost import hlo, models, sharding, training
from jaxpost.models import TransformerConfig
from jaxpost.training.needs import source_of

LOCK = "/tmp/libtpu_lockfile"  # libtpu's own, held while a process has it loaded
# Slices by the names under which they are rented: those of v4 and v5p count two cores a chip, the others chips.
SLICES = {"v5e-1": "v5e:2x2", "v5e-4": "v5e:2x2", "v5e-8": "v5e:2x4", "v5e-16": "v5e:4x4", "v5e-32": "v5e:4x8",
          "v5e-64": "v5e:8x8", "v5e-128": "v5e:8x16", "v5e-256": "v5e:16x16", "v5p-8": "v5p:2x2x1", "v5p-16": "v5p:2x2x2",
          "v5p-32": "v5p:2x2x4", "v5p-64": "v5p:2x4x4", "v5p-128": "v5p:4x4x4", "v5p-256": "v5p:4x4x8", "v6e-4": "v6e:2x2",
          "v6e-8": "v6e:2x4", "v6e-16": "v6e:4x4", "v6e-64": "v6e:8x8", "v6e-256": "v6e:16x16"}
# Memory of a chip that programs may use, GiB: what the compiler itself allows (libtpu 0.0.42).
USABLE_GIB = {"TPU v5 lite": 15.75, "TPU v5": 95.74, "TPU v6 lite": 31.25}
_TOO_LARGE = re.compile(r"(?:Used |required for .*\()([\d.]+)([KMGT])(?: of |\) exceeds available HBM \()([\d.]+)([KMGT])")


class DoesNotFit(ValueError):
    """The compiler found no way to hold a program in the memory of a chip; `.used` and `.usable` are bytes."""

    def __init__(self, used: int, usable: int):
        self.used, self.usable = used, usable
        super().__init__(f"it takes at least {used / 2**30:.2f} GiB of the {usable / 2**30:.2f} GiB of a chip")


class TopologyUnavailable(ValueError):
    """libtpu did not answer; says nothing about the topology."""


def devices(topology: str) -> list:
    """The abstract devices of a TPU topology such as "v5e:4x4", "v5p:2x2x2" or "v6e:4x4", or of a slice such as "v5e-16".

    Raises:
      ImportError: libtpu is not installed.
      ValueError: libtpu does not know the topology.
      TopologyUnavailable: libtpu cannot be asked now: another process has it.
    """
    try:
        import libtpu  # noqa: F401, optional: the TPU compiler
    except ImportError as error:
        raise ImportError("compiling for a TPU needs libtpu: pip install 'jaxpost[tpu]'") from error
    first = topology == "v5e-1"
    topology = SLICES.get(topology, topology)
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # or libtpu asks a metadata server that is not there
    try:
        chips = list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
        return chips[:1] if first else chips  # libtpu names no topology of one chip
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if "lockfile" in reason or "already in use" in reason:  # libtpu's own words advise to remove the lock; nobody should
            raise TopologyUnavailable(f"libtpu is in use: {_holder()} holds its lock {LOCK}, and one process at a time may "
                                      f"load it; whether {topology!r} is known was not asked: run this again when that process "
                                      "has ended (the lock goes with it)") from error
        if "INVALID_ARGUMENT" in reason:
            raise ValueError(f"topology {topology!r} is not known to libtpu; write it like 'v5e:4x4', or as a slice "
                             f"such as v5e-16 ({reason})") from error
        raise TopologyUnavailable(f"libtpu could not be asked for topology {topology!r} ({reason[:200]})") from error


def _holder() -> str:
    """The process that has libtpu's lock open, where this user may see it."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(link) == LOCK and (pid := link.parts[2]) != str(os.getpid()):
                return f"process {pid} ({(Path('/proc') / pid / 'comm').read_text().strip()})"
    return "another process"


def _shapes(tree, shardings):
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def _state(source, spec: training.StepSpec) -> training.TrainState:
    return jax.eval_shape(lambda: training.create(spec, models.init(spec.model, jax.random.key(0)),
                                                  source.curriculum.init(jax.random.key(0))))


def _policy(tree: dict) -> dict:
    """Without the value head: a reference policy has none."""
    return {name: part for name, part in tree.items() if name != "value"}


def _member() -> training.Member:
    scalars = training.Scalars(jnp.float32(0), jnp.float32(0), jnp.bool_(False))
    return jax.eval_shape(lambda: training.Member(jnp.uint32(0), scalars))


def step_program(source, spec: training.StepSpec, mesh: Mesh):
    """(jit of one step of a single run, its abstract arguments): the state is laid out by the rules and stays so.

    Args:
      source: makes the batch (of `training.source`).
      spec: the step.
      mesh: of real or abstract devices; every axis but `ensemble` may be used.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    table = models.parameter_table(spec.model)
    layout = sharding.parameter_shardings(table, mesh)
    state, member = _state(source, spec), _member()
    placed = sharding.like_parameters(state, table, mesh)
    reference = _shapes(_policy(state.params), _policy(layout)) if source.needs_reference else None
    program = jax.jit(lambda member, state, reference: training.one_step(source, spec, member, state, reference),
                      donate_argnums=1, out_shardings=(placed, whole))
    return program, (_shapes(member, jax.tree.map(lambda _: whole, member)), _shapes(state, placed), reference)


def ensemble_program(source, spec: training.StepSpec, mesh: Mesh | None, members: int, capacity: int = 64,
                     state: training.TrainState | None = None, member: training.Member | None = None):
    """(the segment program of an ensemble, its abstract arguments): members are split over the mesh axis `ensemble`, each is
    laid out by the rules. Without a mesh everything is on one device.

    Args:
      state, member: of one member, in shapes, where they are not those of a fresh run that trains everything.
    """
    state = _state(source, spec) if state is None else state
    own = [stacked(tree, spec.model, members, mesh) for tree in (state, _member() if member is None else member)]
    reference = replicated(_policy(state.params), mesh) if source.needs_reference else None
    steps = replicated(jax.ShapeDtypeStruct((), jnp.int32), mesh)
    return training.segment_program(source, spec, capacity, mesh), (*own, steps, reference)


def replicated(tree, mesh: Mesh | None):
    """ShapeDtypeStructs of a tree, whole on every device."""
    place = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), jax.eval_shape(lambda: tree))


def stacked(tree, model: TransformerConfig, count: int, mesh: Mesh | None):
    """ShapeDtypeStructs of `count` trees, each with parts built like the parameters, one behind the other."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), tree)
    return shapes if mesh is None else _shapes(shapes, sharding.member_shardings(shapes, models.parameter_table(model), mesh))


def forward_flops(c: TransformerConfig, tokens: int, keys: int, logits: int) -> int:
    """2 per weight and token, 4 HE per token, key and layer (dense scores, no causal discount); norms not counted.

    Of a mixture of experts all experts count where all are executed (`expert_products="dense"`), else those of a token.
    """
    HE, KE = c.heads * c.head_dim, c.kv_heads * c.head_dim
    executed = c.experts_per_token if c.expert_products == "grouped" else c.experts
    hidden = executed * c.ff + c.shared_ff if c.experts else c.ff
    layer = 2 * (c.width * (2 * HE + 2 * KE + c.experts) + 3 * c.width * hidden) + 4 * HE * keys
    return tokens * c.layers * layer + logits * 2 * c.width * c.vocab


def step_flops(source, spec: training.StepSpec) -> int:
    """FLOPs of one step of one run: sampling and `update_flops`.

    Greedy answers are sampled too; of a second pass every round is counted with all the groups that it may draw again.
    """
    (P, T), rows = source.lengths, source.sampled
    if getattr(source, "needs_greedy", False):
        rows += source.oversample * source.prompts
    if (second := getattr(source, "second", None)) is not None:
        rows += len(second.shares) * spec.group * (second.capacity or source.oversample * source.prompts)
    return update_flops(source, spec) + (sampling_flops(spec.model, rows, P, T) if rows else 0)


def update_flops(source, spec: training.StepSpec) -> int:
    """FLOPs of a step after its rows are there: the forward passes that fill the batch, every epoch's updates on it.

    What is computed again for the gradient (`model.remat`, `model.logprob_chunk`) is not counted: it is no more useful work. An
    update's forward and backward are 3 forward passes, and one more where it reads the reference's logits; 3 more where the
    policy reads its own guesses, and 3 over the prompt alone where its tokens are in the loss.
    """
    (P, T), needs = source.lengths, spec.objective.needs
    outside = {"Demonstrations": 1, "Preferences": 2, "Rollouts": 0}[source_of(spec.objective)]
    filled = ("reference" in needs) + bool(needs & {"proximal", "value", "entropy", "collision"})
    filled += outside * ("outside" in needs)
    passes = filled + spec.epochs * (3 + ("reference_logits" in needs) + 3 * ("mixed_inputs" in needs))
    prompt = forward_flops(spec.model, source.rows * (P - 1), P - 1, source.rows * (P - 1)) if "prompt" in needs else 0
    return passes * forward_flops(spec.model, source.rows * (P + T - 1), P + T - 1, source.rows * T) + 3 * spec.epochs * prompt


def sampling_flops(c: TransformerConfig, rows: int, prompt: int, length: int) -> int:
    """FLOPs of sampling `length` tokens a row, prompt included; every token is taken to see all of the cache."""
    return forward_flops(c, rows * (prompt + length), prompt + length, rows * (length + 1))


class Compiled(NamedTuple):
    """A compiled program, the seconds that it took and the mesh that it is for."""

    program: jax.stages.Compiled
    seconds: float
    mesh: Mesh | None


def compiled(program, arguments: tuple, mesh: Mesh | None) -> Compiled:
    """Compile for a mesh (None: the default device).

    Args:
      program: of jax.jit; arguments: abstract arrays.

    Raises:
      DoesNotFit: the compiler says that a chip cannot hold it.
    """
    began = time.monotonic()
    with sharding.on_mesh(mesh), warnings.catch_warnings():
        # A cached program cannot be loaded without its TPU; it is compiled again.
        warnings.filterwarnings("ignore", message="Error reading persistent compilation cache entry")
        try:
            made = program.lower(*arguments).compile()
            return Compiled(getattr(made, "program", made), time.monotonic() - began, mesh)  # of rows that it is fed as well
        except jax.errors.JaxRuntimeError as error:
            if (too_large := _TOO_LARGE.search(str(error))) is None:
                raise
            used, usable = (float(too_large[i]) * 2 ** (10 * "_KMGT".index(too_large[i + 1])) for i in (1, 3))
            raise DoesNotFit(int(used), int(usable)) from error


def report(program, arguments: tuple, mesh: Mesh | None) -> dict:
    """`describe` of the compiled program. Raises: DoesNotFit."""
    return describe(compiled(program, arguments, mesh))


def describe(program: Compiled) -> dict:
    """What one execution takes on each chip.

    Returns:
      compile_seconds; argument_bytes, output_bytes, temporary_bytes and code_bytes a chip (donated outputs share
      their arguments' memory and are left out of output_bytes); compiler_flops a chip, where loop bodies count once;
      collectives, voting_loops and host_calls of `jaxpost.hlo`.
    """
    memory, text = program.program.memory_analysis(), program.program.as_text()
    return {"compile_seconds": program.seconds, "chips": 1 if program.mesh is None else program.mesh.size,
            "argument_bytes": memory.argument_size_in_bytes,
            "output_bytes": memory.output_size_in_bytes - memory.alias_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes, "code_bytes": memory.generated_code_size_in_bytes,
            "compiler_flops": int((program.program.cost_analysis() or {}).get("flops", 0)),
            "collectives": hlo.collectives(text), "voting_loops": hlo.voting_loops(text), "host_calls": hlo.host_calls(text)}


def shard_bytes(tree) -> int:
    """Bytes that the leaves (arrays, or ShapeDtypeStructs) take on one device, by their shardings."""
    def of(x):
        shape = x.shape if getattr(x, "sharding", None) is None else x.sharding.shard_shape(x.shape)
        return math.prod(shape) * x.dtype.itemsize

    return sum(of(x) for x in jax.tree.leaves(tree))
