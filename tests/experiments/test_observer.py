"""Measuring changes nothing: the training program is the same text whatever is measured."""

import functools
import hashlib

import jax.numpy as jnp
import pytest

from experiments import study
from experiments.harness import config
from jaxpost import models, training

PRESETS = {
    "one-k": (("measure.ks", "(4,)"), ("measure.alphas", "(0.3,)")),
    "economy": (("measure.probes", "('economy','policy')"),),
    "standard": (("measure.probes", "('standard','policy')"),),
    "full": (("measure.probes", "('full',)"),),
    "dense-grid": (("measure.grid_points", "20"), ("measure.problems", "8")),
}
QUICK = ("full", "rlvr-lr1")


@functools.cache
def lowered(arm_name, overrides=()):
    setup = study.Setup(config.load("rlvr_sparsity:smoke", dict(overrides)), ())
    arm = next(a for a in setup.arms if a.name == arm_name)
    params = models.init(setup.model, training.stream(0, "init", 0))
    states = training.stack([training.create(arm.spec, params, {})])
    members = training.stack([training.Member(jnp.uint32(1), arm.scalars)])
    program = training.segment_program(arm.source, arm.spec, 8)
    return hashlib.sha256(program.lower(states, members, 8, None).as_text().encode()).hexdigest()


@pytest.mark.parametrize(("preset", "arm"), [pytest.param(preset, arm, marks=[pytest.mark.slow] * ((preset, arm) != QUICK))
                                             for preset in PRESETS for arm in ("rlvr-lr1", "sft-lr1")])
def test_the_lowered_step_has_the_hash_that_it_has_with_the_shipped_probes(preset, arm):
    assert lowered(arm, PRESETS[preset]) == lowered(arm)


def test_the_hash_would_notice_a_change():
    assert lowered("rlvr-lr1") != lowered("rlvr-lr1", (("train.group", "4"),))
