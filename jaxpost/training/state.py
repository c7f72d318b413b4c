"""Training state: one frozen pytree, and the keys that are derived from it instead of being carried in it."""

import zlib
from typing import Any, NamedTuple

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
    reference: dict | None = None  # of a run that refreshes it (StepSpec.reference_refresh); otherwise an argument
    probe_state: dict | None = None  # what inline probes carry from step to step; its own item of a checkpoint
    trainable: Any = None  # masking.Mask or adapters.LowRank: what of the parameters is trained; None: all


class Scalars(NamedTuple):
    """Swept scalars: arguments of the one compiled program, never constants in it."""

    learning_rate: jax.Array | float
    kl_coef: jax.Array | float | None = None  # None: the objective's own, compiled in
    permute_rewards: jax.Array | bool = False  # control: shuffle rewards within each group (same sampler, no signal)


class Member(NamedTuple):
    """What distinguishes one run of an ensemble."""

    seed: jax.Array  # uint32; every random key of the run is folded from it
    scalars: Scalars


def stream(seed: jax.Array, name: str, step: jax.Array | int) -> jax.Array:
    """The key of stream `name` at `step`: fold_in(fold_in(key(seed), crc32(name)), step). Nothing is ever split."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode())), step)


def soup(params_a: dict, params_b: dict, alpha: jax.Array | float) -> dict:
    """alpha a + (1 - alpha) b, in a's storage dtype: a reference policy between two policies (SALSA, arXiv:2411.01798).

    Args:
      params_a, params_b: parameters of one architecture; a value head is left out, a reference policy has none.
      alpha: weight of a, in [0, 1] for a policy between the two (not checked: it may be traced).

    Raises:
      ValueError: the trees differ.
    """
    a, b = ({name: part for name, part in params.items() if name != "value"} for params in (params_a, params_b))
    shapes = [{jax.tree_util.keystr(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(t)} for t in (a, b)]
    if different := sorted(name for name, _ in set(shapes[0].items()) ^ set(shapes[1].items())):
        raise ValueError(f"a soup needs two sets of parameters of one architecture; {different[0]} is "
                         f"{shapes[0].get(different[0], 'missing')} in the first and {shapes[1].get(different[0], 'missing')} "
                         "in the second")
    return jax.tree.map(lambda x, y: (alpha * x + (1 - alpha) * y).astype(x.dtype), a, b)


@jax.jit
def bf16_grid(params: dict) -> dict:
    """Round once to bfloat16 and return to the storage dtype: the grid that every arm starts on."""
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(x.dtype), params)
