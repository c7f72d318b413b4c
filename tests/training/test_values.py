"""The critic: its head starts at zero, is trained beside the policy, and a reference policy does without."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models, training
from jaxpost.training import step as step_module
from tests import compiled


def test_a_base_without_a_head_gets_a_zero_one_and_a_head_is_kept(feed):
    run = feed("ppo")
    assert "value" not in run.params
    assert run.state.params["value"].shape == (16, 1) and not np.asarray(run.state.params["value"]).any()
    trained = {**run.params, "value": jnp.ones((16, 1))}
    kept = training.create(dataclasses.replace(run.spec, storage_dtype="bfloat16"), trained, {}).params["value"]
    assert kept.dtype == jnp.bfloat16 and np.asarray(kept == 1).all()


def test_the_first_gradient_of_the_head_in_closed_form(feed, in_float64):
    """V = h w, so h_d is the value of the head e_d; at w = 0 the gradient is value_coef mean_tokens( (0 - R) h )."""
    with jax.enable_x64(True):
        run = in_float64(feed("ppo"))
        objective, policy = run.spec.objective, run.state.params
        batch = run.batch(run.member, run.state, run.params)[0]
        prepared = objective.balance(objective.prepare(batch, run.spec.group))

        def loss(head):
            seen = compiled.view(run.spec, {**policy, "value": head}, prepared, run.params)
            total, count, _ = objective.loss(seen, prepared, {})
            return total / count

        got = jax.jit(jax.grad(loss))(policy["value"])[:, 0]
        value = jax.jit(lambda head: step_module.output(run.spec, {**policy, "value": head}, prepared).taps["value"])
        h_DxNxT = np.stack([value(jnp.eye(16)[:, [d]]) for d in range(16)])
        mask = np.asarray(prepared.mask_NxT)
        expected = objective.value_coef * (h_DxNxT * -np.asarray(prepared.return_NxT) * mask).sum((1, 2)) / mask.sum()
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)
        assert np.abs(expected).max() > 1e-3


def test_the_critic_learns_beside_the_policy(feed):
    run = feed("ppo", minibatches=2)
    state, metrics = run.step(run.member, run.state, run.params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(metrics)) and int(state.step) == 1
    assert np.abs(state.params["head"] - run.state.params["head"]).max() > 0
    assert np.abs(np.asarray(state.params["value"])).max() > 0
    assert float(metrics["value_loss"][0]) > 0


def test_a_view_without_a_head_says_what_is_missing(feed):
    run = feed("ppo")
    batch = run.batch(run.member, run.state, run.params)[0]
    with pytest.raises(ValueError, match="'ppo' needs a value head.*value_head=True"):
        compiled.view(run.spec, run.params, batch, run.params)
    model = dataclasses.replace(run.model, value_head=False)
    assert jax.eval_shape(lambda: models.teacher_forced(model, run.params, batch.prompt_NxP, batch.completion_NxT).taps) == {}
