"""Sums over per-example gradients, one value a tensor: what every gradient statistic is made of.

With g_i the gradient of example i's own loss (the sum over its target tokens) and G = sum_i g_i, for each tensor

    S1 = |G|^2        q_i = |g_i|^2, S2 = sum_i q_i        d_i = <G, g_i>

A layer's and the model's sums are the sums of their tensors', so sums are stored and ratios are not. q_i and d_i give
every leave-one-out S1 and S2 in closed form: |G - g_i|^2 = S1 - 2 d_i + q_i.

Two passes of `vmap(grad)` over microbatches inside a scan: memory is one microbatch of gradients and two trees like the
parameters. Examples of a microbatch are strided (rows j, j + M, ...), so that a batch split over devices stays where it is.

Legend: m examples, M microbatches, b = m / M, T tensors, L layers of a stacked leaf.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from jaxpost.probes.rows.inventory import TensorInfo

GSNR_EPS = 1e-5
Loss = Callable[[Any, Any], jax.Array]  # (params, one example) -> scalar
STACK = "layers"  # params["layers"][name] holds a leading axis of layers: one tensor a layer


class Sums(NamedTuple):
    """Sums of one batch. A field that an engine cannot give is None."""

    s1_T: jax.Array
    square_mxT: jax.Array  # q_i
    dot_mxT: jax.Array | None = None  # d_i
    gsnr_T: jax.Array | None = None  # sum over coordinates of mean(g)^2 / var(g), var with divisor m - 1
    gsnr_count_T: jax.Array | None = None  # coordinates with var > 0
    gsnr_mxT: jax.Array | None = None  # both without each example in turn
    gsnr_count_mxT: jax.Array | None = None
    gsnr_eps_T: jax.Array | None = None  # sum over coordinates of mean(g)^2 / (population variance + eps)
    gsnr_eps_null_T: jax.Array | None = None  # its expectation at mean zero
    gsnr_eps_mxT: jax.Array | None = None  # without each example in turn


def _keys(path) -> tuple:
    return tuple(getattr(k, "key", getattr(k, "idx", getattr(k, "name", None))) for k in path)


def is_stacked(path) -> bool:
    """Whether the leaf at a tree path has a leading layer axis: `layers/<name>`, unlike `layers/<i>/<name>` of a list."""
    keys = _keys(path)
    return len(keys) > 1 and keys[0] == STACK and not str(keys[1]).isdigit()


def leaf_name(path) -> str:
    """The path joined by "/"; a stacked leaf has one name for all its layers."""
    return "/".join(map(str, _keys(path)))


def inventory(params: Any) -> list[TensorInfo]:
    """The tensors of a parameter tree in the order of every axis T: leaves in tree order, stacked ones layer by layer.

    The kind is the last part of the name; `*_norm` is "norm" and `*_bias` is "bias", as the models declare them.
    """
    infos = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        keys, shape = [str(k) for k in _keys(path)], tuple(jnp.shape(leaf))
        kind = next((k for k in ("norm", "bias") if keys[-1].endswith(f"_{k}")), keys[-1])
        if is_stacked(path):
            infos += [TensorInfo("/".join([STACK, str(i), *keys[1:]]), kind, i, shape[1:]) for i in range(shape[0])]
        else:
            layer = int(keys[1]) if keys[0] == STACK and len(keys) > 2 and keys[1].isdigit() else None
            infos.append(TensorInfo("/".join(keys), kind, layer, shape))
    return infos


def accumulator_dtype(x: jax.Array) -> jnp.dtype:
    """At least float32, whatever the storage dtype."""
    return jnp.promote_types(x.dtype, jnp.float32)


def wide(tree: Any) -> Any:
    """The tree in at least float32."""
    return jax.tree.map(lambda x: x.astype(accumulator_dtype(x)), tree)


def per_tensor(tree: Any) -> jax.Array:
    """Sum of the entries of every tensor, [T]: the last axis first, then the rest.

    Two levels keep the rounding of a sum of n terms near 2 sqrt(n) units instead of n; the barrier keeps the compiler
    from merging them back. Products and sums, never a matrix product: no back end then lowers the precision.
    """
    parts = []
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        lead = 1 if is_stacked(path) else 0
        rows = jax.lax.optimization_barrier(x.sum(axis=-1)) if x.ndim > lead else x
        parts.append(rows.sum(axis=tuple(range(lead, rows.ndim))).reshape(-1))
    return jnp.concatenate(parts)


def dots(a: Any, b: Any) -> jax.Array:
    """<a, b> of every tensor of two trees, [T]."""
    return per_tensor(jax.tree.map(jnp.multiply, a, b))


def microbatches(examples: Any, microbatch: int) -> Any:
    """Leading axis m -> [M, b], microbatch j being rows j, j + M, ...

    Raises: ValueError when `microbatch` does not divide the examples, or their leading axes differ.
    """
    counts = {x.shape[0] for x in jax.tree.leaves(examples)}
    if len(counts) != 1:
        raise ValueError(f"examples need one leading axis; found lengths {sorted(counts)}")
    m = counts.pop()
    if microbatch < 1 or m % microbatch:
        near = min((b for b in range(1, m + 1) if m % b == 0), key=lambda b: abs(b - microbatch))
        raise ValueError(f"microbatch={microbatch} does not divide the {m} examples; nearest valid: {near}")
    return jax.tree.map(lambda x: x.reshape(microbatch, m // microbatch, *x.shape[1:]).swapaxes(0, 1), examples)


def in_order(x_Mxb: jax.Array) -> jax.Array:
    """Undo `microbatches`: [M, b, ...] -> [m, ...] in the order of the examples."""
    return x_Mxb.swapaxes(0, 1).reshape(-1, *x_Mxb.shape[2:])


def _gradients(loss: Loss, params: Any, rows: Any) -> Any:
    return wide(jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, rows))


def first_pass(loss: Loss, params: Any, examples: Any, microbatch: int) -> tuple[Any, jax.Array]:
    """(G, a tree like the parameters in at least float32; square_mxT)."""

    def one(total, rows):
        grads = _gradients(loss, params, rows)
        return jax.tree.map(lambda t, g: t + g.sum(axis=0), total, grads), jax.vmap(lambda g: dots(g, g))(grads)

    zero = jax.tree.map(jnp.zeros_like, wide(params))
    total, square_MxbxT = jax.lax.scan(one, zero, microbatches(examples, microbatch))
    return total, in_order(square_MxbxT)


def second_pass(loss: Loss, params: Any, examples: Any, microbatch: int, directions: tuple) -> tuple[list, Any]:
    """([<direction, g_i> of each tensor, [m, T], a direction], sum_i (g_i - mean)^2 by coordinate).

    The mean is that of the first direction, which must be G: centring first loses nothing to cancellation.
    """
    m = jax.tree.leaves(examples)[0].shape[0]
    mean = jax.tree.map(lambda g: g / m, directions[0])

    def one(spread, rows):
        grads = _gradients(loss, params, rows)
        spread = jax.tree.map(lambda s, g, c: s + ((g - c[None]) ** 2).sum(axis=0), spread, grads, mean)
        return spread, [jax.vmap(lambda g, d=d: dots(d, g))(grads) for d in directions]

    zero = jax.tree.map(jnp.zeros_like, mean)
    spread, sums = jax.lax.scan(one, zero, microbatches(examples, microbatch))
    return [in_order(x) for x in sums], spread


def per_example(loss: Loss, params: Any, examples: Any, microbatch: int, intervals: bool = True,
                gsnr: bool = True, eps: float = GSNR_EPS) -> Sums:
    """Every sum of a batch of examples; jit-pure.

    Args:
      loss: (params, example) -> scalar, the example's own loss: a sum over its target tokens. What couples examples
        (advantages normalised over a batch, auxiliary losses of a router) must enter as constants of the example.
      params: a tree of floating arrays.
      examples: a tree with leading axis m.
      microbatch: b, divides m.
      intervals: d_i, for intervals of what S1 enters, in a second pass over the examples, as dear as the first.
      gsnr: GSNR, in the same second pass; with `intervals` its delete-one values as well, in a third.
      eps: added to the variances of the damped GSNR.

    Raises: ValueError when it does not.
    """
    total, square_mxT = first_pass(loss, params, examples, microbatch)
    sums = Sums(dots(total, total), square_mxT)
    if not (intervals or gsnr):
        return sums
    return sums._replace(**further(loss, params, examples, microbatch, total, intervals, gsnr, eps))


def further(loss: Loss, params: Any, examples: Any, microbatch: int, total: Any, intervals: bool,
            gsnr: bool, eps: float = GSNR_EPS) -> dict[str, jax.Array]:
    """The fields of `Sums` that take more passes, given G: d_i, GSNR, and with both GSNR without each example in turn."""
    (dot_mxT,), spread = second_pass(loss, params, examples, microbatch, (total,))
    fields, m = {"dot_mxT": dot_mxT} if intervals else {}, len(dot_mxT)
    if not gsnr:
        return fields
    fields["gsnr_T"], fields["gsnr_count_T"] = _signal_to_noise(total, spread, m)
    fields["gsnr_eps_T"], fields["gsnr_eps_null_T"] = _damped(total, spread, m, eps), _damped_null(spread, m, eps)
    if intervals:
        def one(_, rows):
            def without(g):
                rest, left = _without(total, spread, g, m)
                return *_signal_to_noise(rest, left, m - 1), _damped(rest, left, m - 1, eps)

            return None, jax.vmap(without)(_gradients(loss, params, rows))

        _, each = jax.lax.scan(one, None, microbatches(examples, microbatch))
        fields["gsnr_mxT"], fields["gsnr_count_mxT"], fields["gsnr_eps_mxT"] = map(in_order, each)
    return fields


def _signal_to_noise(total: Any, spread: Any, m: int) -> tuple[jax.Array, jax.Array]:
    """(sum over coordinates of mean^2 / var, coordinates that vary) of every tensor; from G and sum_i (g_i - mean)^2.

    A coordinate varies where its spread exceeds m (4 m u mean)^2, u the unit roundoff: what an inexact mean alone leaves.
    """
    def beyond(g, s):
        floor = m * (4 * jnp.finfo(s.dtype).eps / 2 * g) ** 2  # m mean = g
        return jnp.where(s <= floor, 0.0, s)  # NaN stays NaN

    spread = jax.tree.map(beyond, total, spread)

    def ratio(g, s):
        variance = s / max(m - 1, 1)
        return jnp.where(variance == 0, 0.0, (g / m) ** 2 / jnp.where(variance == 0, 1.0, variance))  # NaN stays NaN

    # counts stay exact in float32: below 2^24 along the last axis, and their sum is only a divisor
    return (per_tensor(jax.tree.map(ratio, total, spread)),
            per_tensor(jax.tree.map(lambda s: (s != 0).astype(s.dtype), spread)))


def _without(total: Any, spread: Any, grads: Any, m: int) -> tuple[Any, Any]:
    """(G, spread) without one example: G - g and s - (g - mean)^2 m / (m - 1).

    What the subtraction cannot tell from 0, 4 m u (s + |mean| sqrt(s)) with u the unit roundoff, is 0: the coordinates that
    only this example moves.
    """
    def without(s, t, g):
        left = s - (g - t / m) ** 2 * (m / max(m - 1, 1))
        return jnp.where(left <= 4 * m * jnp.finfo(s.dtype).eps / 2 * (s + jnp.abs(t / m) * jnp.sqrt(s)), 0.0, left)

    rest = jax.tree.map(jnp.subtract, total, grads)
    return rest, jax.tree.map(without, spread, total, grads)


def _damped(total: Any, spread: Any, m: int, eps: float) -> jax.Array:
    """Sum over coordinates of mean^2 / (spread / m + eps) of every tensor, [T]; m >= 1."""
    m = max(m, 1)
    return per_tensor(jax.tree.map(lambda g, s: (g / m) ** 2 / (s / m + eps), total, spread))


def _damped_null(spread: Any, m: int, eps: float) -> jax.Array:
    """Expectation of `_damped` for Gaussian gradients of mean zero, estimated without bias from their spreads, [T].

    Mean and spread s are independent and E mean^2 = sigma^2 / m, so that E[f(s)] sigma^2 / m is wanted, f(s) = 1 / (s/m + eps).
    With s / sigma^2 chi-square of v = m - 1 degrees, partial integration gives
    sigma^2 E f(s) = E[s/2 int_0^1 u^(v/2-1) f(u s) du], integrated at Gauss-Jacobi nodes of that weight (8; 1 above m = 1024).
    Between 1 / (m - 1) and 1 / (m - 3) of s f(s); NaN for m <= 3.
    """
    if m <= 3:
        return per_tensor(jax.tree.map(lambda s: jnp.full_like(s, jnp.nan), spread))
    power = (m - 1) / 2 - 2  # u^(v/2 - 2): u f(us) is smooth also where s >> eps
    node, weight = scipy.special.roots_jacobi(8, 0.0, power) if m <= 1024 else (
        np.asarray([2 * (power + 1) / (power + 2) - 1]), np.ones(1))
    node, weight = (1 + node) / 2, weight / weight.sum() / (power + 1)

    def one(s):
        return sum(w * s / 2 * u / (u * s / m + eps) for u, w in zip(map(float, node), map(float, weight), strict=True)) / m

    return per_tensor(jax.tree.map(one, spread))


def gram(loss: Loss, params: Any, examples: Any) -> jax.Array:
    """<g_i, g_j> of every tensor, [T, m, m]. Holds all m gradients at once: for small m."""
    grads = _gradients(loss, params, examples)
    return jax.vmap(lambda a: jax.vmap(lambda b: dots(a, b), out_axes=-1)(grads), out_axes=-2)(grads)


def additions(infos: list[TensorInfo]) -> list[int]:
    """Additions in one `dots` of each tensor: how deep its two-level sum is."""
    return [(info.shape[-1] + math.prod(info.shape[:-1])) if info.shape else 1 for info in infos]
