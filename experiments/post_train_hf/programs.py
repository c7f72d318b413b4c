"""The programs of a text run: each arm's rollout and update, the sampler and the sums of the evaluation, the probes."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from experiments.harness import programs
from experiments.harness.arms import Arm
from experiments.harness.programs import EVALUATION, SAMPLING, TRAINING, Program, Unseen, by_rows
from jaxpost import aot, training
from jaxpost.aot import replicated
from jaxpost.tasks import text
from jaxpost.training import packing, split


def listed(setup) -> Iterator[Program | Unseen]:
    """Every program that the arms of a `Setup` would run but those of a few milliseconds, see `harness.programs`."""
    params, matrices = programs.parameters(setup.model, setup.mesh), programs.matrices(setup.model, setup.mesh)
    shared: dict[tuple, list[Arm]] = {}
    for arm in setup.arms:
        source = arm.source if isinstance(arm.source, training.Rollouts) else None
        shared.setdefault((source, arm.spec, arm.trainable), []).append(arm)
    state = None
    for (source, spec, trainable), alike in shared.items():
        tuned = None if trainable is None else jax.eval_shape(lambda p, trained=trainable: trained(p, 0), params)
        state = split.abstract(spec, params, alike[0].source.curriculum.init(jax.random.key(0)), setup.mesh, tuned)
        yield from _of_arm(setup, alike, source, state, params, matrices)
    moments = (state.opt_state, state.probe_state)
    yield from _of_evaluation(setup, params, (matrices, moments))
    yield from programs.of_probes(setup.probes, setup.model, setup.probe_batch, 1, setup.mesh,
                                  (state.params, moments, params, matrices))


def _of_arm(setup, alike: list[Arm], source, state, params, matrices) -> Iterator[Program]:
    arm, mesh, spec = alike[0], setup.mesh, alike[0].spec
    run = split.programs(setup.task, spec, source, mesh)
    name = ", ".join(other.name for other in alike)
    reference = params if arm.source.needs_reference else None
    base = matrices if arm.source.needs_reference else (params, matrices)
    member = replicated(training.Member(jnp.uint32(0), jax.tree.map(jnp.asarray, arm.scalars)), mesh)
    rows_N = by_rows(_rows(setup.task, arm.source.rows), mesh)
    if count := setup.packed.get(arm.name):
        shape = (count, setup.task.prompt_len + setup.task.completion_len)
        rows_N = by_rows(packing.Packed(*(jax.ShapeDtypeStruct(shape, dtype) for dtype in packing.DTYPES)), mesh)
    flops = aot.update_flops(arm.source, spec)
    if source is None:
        yield Program(f"{name}: update", run.shown, (state, member, reference, rows_N), mesh, base, flops, TRAINING)
        return
    rollout = (state.params, member.seed, state.step, state.curriculum_state, rows_N)
    yield Program(f"{name}: rollout", run.rollout, rollout, mesh, (state.opt_state, state.probe_state, params, matrices),
                  aot.sampling_flops(spec.model, source.sampled, *source.lengths), SAMPLING)
    sampled = jax.eval_shape(run.rollout, *rollout)
    reward_N = by_rows(jax.ShapeDtypeStruct(sampled.made.tokens_NxT.shape[:1], jnp.float32), mesh)
    outside_B = None if sampled.greedy is None else by_rows(
        jax.ShapeDtypeStruct(sampled.greedy[1].tokens_NxT.shape[:1], jnp.float32), mesh)
    yield Program(f"{name}: update", run.update,
                  (state, member, reference, *by_rows((sampled.prompt_NxP, sampled.made), mesh),
                   replicated(sampled.planned.plan, mesh), reward_N, outside_B), mesh, base, flops, TRAINING)


def _of_evaluation(setup, params, beside) -> Iterator[Program]:
    """Of one part of the suite's rows; parameters are read where they lie for training."""
    sample, sums = setup.suite.programs
    (P, T), R, mesh = (setup.task.prompt_len, setup.task.completion_len), setup.suite.at_a_time, setup.mesh
    prompt = by_rows(_rows(setup.task, R).prompt_P, mesh)
    arguments = (params, prompt, replicated(jax.random.key(0), mesh))
    yield Program("evaluation: samples", sample, arguments, mesh, (params, beside),
                  aot.sampling_flops(setup.model, R, P, T), EVALUATION)
    made = by_rows(jax.eval_shape(sample, *arguments), mesh)
    yield Program("evaluation: KL and entropy", sums, (params, params, prompt, made, made), mesh, beside,
                  4 * aot.forward_flops(setup.model, R * (P + T - 1), P + T - 1, R * T), EVALUATION)


def _rows(task, count: int) -> text.Row:
    shapes = ((count, task.prompt_len), (count, task.completion_len), (count,))
    return text.Row(*(jax.ShapeDtypeStruct(shape, jnp.int32) for shape in shapes))
