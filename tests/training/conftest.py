"""One tiny model, task and pair of specs for every training test."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest

from jaxpost import models, objectives, tasks, training

# A random model never adds right: reward the parity of the first token instead, so that RL has a signal from step 0.
TASK = tasks.get("addition", digits=1)
NOISY = dataclasses.replace(TASK, verify=lambda problem, tokens_T: (tokens_T[0] % 2).astype(jnp.float32))


def build(objective="grpo", kind="rl", group=4, prompts=4, optimizer="adamw", storage="float32", microbatches=1, **parts):
    task = NOISY if kind == "rl" else TASK
    model = models.TransformerConfig(vocab=tasks.vocab.SIZE, width=32, layers=2, heads=2, kv_heads=1, head_dim=16, ff=32)
    spec = training.StepSpec(model, objectives.get(objective, **parts), (("name", optimizer),),
                             group=group if kind == "rl" else 1, microbatches=microbatches, storage_dtype=storage)
    source = (training.Rollouts(task, prompts, spec) if kind == "rl"
              else training.Demonstrations(((task, prompts * group),)))
    params = training.bf16_grid(models.init(model, jax.random.key(0)))
    member = training.Member(jnp.uint32(5), training.Scalars(1e-3, 0.0, False))
    return types.SimpleNamespace(task=task, model=model, spec=spec, source=source, params=params, member=member,
                                 state=training.create(spec, params, {}))


@pytest.fixture
def make():
    return build
