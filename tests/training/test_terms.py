"""Several gradients in one step: the weighted sum of terms is the gradient of the weighted sum."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxpost import objectives, training

PARTS = {"baseline": "mean", "scale": "group", "ratio": "token", "clip_low": 0.2, "clip_high": 0.2}


def after(run, objective, microbatches=1):
    spec = dataclasses.replace(run.spec, objective=objective, microbatches=microbatches)
    source = dataclasses.replace(run.source, spec=spec)
    state = training.create(spec, run.params, {})
    return jax.jit(lambda s: training.one_step(source, spec, run.member, s, None))(state)


@pytest.mark.parametrize("microbatches", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_fixed_mixture_equals_the_weighted_sum_of_losses(make, microbatches):
    """amft that never moves mu against L = (1 - mu) L_RL + mu L_SFT, whose terms are balanced before one gradient."""
    run = make("chord_phi", "rl")
    mixed, m = after(run, objectives.get("amft", start=0.3, meta_rate=0.0), microbatches)
    summed, s = after(run, objectives.get("chord_phi", sft_weight=0.3, sft_token_weight="none", **PARTS))
    np.testing.assert_allclose(m["loss"][0] / m["loss"][1], s["loss"][0] / s["loss"][1], rtol=1e-5)
    np.testing.assert_allclose(m["grad_norm"][0], s["grad_norm"][0], rtol=1e-5)
    np.testing.assert_allclose(m["sft"], s["sft"], rtol=1e-5)
    assert float(mixed.objective_state["mu"]) == np.float32(0.3)


def test_an_adaptive_step_keeps_the_first_norm(make):
    state, _ = after(make("chord_phi", "rl"), objectives.get("sasr"))
    assert float(state.objective_state["first_norm"]) > 0
