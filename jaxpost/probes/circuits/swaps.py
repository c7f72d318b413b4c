"""Causal tracing: one residual state is replaced while a prompt is read, and the answer is compared with the prompt's own.

    changed      share of prompts whose most probable token is another one than without the replacement
    transferred  share whose most probable token is then that of the other prompt, among those where the two differ

The state comes from the run on a prompt with one token replaced. The null puts noise there: the prompt's own state plus a
Gaussian direction as long as the difference of the two states.

Legend: N prompts, T positions, D width, J states, M null draws; a cell is a state j at a position p.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpost.probes.circuits import lens


class Swapped(NamedTuple):
    """Of one kind of replaced token, float32."""

    changed: jax.Array  # [J, T, N]
    transferred: jax.Array  # [J, T, N]
    differ: jax.Array  # [N], whether the two prompts' own answers differ
    close: jax.Array  # [J, T], share of prompts whose first two logits rounding may exchange after the replacement
    noise_changed: jax.Array  # [M, J, T], means over prompts
    noise_transferred: jax.Array  # [M, J, T], over those that differ


def replace(j: jax.Array, position: jax.Array, state_NxD: jax.Array) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The edit that puts `state_NxD` in the place of state j at a position."""
    def edit(x_NxTxD, number):
        here_T = (jnp.arange(x_NxTxD.shape[1]) == position) & (number == j)
        return jnp.where(here_T[None, :, None], state_NxD[:, None].astype(x_NxTxD.dtype), x_NxTxD)

    return edit


def noise_like(own_NxD: jax.Array, other_NxD: jax.Array, key: jax.Array) -> jax.Array:
    """own + z |other - own| / |z|, z standard Gaussian."""
    z_NxD = jax.random.normal(key, own_NxD.shape)
    size_Nx1 = jnp.linalg.norm((other_NxD - own_NxD).astype(jnp.float32), axis=1, keepdims=True)
    return own_NxD + (z_NxD * size_Nx1 / jnp.linalg.norm(z_NxD, axis=1, keepdims=True)).astype(own_NxD.dtype)


def undecided(logits_NxV: jax.Array, width: int) -> jax.Array:
    """Share of prompts whose first two logits lie within twice the bound of `lens.tolerance`."""
    first_N = logits_NxV.max(axis=-1)
    near_NxV = logits_NxV >= (first_N - 2 * lens.tolerance(logits_NxV, width))[:, None]
    return (near_NxV.sum(axis=-1) > 1).mean()


def swaps(run: Callable, params: Any, tokens_NxT: jax.Array, own: tuple[jax.Array, jax.Array], other_NxT: jax.Array, draws: int,
          key: jax.Array) -> Swapped:
    """Every state at every position of a prompt replaced by that of another prompt, and by noise of the same size.

    Args:
      run: as in `Circuit`. own: what it gives of the prompts themselves.
    """
    (own_JxNxTxD, own_logits), (other_JxNxTxD, other_logits) = own, run(params, other_NxT, None)
    J, _, T, D = own_JxNxTxD.shape
    own_N, other_N = own_logits.argmax(axis=-1), other_logits.argmax(axis=-1)
    differ_N = (own_N != other_N).astype(jnp.float32)

    def outcome(j, p, state_NxD):
        logits_NxV = run(params, tokens_NxT, replace(j, p, state_NxD))[1]
        token_N = logits_NxV.argmax(axis=-1)
        return ((token_N != own_N).astype(jnp.float32), (token_N == other_N) * differ_N, undecided(logits_NxV, D))

    def of_cell(cell):
        j, p = cell // T, cell % T
        before_NxD, after_NxD = own_JxNxTxD[j, :, p], other_JxNxTxD[j, :, p]
        changed_N, transferred_N, close = outcome(j, p, after_NxD)

        def noise(draw):
            state_NxD = noise_like(before_NxD, after_NxD, jax.random.fold_in(jax.random.fold_in(key, draw), cell))
            changed_N, transferred_N, _ = outcome(j, p, state_NxD)
            return changed_N.mean(), transferred_N.sum() / jnp.maximum(differ_N.sum(), 1)

        return changed_N, transferred_N, close, *jax.lax.map(noise, jnp.arange(draws))

    cells = jax.lax.map(of_cell, jnp.arange(J * T))
    changed, transferred, close, noise_changed, noise_transferred = (x.reshape(J, T, *x.shape[1:]) for x in cells)
    return Swapped(changed, transferred, differ_N, close, *(jnp.moveaxis(x, -1, 0) for x in (noise_changed, noise_transferred)))
