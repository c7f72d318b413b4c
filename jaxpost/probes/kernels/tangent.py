"""The empirical neural tangent kernel of a policy on the rows of a batch, and the policy's linearisation in its parameters.

With f_o(x; w) the outputs of a policy, J_io = df_o(x_i; w) / dw, the kernel is one of

    each   K_ij = (1 / O) sum_o <J_io, J_jo>: the mean over outputs, the trace of the [O, O] blocks
    sum    K_ij = <j_i, j_j>, j_i = O^-1/2 sum_o J_io: one gradient a row; equal to `each` in expectation where different
           outputs' gradients are uncorrelated, as those of a random last layer, and exactly for one output

Exact: the gradients of all rows are held, [N, R, P], R = O or 1. Sketched: each gradient g is mapped to k numbers,
(Sg)_b = sum over p with h(p) = b of s(p) g_p, with a random bucket h(p) and a random sign s(p) of every entry, the same for all
rows and parameters: E <Sa, Sb> = <a, b>, and the variance is at most (|a|^2 |b|^2 + <a, b>^2) / k. Independent sketches are
kept apart, so that their spread is the error of any statistic of their mean.

Legend: N rows, b rows at once, O outputs, C columns of the label, R gradients a row, P parameters, M sketches, k numbers each.
Sources: Jacot et al. 2018 (the kernel); Charikar, Chen and Farach-Colton 2002 (the sketch).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpost import linalg
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.policy import example_rows
from jaxpost.probes.policy.fisher import Predict

OUTPUTS = ("sum", "each")


class Answer(NamedTuple):
    """What a policy gives for one row, and what is right: a number, or one a class."""

    output_O: jax.Array
    label_C: jax.Array


Read = Callable[[Any, Any], Answer]  # (params, row) -> Answer


class Jacobian(NamedTuple):
    """How gradients of rows are taken."""

    outputs: str = "sum"  # one of OUTPUTS
    microbatch: int = 8  # rows whose gradients are taken at once
    sketches: int = 0  # M; 0: exact
    width: int = 0  # k of a sketch


@functools.cache
def of_policy(predict: Predict) -> Read:
    """The logits of the first target position of a row, and its target as a one-hot vector."""
    def read(params, row):
        predicted = predict(params, row)
        first = jnp.argmax(predicted.mask_T > 0)
        logits_V = predicted.logits_TxV[first]
        return Answer(logits_V, jax.nn.one_hot(predicted.target_T[first], len(logits_V), dtype=logits_V.dtype))

    return read


def _gradients(read: Read, outputs: str, params: Any, rows: Any) -> Any:
    """Leaves [b, R, ...]."""
    def function(w, row):
        output_O = read(w, row).output_O
        scaled = output_O / jnp.sqrt(jnp.asarray(output_O.size, output_O.dtype))
        return scaled.sum(keepdims=True) if outputs == "sum" else scaled

    return jax.vmap(jax.jacrev(function), (None, 0))(params, rows)


def _gram(gradients: Any) -> jax.Array:
    """sum_r <g_ir, g_jr> over all leaves [N, R, ...]: [N, N]."""
    def of_leaf(g):
        flat_NxP = g.reshape(len(g), -1)
        return jnp.matmul(flat_NxP, flat_NxP.T, precision=linalg.HIGHEST)

    return sum(of_leaf(leaf) for leaf in jax.tree.leaves(gradients))


def _sketch(gradients: Any, width: int, key: jax.Array) -> jax.Array:
    """One sketch of gradients with leaves [b, R, ...]: [b, R, k]."""
    leaves = jax.tree.leaves(gradients)
    rows, count = leaves[0].shape[:2]
    out = jnp.zeros((width, rows * count), leaves[0].dtype)
    for i, leaf in enumerate(leaves):
        flat_PxN = leaf.reshape(rows * count, -1).T
        bits_P = jax.random.bits(jax.random.fold_in(key, i), flat_PxN.shape[:1], jnp.uint32)
        sign_P = jnp.where(bits_P >> 31 == 1, 1.0, -1.0).astype(flat_PxN.dtype)
        out = out.at[(bits_P & 0x7FFFFFFF) % width].add(sign_P[:, None] * flat_PxN)
    return out.T.reshape(rows, count, width)


def kernel(read: Read, params: Any, rows: Any, how: Jacobian, key: jax.Array) -> jax.Array:
    """The kernel of every sketch, [M, N, N], or the exact one, [1, N, N]; their mean is the estimate.

    Args:
      params: a tree of floating arrays; rows: a tree with leading axis N, which `how.microbatch` divides.
      key: of the sketches, the same for kernels that are compared; unused for exact ones.
    """
    keys = jax.random.split(key, max(how.sketches, 1))

    def of_batch(batch):
        gradients = gradient_sums.wide(_gradients(read, how.outputs, params, batch))
        if not how.sketches:
            return gradients
        return jax.lax.map(lambda one: _sketch(gradients, how.width, one), keys).swapaxes(0, 1)

    held = jax.tree.map(gradient_sums.in_order, jax.lax.map(of_batch, gradient_sums.microbatches(rows, how.microbatch)))
    return jax.vmap(_gram, in_axes=1)(held) if how.sketches else _gram(held)[None]


def linearised(read: Read, params0: Any, params: Any, rows: Any, microbatch: int) -> tuple[jax.Array, jax.Array]:
    """(f(w0), f(w0) + J0 (w - w0)) of every row, [N, O] each: the model and its first-order Taylor polynomial at w0."""
    moved = jax.tree.map(jnp.subtract, params, params0)

    def of_row(w0, row):
        return jax.jvp(lambda w: read(w, row).output_O, (w0,), (moved,))

    start_NxO, slope_NxO = example_rows.of_examples(of_row, params0, rows, microbatch)
    return start_NxO, start_NxO + slope_NxO
