"""Reference policies: soups of two, and one that follows the policy every k batches and is checkpointed with it."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import checkpoint, training


def equal(a, b):
    chex.assert_trees_all_equal(a, b)


def test_a_soup_is_the_weighted_mean_and_leaves_the_critic_out(feed):
    run = feed("ppo")
    a, b = run.state.params, jax.tree.map(lambda x: x - 1.5, run.state.params)
    mixed = jax.jit(training.soup)(a, b, 0.25)
    assert "value" in a and "value" not in mixed
    jax.tree.map(lambda got, x: np.testing.assert_allclose(got, np.asarray(x, np.float64) - 0.75 * 1.5, rtol=0, atol=1e-6),
                 mixed, run.params)
    equal(training.soup(a, b, 1.0), run.params)
    half = training.soup(jax.tree.map(lambda x: x.astype(jnp.bfloat16), a), b, 0.5)
    assert {x.dtype for x in jax.tree.leaves(half)} == {jnp.dtype(jnp.bfloat16)}


def test_a_soup_of_different_architectures_is_refused(feed, make):
    with pytest.raises(ValueError, match=r"\['embed'\] is \(51, 16\) in the first and \(51, 32\) in the second"):
        training.soup(feed("grpo").params, make().params, 0.5)


@pytest.mark.parametrize("every, expected", [
    pytest.param(1, [1, 2, 3, 4], marks=pytest.mark.slow), (3, [0, 0, 3, 3])])
def test_the_reference_becomes_the_policy_every_so_many_batches(feed, every, expected):
    run = feed("dpo", reference_refresh=every)
    assert not run.source.needs_reference
    params, state = [run.state.params], run.state
    equal(state.reference, state.params)
    for step in expected:
        state, _ = run.step(run.member, state, None)
        params.append(state.params)
        equal(state.reference, params[step])
    assert (np.asarray(params[4]["head"]) != np.asarray(params[3]["head"])).any()


def test_a_refreshed_reference_is_what_the_batch_reads(feed):
    refreshed, frozen = feed("dpo", reference_refresh=3), feed("dpo")
    far = jax.tree.map(lambda x: 0.9 * x, refreshed.params)
    got, _ = refreshed.step(refreshed.member, refreshed.state._replace(reference=far), None)
    expected, _ = frozen.step(frozen.member, frozen.state, far)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-7), got.params, expected.params)
    equal(got.reference, far)


def test_a_run_that_refreshes_resumes_exactly_from_its_checkpoint(feed, tmp_path):
    run = feed("dpo", reference_refresh=3)


    def after(state, steps):
        for _ in range(steps):
            state, _ = run.step(run.member, state, None)
        return state

    part = after(run.state, 2)
    with checkpoint.Checkpoints(tmp_path) as saves:
        saves.save(2, part, {})
        saves.wait()
        back = saves.restore(2, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), part))
    equal(after(back, 2), after(run.state, 4))


def test_refreshing_what_nobody_reads_is_refused(feed):
    assert feed("simpo", reference_refresh=2).state.reference is not None  # its other answers come from there
    assert feed("dpo").state.reference is None
    with pytest.raises(ValueError, match="reference_refresh=2 with objective 'grpo', which reads no reference policy"):
        feed("grpo", reference_refresh=2)
    with pytest.raises(ValueError, match="reference_refresh=-1 is negative"):
        dataclasses.replace(feed("dpo").spec, reference_refresh=-1)
