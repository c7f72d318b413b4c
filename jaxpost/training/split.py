"""The split loop: rollout and update as programs, verification and text on the host between them.

The functions are those of the fused loop (`Rollouts.answers`, `.verified`, `loop.learn`), compiled apart: with a device
verifier called on the host, parameters are the fused loop's bit for bit. Decoding ends with the last row. Every process
reads and verifies the rows that its own devices hold.

    run = split.programs(task, spec, source, mesh)
    state, metrics = split.rl_step(run, member, state, reference, rows_N, verify)
    state, metrics = split.supervised_step(run, member, state, reference, rows_N)

Shapes: N rows, B groups, P prompt and T completion tokens.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxpost import curricula, models, sharding, tasks
from jaxpost.objectives import Batch
from jaxpost.tasks import Task
from jaxpost.training import needs, packing
from jaxpost.training.loop import learn, reference_of
from jaxpost.training.planning import Planned
from jaxpost.training.rl import Rollouts
from jaxpost.training.state import Member, TrainState
from jaxpost.training.step import StepSpec, create


class Answers(NamedTuple):
    """What a rollout gives the host and the update."""

    problems_N: Any
    prompt_NxP: jax.Array
    made: models.Completions
    planned: Planned
    greedy: Any = None  # (problems_B, Completions) where the objective compares with the greedy answer


class Programs(NamedTuple):
    """Compiled functions of a split step; `mesh` says where rows lie."""

    rollout: Callable[..., Answers]
    update: Callable[..., tuple[TrainState, dict]]
    shown: Callable[..., tuple[TrainState, dict]]
    mesh: Mesh | None


@functools.cache
def programs(task: Task, spec: StepSpec, source: Rollouts | None = None, mesh: Mesh | None = None) -> Programs:
    """The programs of an arm; states are donated and keep the sharding of `start`.

    Args:
      source: of an RL arm; None where rows are demonstrations of `task`.

    Raises:
      ValueError: a source with a second pass, whose rewards the host would have to give in between.
    """
    if source is not None and source.second is not None:
        raise ValueError("a second pass draws again within a step, and here the host verifies between programs; set second to "
                         "None, or take a task whose verifier runs on device")

    def rollout(params, seed, step, curriculum_state, problems_N):
        if problems_N is None:
            problems_N, prompt_NxP, made, planned = source.rollout(params, seed, step, curriculum_state, early_stop=True)
        else:
            prompt_NxP, made = source.answers(params, seed, step, problems_N, early_stop=True)
            planned = Planned(curriculum_state, curricula.Plan(jnp.zeros(made.tokens_NxT.shape[0] // spec.group, jnp.uint32)))
        greedy = source.greedy(params, problems_N, prompt_NxP, early_stop=True) if source.needs_greedy else None
        return Answers(*sharding.constrain((problems_N, prompt_NxP, made), ("batch",)), planned,
                       sharding.constrain(greedy, ("batch",)))

    def update(state, member, reference, prompt_NxP, made, plan, reward_N, outside_B):
        reference = reference_of(spec, state, reference)
        planned = Planned(state.curriculum_state, plan)
        verified = source.verified(member, state, reference, prompt_NxP, made, planned, reward_N, outside_B)
        return kept(*learn(spec, member, state, reference, *verified, probes=source.curriculum.probes))

    def shown(state, member, reference, problems_N):
        reference = reference_of(spec, state, reference)
        packed = isinstance(problems_N, packing.Packed)
        batch = packing.batch(problems_N) if packed else demonstrated(task, problems_N)
        batch = needs.fill(spec, batch, member, state, reference)
        return kept(*learn(spec, member, state, reference, batch, {}, state.curriculum_state))

    def kept(state, measured):
        if mesh is not None:
            state = jax.lax.with_sharding_constraint(state, state_shardings(spec, state, mesh))
        return state, measured

    return Programs(jax.jit(rollout), jax.jit(update, donate_argnums=0), jax.jit(shown, donate_argnums=0), mesh)


def demonstrated(task: Task, problems_N) -> Batch:
    """Given problems with the task's answers as supervised rows; what follows the end token does not count."""
    answer_NxT = jax.vmap(lambda problem: task.oracle(problem, None))(problems_N)
    return Batch(jax.vmap(task.prompt)(problems_N), answer_NxT, tasks.through(answer_NxT, task.ends),
                 role_NxT=needs.roles_of(task, answer_NxT))


def state_shardings(spec: StepSpec, state, mesh: Mesh):
    """Where every array of a state lies: parameters and moments by the sharding rules."""
    return sharding.like_parameters(state, models.parameter_table(spec.model), mesh)


def start(spec: StepSpec, params: dict, curriculum_state: dict, mesh: Mesh | None = None, trainable=None) -> TrainState:
    """`step.create`, every array made where it stays."""
    if mesh is None:
        return create(spec, params, curriculum_state, trainable)
    places = state_shardings(spec, abstract(spec, params, curriculum_state, trainable=trainable), mesh)
    return jax.jit(functools.partial(create, spec), out_shardings=places)(params, curriculum_state, trainable)


def abstract(spec: StepSpec, params: dict, curriculum_state: dict, mesh: Mesh | None = None, trainable=None) -> TrainState:
    """Shapes, dtypes and, with a mesh, places of `start`: what a checkpoint is restored into."""
    shapes = jax.eval_shape(functools.partial(create, spec), params, curriculum_state, trainable)
    if mesh is None:
        return shapes
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes,
                        state_shardings(spec, shapes, mesh))


def rl_step(run: Programs, member: Member, state: TrainState, reference: dict | None, problems_N,
            verify: Callable[[Any, np.ndarray], np.ndarray]) -> tuple[TrainState, dict]:
    """One step: rollout, verification on the host, update.

    Args:
      problems_N: this process's rows (`local`) of the step's problems, each repeated over its group; None lets a procedural
        task draw them.
      verify: (this process's problems, their tokens) -> rewards, on the host.
    """
    with sharding.on_mesh(run.mesh):
        fed = None if problems_N is None else put(problems_N, run.mesh)
        rollout = run.rollout(state.params, member.seed, state.step, state.curriculum_state, fed)
        reward_N = put(_verified(verify, rollout.problems_N, rollout.made), run.mesh)
        outside_B = None if rollout.greedy is None else put(_verified(verify, *rollout.greedy), run.mesh)
        state = state._replace(curriculum_state=rollout.planned.state)
        return run.update(state, member, reference, rollout.prompt_NxP, rollout.made, rollout.planned.plan, reward_N, outside_B)


def _verified(verify, problems, made: models.Completions) -> np.ndarray:
    return np.asarray(verify(jax.tree.map(own, problems), own(made.tokens_NxT)), np.float32)


def supervised_step(run: Programs, member: Member, state: TrainState, reference: dict | None,
                    problems_N) -> tuple[TrainState, dict]:
    """One step on demonstrations of this process's rows of problems, or on its `packing.Packed` rows."""
    with sharding.on_mesh(run.mesh):
        return run.shown(state, member, reference, put(problems_N, run.mesh))


def row_sharding(rows: int, mesh: Mesh) -> NamedSharding:
    """Where rows lie. Raises: ValueError when two processes would hold the same rows."""
    place = NamedSharding(mesh, sharding.partition(("batch",), (rows,), mesh))
    held: dict[tuple, set[int]] = {}
    for device, index in place.devices_indices_map((rows,)).items():
        held.setdefault(index[0].indices(rows), set()).add(device.process_index)
    if shared := [index for index, owners in held.items() if len(owners) > 1]:
        raise ValueError(f"rows {shared[0][0]} to {shared[0][1] - 1} of {rows} would lie on several processes, and each "
                         "verifies its own: let mesh.data * mesh.fsdp be a multiple of the processes, and mesh.tensor stay "
                         "inside one")
    return place


def local(rows: int, mesh: Mesh | None) -> np.ndarray:
    """Indices of the rows that this process holds, ascending; all of them without a mesh."""
    if mesh is None:
        return np.arange(rows)
    rows_of = row_sharding(rows, mesh).addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[index] for index in rows_of]))


def put(tree, mesh: Mesh | None):
    """Arrays of all rows from this process's own rows, in the order of `local`."""
    if mesh is None:
        return jax.tree.map(jnp.asarray, tree)

    def leaf(x):
        x = np.asarray(x)
        rows = x.shape[0] * jax.process_count()
        return jax.make_array_from_process_local_data(row_sharding(rows, mesh), x, (rows, *x.shape[1:]))

    return jax.tree.map(leaf, tree)


def own(x) -> np.ndarray:
    """This process's rows of an array, in the order of `local`."""
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return np.asarray(x)
    parts = {shard.index[0].indices(x.shape[0])[0]: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(parts[first]) for first in sorted(parts)])
