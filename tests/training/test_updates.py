"""Several optimizer steps on one batch: parts in order, ratios that leave 1, refusals, exact resumption."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from jaxpost import training
from jaxpost.training import step as step_module


def scalars(rate):
    return training.Scalars(rate, 0.0, False)


@pytest.mark.parametrize("minibatches, epochs", [
    (4, 2), *(pytest.param(*parts, marks=pytest.mark.slow) for parts in ((2, 1), (1, 1), (1, 2)))])
def test_updates_take_their_rows_in_order_and_every_epoch_all_again(feed, in_float64, minibatches, epochs):
    with jax.enable_x64(True):
        run = in_float64(feed("grpo", minibatches=minibatches, epochs=epochs))
        spec, first = run.spec, run.state
        one = dataclasses.replace(spec, minibatches=1, epochs=1)
        batch = run.batch(run.member, run.state, None)[0]
        got, metrics = jax.jit(lambda s, b: training.train_step(spec, s, b, scalars(1e-2)))(first, batch)
        by_hand = jax.jit(lambda s, rows: step_module.update(one, s, one.objective.balance(rows), scalars(1e-2), None))
        prepared = jax.jit(one.objective.prepare, static_argnums=1)(batch, one.group)
        state, losses, size = first, [], 16 // minibatches
        for _ in range(epochs):
            for at in range(0, 16, size):
                state, seen = by_hand(state, prepared.where(slice(at, at + size)))
                losses.append(float(seen["loss"][0]))
        assert {x.dtype for x in jax.tree.leaves(got.params)} == {np.dtype("float64")}
        equal = np.testing.assert_array_equal if minibatches * epochs == 1 else (
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12))
        jax.tree.map(equal, got.params, state.params)
        assert int(got.step) == 1 and int(jax.tree.leaves(got.opt_state)[0]) == minibatches * epochs
        np.testing.assert_allclose(float(metrics["loss"][0]), sum(losses), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(float(metrics["loss_tokens"]), epochs * float(batch.mask_NxT.sum()))
        once = float((prepared.advantage_NxT != 0).any(axis=1).sum())  # not once an epoch
        assert float(metrics["effective_rows"]) == once > 0


@pytest.mark.parametrize("parts, moves", [
    ({}, False), ({"minibatches": 2}, True), pytest.param({"epochs": 2}, True, marks=pytest.mark.slow)])
def test_the_ratio_leaves_one_after_the_first_update(feed, parts, moves):
    run = feed("grpo", **parts)
    metrics = run.step(run.member._replace(scalars=scalars(0.1)), run.state, None)[1]
    assert (float(metrics["clipped"][0]) > 0) == moves
    assert moves or float(metrics["sampler_gap"][0] / metrics["sampler_gap"][1]) < 1e-5


@pytest.mark.parametrize("objective, parts, message", [
    ("grpo", {"minibatches": 3}, "minibatches=3 does not divide the 4 groups of a batch; nearest valid: 2"),
    ("grpo", {"minibatches": 16}, "minibatches=16 does not divide the 4 groups of a batch; nearest valid: 4"),
    ("dpo", {"minibatches": 16}, "minibatches=16 does not divide the 8 pairs of a batch; nearest valid: 8"),
    ("dpo", {"minibatches": 8, "microbatches": 2}, "microbatches=2 does not divide the 1 pairs of an update; nearest valid: 1"),
    ("cross_entropy", {"minibatches": 5}, "minibatches=5 does not divide the 16 rows of a batch; nearest valid: 4"),
    ("grpo", {"minibatches": 4, "microbatches": 3}, "microbatches=3 does not divide the 4 rows of an update; nearest valid: 2"),
    ("grpo", {"epochs": 0}, "epochs=0 must be at least 1"),
])
def test_batches_that_do_not_fall_into_equal_updates_are_refused(feed, objective, parts, message):
    with pytest.raises(ValueError, match=message):
        run = feed(objective, **parts)
        jax.eval_shape(run.step, run.member, run.state, run.params)


@pytest.mark.slow  # of one update a batch: test_loop.py
@pytest.mark.parametrize("objective", ["luffy", "grpo", "kto", "ppo"])
def test_segments_split_anywhere_without_a_trace(feed, objective):
    run = feed(objective, minibatches=2, epochs=2)
    program = training.segment_program(run.source, run.spec, 4)
    members = training.stack([run.member])

    def after(*lengths):
        states = training.stack([run.state])
        for n in lengths:
            states, _ = training.run_segment(program, states, members, n, run.params)
        return states

    whole = after(4)
    chex.assert_trees_all_equal(whole, after(1, 3))
    assert not np.array_equal(whole.params["head"][0], run.state.params["head"]), "nothing was learned"
