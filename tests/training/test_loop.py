"""Segments and ensembles: any split of a run and any size of ensemble give the same bits."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models, objectives, sharding, tasks, training


def members(run, seeds, rate=1e-3):
    return training.stack([training.Member(jnp.uint32(s), training.Scalars(rate, 0.0, False)) for s in seeds])


def states(run, n):
    return training.stack([training.create(run.spec, run.params, {})] * n)


def params_of(tree, i):
    return jax.tree.map(lambda x: np.asarray(x[i]), tree.params)


@pytest.mark.parametrize("objective", [pytest.param("grpo", marks=pytest.mark.slow), "cross_entropy"])
def test_an_ensemble_member_is_the_single_run_bit_for_bit(feed, users_emitters, objective):
    run = feed(objective)
    program = training.segment_program(run.source, run.spec, 8)
    together, history = training.run_segment(program, states(run, 3), members(run, [1, 2, 3]), 8, None)
    alone, single = training.run_segment(program, states(run, 1), members(run, [2]), 8, None)
    chex.assert_trees_all_equal(params_of(together, 1), params_of(alone, 0))
    np.testing.assert_array_equal(history["loss"][1], single["loss"][0])
    assert not np.array_equal(together.params["head"][1], np.asarray(run.params["head"])), "nothing was learned"


def test_segments_split_anywhere_without_a_trace(make):
    run = make()
    program = training.segment_program(run.source, run.spec, 8)
    once, _ = training.run_segment(program, states(run, 2), members(run, [1, 2]), 7, None)
    split = states(run, 2)
    for n in (1, 4, 2):
        split, _ = training.run_segment(program, split, members(run, [1, 2]), n, None)
    chex.assert_trees_all_equal(once, split)


def test_the_learning_rate_is_an_argument(make):
    run = make()
    program = training.segment_program(run.source, run.spec, 8)
    before = program._cache_size()
    slow, _ = training.run_segment(program, states(run, 2), members(run, [1, 2], 1e-4), 2, None)
    fast, _ = training.run_segment(program, states(run, 2), members(run, [1, 2], 1e-2), 2, None)
    assert program._cache_size() <= before + 1
    assert not np.array_equal(slow.params["embed"], fast.params["embed"])


def test_a_kl_term_reads_the_reference(make):
    run = make("grpo", kl_place="loss", kl_coef=0.1)
    reference = jax.tree.map(lambda x: x * 0.9, run.params)
    batch = run.batch(run.member, run.state, reference)[0]
    logp = run.logp(reference, batch)
    np.testing.assert_allclose(batch.reference_NxT, logp, atol=1e-6)


def test_a_loss_that_is_not_finite_names_its_step(make):
    run = make("cross_entropy", "sft")
    program = training.segment_program(run.source, run.spec, 8)
    broken = states(run, 4)
    broken = broken._replace(params={**broken.params, "embed": jnp.asarray(broken.params["embed"]).at[1].set(jnp.nan)})
    with pytest.raises(training.NonFiniteLoss, match="step 1 of member 1"):
        training.run_segment(program, broken, members(run, range(4)), 3, None)


@pytest.mark.slow
def test_an_ensemble_over_devices_is_the_same_ensemble(make):
    run = make("cross_entropy", "sft")
    mesh = sharding.make_mesh({"ensemble": 4}, jax.devices()[:4])
    here = training.segment_program(run.source, run.spec, 8)
    there = training.segment_program(run.source, run.spec, 8, mesh)
    a, _ = training.run_segment(here, states(run, 4), members(run, range(4)), 4, None)
    b, _ = training.run_segment(there, states(run, 4), members(run, range(4)), 4, None)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-6), a.params, b.params)


@pytest.mark.parametrize("sizes", [{"ensemble": 2, "data": 2, "tensor": 2}, *(pytest.param(sizes, marks=pytest.mark.slow)
    for sizes in ({"fsdp": 2, "tensor": 2}, {"ensemble": 2, "data": 2}, {"ensemble": 2, "fsdp": 2}))])
def test_members_on_a_mixed_mesh_stay_laid_out_by_the_rules_and_learn_the_same(make, sizes):
    run = make("cross_entropy", "sft")
    mesh = sharding.make_mesh(sizes, jax.devices()[:np.prod(list(sizes.values()))])
    here = training.segment_program(run.source, run.spec, 8)
    there = training.segment_program(run.source, run.spec, 8, mesh)
    a, _ = training.run_segment(here, states(run, 4), members(run, range(4)), 3, None)
    layout = sharding.member_shardings(states(run, 4), models.parameter_table(run.spec.model), mesh)
    with sharding.on_mesh(mesh):
        b, _ = training.run_segment(there, jax.device_put(states(run, 4), layout), members(run, range(4)), 3, None)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=2e-6), a.params, b.params)
    kept = jax.tree.map(lambda x, place: x.sharding.is_equivalent_to(place, x.ndim), b.params, layout.params)
    assert all(jax.tree.leaves(kept)), kept


def test_demonstrations_mix_tasks_of_different_lengths():
    chains, addition = tasks.get("chains"), tasks.get("addition", digits=2)
    source = training.Demonstrations(((addition, 3), (chains, 2)))
    member = training.Member(jnp.uint32(0), training.Scalars(1e-3))
    state = training.TrainState(jnp.int32(4), {}, (), {}, {})
    batch = jax.jit(source.batch)(member, state, None)[0]
    assert batch.prompt_NxP.shape == (5, max(chains.prompt_len, addition.prompt_len))
    np.testing.assert_array_equal(batch.mask_NxT, batch.completion_NxT != tasks.vocab.PAD)
    assert objectives.get("cross_entropy").prepare(batch, 1) is batch
