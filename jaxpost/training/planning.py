"""What a curriculum gives a step of rollouts and takes from it: its plan, prompts as the policy sees them, limits, weights.

Legend: N rows, B groups, S sampled rows of a group, K prompts, P and T tokens.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpost import curricula, models, tasks
from jaxpost.objectives import Batch
from jaxpost.tasks import Task
from jaxpost.training import needs
from jaxpost.training.step import StepSpec


class Planned(NamedTuple):
    """What a curriculum's `sample` gave."""

    state: Any
    plan: curricula.Plan


def prompt_states(task: Task, spec: StepSpec, params: dict, index_K: jax.Array) -> jax.Array:
    """state_KxD of the last token of training prompts, after the last norm, float32."""
    prompt_KxP = jax.vmap(task.prompt)(tasks.problems(task, "train", index_K, None))
    after_Kx1 = jnp.full((index_K.shape[0], 1), task.pad, prompt_KxP.dtype)
    out = models.teacher_forced(spec.model, params, prompt_KxP, after_Kx1, spec.pad, logits=False)
    return out.taps["hidden"][:, 0].astype(jnp.float32)


def within(made: models.Completions, reward_N: jax.Array, limit: jax.Array,
           pad: int) -> tuple[models.Completions, jax.Array]:
    """Answers cut at a limit of tokens: one that goes on beyond it is padding there, and its reward is 0."""
    inside_NxT = (jnp.arange(made.mask_NxT.shape[1]) < limit)[None]
    cut_N = (made.mask_NxT * ~inside_NxT).any(axis=1)
    tokens_NxT = jnp.where(inside_NxT, made.tokens_NxT, pad)
    return made._replace(tokens_NxT=tokens_NxT, mask_NxT=made.mask_NxT * inside_NxT), jnp.where(cut_N, 0.0, reward_N)


def weighed(batch: Batch, weights: curricula.Weights, demonstrations: int = 0) -> Batch:
    """The rows with a curriculum's weights; those of the `demonstrations` at the end of each group have weight 1."""
    def rows(x):
        wide = ((0, 0), (0, demonstrations), *((0, 0),) * (x.ndim - 2))
        return jnp.pad(x, wide, constant_values=1.0).reshape(-1, *x.shape[2:])

    keep_N, train_N, scale_N, kl_N, token_NxT = (None if x is None else rows(x) for x in weights)
    if keep_N is not None:
        batch = batch._replace(reward_N=jnp.where(keep_N > 0, batch.reward_N, jnp.nan))
    for in_loss_N in (keep_N, train_N):
        if in_loss_N is not None:
            batch = needs.left_out(batch, in_loss_N <= 0)
    if kl_N is not None:
        batch = batch._replace(kl_weight_N=kl_N)
    if token_NxT is not None:
        batch = batch._replace(mask_NxT=batch.mask_NxT * token_NxT)
    return batch if scale_N is None else batch._replace(weight_N=scale_N)
