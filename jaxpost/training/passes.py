"""Passes over the rows beside the usual one, for objectives that ask for them.

Shapes: N rows, P prompt, Q = P - 1 and T completion tokens.
"""

import jax
import jax.numpy as jnp

from jaxpost import models
from jaxpost.objectives import Batch


def further(spec, params: dict, out: models.Output, batch: Batch) -> dict[str, jax.Array]:
    """Fields of `View` from further passes, those that the objective of a `StepSpec` needs; `out` is the usual pass."""
    fields = {}
    if "prompt" in spec.objective.needs:
        fields["prompt_logp_NxQ"] = _prompt_logp(spec, params, batch)
    if "mixed_inputs" in spec.objective.needs:
        fields["mixed_logp_NxT"] = _mixed_logp(spec, params, out, batch)
    return fields


def _prompt_logp(spec, params, batch):
    """Log-probability of the prompt's tokens behind its first; a second pass over P tokens."""
    target_NxQ = batch.prompt_NxP[:, 1:]
    if not target_NxQ.shape[1]:
        return jnp.zeros(target_NxQ.shape)
    out = models.prompt_forced(spec.model, params, batch.prompt_NxP, spec.pad, logits=not spec.model.in_parts)
    if out.logits is None:
        return models.token_statistics(spec.model, params, out.taps["hidden"], target_NxQ,
                                       temperature=spec.temperature).logp_NxT
    return picked(out.logits / spec.temperature, target_NxQ)


def _mixed_logp(spec, params, out, batch):
    """Log-probability of the completion where the policy reads its own likeliest tokens mixed into it."""
    guess_NxT = jnp.argmax(jax.lax.stop_gradient(out.logits), axis=-1).astype(batch.completion_NxT.dtype)
    other = jnp.concatenate([batch.prompt_NxP, jnp.where(batch.mask_NxT > 0, guess_NxT, batch.completion_NxT)], axis=1)
    reader = models.MixedInputs(other[:, :-1], spec.objective.mixture)
    mixed = models.teacher_forced(spec.model, params, batch.prompt_NxP, batch.completion_NxT, spec.pad, reader=reader,
                                  mask_NxT=batch.room_NxT)
    return picked(mixed.logits / spec.temperature, batch.completion_NxT)


def picked(logits_NxTxV: jax.Array, token_NxT: jax.Array) -> jax.Array:
    """Log-probability of the token at every position, logp_NxT."""
    own_NxT = jnp.take_along_axis(logits_NxTxV, token_NxT[..., None], axis=-1)[..., 0]
    return own_NxT - jax.nn.logsumexp(logits_NxTxV, axis=-1)
