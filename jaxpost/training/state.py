"""Training state: one frozen pytree, and the keys that are derived from it instead of being carried in it."""

import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class TrainState(NamedTuple):
    """Everything a step changes. Donated by the loops and checkpointed whole."""

    step: jax.Array  # int32, batches trained on (each is StepSpec.updates optimizer steps)
    params: dict
    opt_state: optax.OptState
    objective_state: dict
    curriculum_state: dict


class Scalars(NamedTuple):
    """Swept scalars: arguments of the one compiled program, never constants in it."""

    learning_rate: jax.Array | float
    kl_coef: jax.Array | float = 0.0
    permute_rewards: jax.Array | bool = False  # control: shuffle rewards within each group (same sampler, no signal)


class Member(NamedTuple):
    """What distinguishes one run of an ensemble."""

    seed: jax.Array  # uint32; every random key of the run is folded from it
    scalars: Scalars


def stream(seed: jax.Array, name: str, step: jax.Array | int) -> jax.Array:
    """The key of stream `name` at `step`: fold_in(fold_in(key(seed), crc32(name)), step). Nothing is ever split."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode())), step)


@jax.jit
def bf16_grid(params: dict) -> dict:
    """Round once to bfloat16 and return to the storage dtype: the grid that every arm starts on."""
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(x.dtype), params)
