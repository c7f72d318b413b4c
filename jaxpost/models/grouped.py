"""The experts of a mixture where a token is read by its own k experts alone: N k products instead of N X.

Choices are sorted by expert, so that the tokens of an expert are adjacent rows, and `jax.lax.ragged_dot` multiplies every run
of rows by the matrix of its expert. On a mesh each device sorts the tokens that it holds, multiplies those that chose one of
its own experts, and one sum over the devices that hold the other experts completes the tokens. The router, the weights and
what is dropped are those of `moe.mixture`; so is the result, up to the order of k additions.

Shapes: N tokens, D width, F width of an expert, X experts, k experts a token, R = N k choices.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxpost import sharding


def products(x_NxD: jax.Array, expert_Nxk: jax.Array, weight_Nxk: jax.Array, weights: Mapping[str, jax.Array]) -> jax.Array:
    """y_n = sum over the k choices of w (silu(x G_e) * (x U_e)) D_e.

    Args:
      expert_Nxk, weight_Nxk: of `moe.choose`, in the dtype of x; weight 0 drops a choice.
      weights: "gate" and "up" [X, D, F] and "down" [X, F, D] in the dtype of x.
    """
    given = (weights["gate"], weights["up"], weights["down"])
    mesh = jax.sharding.get_abstract_mesh()
    free = {axis for axis in mesh.axis_names if axis not in mesh.manual_axes}
    if all(mesh.shape[axis] == 1 for axis in free):
        return _of_own(x_NxD, expert_Nxk, weight_Nxk, *given)
    rows = sharding.partition(("batch",), x_NxD.shape[:1], mesh)
    experts = sharding.partition(("expert",), given[0].shape[:1], mesh)[0]

    def own(x_NxD, expert_Nxk, weight_Nxk, *stacks):
        if experts is None:
            return _of_own(x_NxD, expert_Nxk, weight_Nxk, *stacks)
        first = jax.lax.axis_index(experts) * stacks[0].shape[0]
        return jax.lax.psum(_of_own(x_NxD, expert_Nxk - first, weight_Nxk, *stacks), experts)

    split = jax.shard_map(own, in_specs=(rows, rows, rows, *(PartitionSpec(experts),) * 3), out_specs=rows, axis_names=free,
                          check_vma=False)
    return split(x_NxD, expert_Nxk, weight_Nxk, *given)


def _of_own(x_NxD, expert_Nxk, weight_Nxk, gate, up, down):
    """The part of the sum that these experts make, numbered from 0; a choice outside of them is another device's."""
    (N, D), X, k = x_NxD.shape, gate.shape[0], expert_Nxk.shape[1]
    expert_R = expert_Nxk.reshape(-1)
    own_R = (expert_R >= 0) & (expert_R < X)
    place_R = jnp.where(own_R, expert_R, X)  # the others come last, in no expert's rows
    order_R = jnp.argsort(place_R, stable=True)
    sizes_X = (place_R[:, None] == jnp.arange(X)[None]).sum(axis=0, dtype=jnp.int32)
    ours_Rx1 = own_R[order_R][:, None]
    rows_RxD = jnp.where(ours_Rx1, x_NxD[order_R // k], 0)  # what no expert reads has no gradient either
    hidden_RxF = jax.nn.silu(jax.lax.ragged_dot(rows_RxD, gate, sizes_X)) * jax.lax.ragged_dot(rows_RxD, up, sizes_X)
    y_RxD = jax.lax.ragged_dot(hidden_RxF, down, sizes_X) * weight_Nxk.reshape(-1)[order_R][:, None]
    y_RxD = jnp.where(ours_Rx1, y_RxD, 0)
    return y_RxD[jnp.argsort(order_R)].reshape(N, k, D).sum(axis=1)
