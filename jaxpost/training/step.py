"""The one train step: gradients of a prepared batch, exactly accumulated, one optimizer update, inline probes.

Shapes: N rows, M microbatches, T completion tokens.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from jaxpost import models, sharding
from jaxpost.objectives import Batch, Objective
from jaxpost.probes import inline
from jaxpost.training import optimizers
from jaxpost.training.state import Scalars, TrainState


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """Static choices of a step; hashable, so that equal specs share one compiled program."""

    model: models.TransformerConfig
    objective: Objective
    optimizer: tuple  # sorted (name, value) pairs of optimizers.make
    group: int = 1  # G, samples a prompt
    microbatches: int = 1  # M, divides the rows
    temperature: float = 1.0  # of the policy that is trained: logits / temperature
    storage_dtype: str = "float32"  # of master parameters

    def transform(self) -> optax.GradientTransformation:
        """The optimizer."""
        return optimizers.make(**dict(self.optimizer))


@functools.partial(jax.jit, static_argnums=0)
def create(spec: StepSpec, params: dict, curriculum_state: dict) -> TrainState:
    """A fresh state; masters are stored in `spec.storage_dtype`, moments in float32."""
    stored = jax.tree.map(lambda x: x.astype(spec.storage_dtype), params)
    return TrainState(jnp.zeros((), jnp.int32), stored, spec.transform().init(optimizers.wide(stored)),
                      spec.objective.init(), curriculum_state)


def token_logp(spec: StepSpec, params: dict, batch: Batch) -> jax.Array:
    """Float32 log-probability of every completion token at the spec's temperature, logp_NxT."""
    logits = models.token_logits(spec.model, params, batch.prompt_NxP, batch.completion_NxT) / spec.temperature
    chosen = jnp.take_along_axis(logits, batch.completion_NxT[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def train_step(spec: StepSpec, state: TrainState, batch: Batch, scalars: Scalars) -> tuple[TrainState, dict]:
    """One optimizer step; returns the new state and metrics as scalars or (sum, count) pairs."""
    objective = spec.objective
    batch = objective.prepare(sharding.constrain(batch, ("batch",)), spec.group, scalars.kl_coef)

    def loss(params, rows):
        logp_NxT = token_logp(spec, params, rows)
        total, count, aux = objective.loss(logp_NxT, rows, state.objective_state, scalars.kl_coef)
        if rows.behaviour_NxT is not None:
            gap = jnp.abs(logp_NxT - rows.behaviour_NxT) * rows.mask_NxT
            aux["sampler_gap"] = (gap.sum(), rows.mask_NxT.sum())
        return total, (count, aux)

    def differentiate(rows):
        (total, (count, aux)), grads = jax.value_and_grad(loss, has_aux=True)(state.params, rows)
        return optimizers.wide(grads), total, count, aux

    rows_MxN = jax.tree.map(lambda x: x.reshape(spec.microbatches, -1, *x.shape[1:]), batch)
    zero = jax.tree.map(jnp.zeros_like, jax.eval_shape(differentiate, jax.tree.map(lambda x: x[0], rows_MxN)))
    (grads, total, count, aux), _ = jax.lax.scan(
        lambda carry, rows: (jax.tree.map(jnp.add, carry, differentiate(rows)), None), zero, rows_MxN)

    grads = jax.tree.map(lambda g: g / jnp.maximum(count, 1.0), grads)
    masters = optimizers.wide(state.params)
    direction, opt_state = spec.transform().update(grads, state.opt_state, masters)
    params, updates = optimizers.apply_direction(state.params, direction, scalars.learning_rate)
    metrics = {"loss": (total, count), "loss_tokens": batch.mask_NxT.sum(), **aux,
               **inline.measure(grads, updates, state.params, params)}
    return state._replace(step=state.step + 1, params=params, opt_state=opt_state,
                          objective_state=objective.observe(state.objective_state, batch)), metrics
