"""One tiny model, task and pair of specs for every training test."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import pytest

from jaxpost import models, objectives, tasks, training
from tests import compiled

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
    return _run(task, model, spec, source, training.bf16_grid(models.init(model, jax.random.key(0))))


@dataclasses.dataclass(frozen=True)
class Wanting(objectives.Objective):
    """Likelihood of the rows, and `needs` of the test's choice."""

    wants: tuple[str, ...] = ()

    @property
    def needs(self):
        return frozenset(self.wants)

    def prepare(self, batch, group=1, kl_coef=None, state=None):
        self.check(batch, group)
        return batch

    def loss(self, view, batch, state, kl_coef=None):
        return *self.aggregate(-view.logp_NxT, batch), {}


def fed(objective, prompts=4, group=4, make=training.source, task=NOISY, **parts):
    """A run on the smallest model, its source chosen by the objective: a recipe's name, or an instance."""
    if isinstance(objective, str):
        objective = objectives.get(objective)
    model = models.TransformerConfig(vocab=tasks.vocab.SIZE, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, ff=16,
                                     value_head="value" in objective.needs)
    spec = training.StepSpec(model, objective, (("name", "adamw"),), group=group, **parts)
    base = models.init(dataclasses.replace(model, value_head=False), jax.random.key(0))
    return _run(task, model, spec, make(task, spec, prompts), training.bf16_grid(base))


def _run(task, model, spec, source, params):
    member = training.Member(jnp.uint32(5), training.Scalars(1e-3, 0.0, False))
    return types.SimpleNamespace(task=task, model=model, spec=spec, source=source, params=params, member=member,
                                 state=training.create(spec, params, {}), logp=functools.partial(compiled.token_logp, spec),
                                 **_programs(source, spec, jax.jit))


@functools.cache
def _programs(source, spec, jit):
    """Programs of a source and a spec, the same ones for every test that asks for both, so that each is traced once."""
    scalars = training.Scalars(1e-3, 0.0, False)
    return dict(
        batch=jit(lambda member, state, reference: source.batch(member, state, reference)),
        rollout=jit(lambda *given: source.rollout(*given)),
        rows_of=jit(lambda prompt, made, reward, member, state, reference: source.rows_of(prompt, made, reward, member, state,
                                                                                          reference)),
        update=jit(lambda state, batch: training.train_step(spec, state, batch, scalars)),
        step=jit(lambda member, state, reference: training.one_step(source, spec, member, state, reference)))


def widened(run):
    """The same run in float64; inside `jax.enable_x64`."""
    model = dataclasses.replace(run.model, compute_dtype="float64")
    spec = dataclasses.replace(run.spec, model=model, storage_dtype="float64")
    return _run(run.task, model, spec, dataclasses.replace(run.source, spec=spec), run.params)


@pytest.fixture
def in_float64():
    return widened


@pytest.fixture
def make():
    return build


@pytest.fixture
def feed():
    return fed


@pytest.fixture
def wanting():
    return lambda batch, *wants: Wanting("wanting", "sft", "none", batch, wants=wants)
