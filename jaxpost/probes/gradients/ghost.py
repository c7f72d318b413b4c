"""Per-example squared gradient norms in the one backward pass that gives the batch's gradient (ghost norms).

A matrix used as y_t = r_t W (t the positions of an example) has the gradient g = sum_t r_t (x) c_t, with c_t the cotangent of
y_t, so (Goodfellow, arXiv:1510.01799; sequences: Li et al., arXiv:2110.05679)

    |g|^2  = sum_{s,t} (r_s . r_t) (c_s . c_t)         <G, g> = sum_t (r_t G) . c_t

Both factors exist while the backward pass is at this use: every use is a function with a rule of its own, whose zero-valued
further argument (a slot, one number an example) has the number as its "cotangent". Nothing is stored for later and no
second pass is made. An embedding has r_t = one-hot(token); a head on the same table has the gradient P' H, with P the
cotangent of the logits, and the two add up: the cross term 2 sum_s c_s . (P' H)[token_s] reaches the embedding's rule as
the cotangent of zeros that the embedding hands to the head. Gains and biases are small: directly.

S1 is that of the gradient itself. So S1 and S2 cost one gradient and the [T, T] products of inputs and of cotangents; where
the d x p gradients of the examples are smaller than those, they are formed instead of the sum (`forms_gradients`).

Products round at the size of sum_{s,t} |r_s . r_t| |c_s . c_t|: where an example's positions cancel, |g|^2 is known to about
1e-6 of that only, which a bound on the sums does not count, and what falls below 0 reads 0.

Legend: m examples, B of a microbatch, T positions of an example, N = B T, T (axis) tensors as in `gradients.sums`, L layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jaxpost.probes.gradients import sums
from jaxpost.probes.gradients.sums import Sums

# (params, rows, reader) -> loss_B, each example's own; every parameter is used through the reader
RowLoss = Callable[[Any, Any, "Reader"], jax.Array]


def forms_gradients(T: int, d: int, p: int) -> bool:
    """Whether a use forms the d x p gradient of each example: where that is smaller than its [T, T] products.

    These take T^2 (d + p) products of numbers, the gradients T d p instead of the plain gradient's own. On two CPU cores
    (float32, best of 8): at T = 128 and d = 256 forming takes 1.5 plain gradients and products 1.2; at d = 64 forming takes
    1.0 and products 1.2.
    """
    return d * p < T * T


@dataclass(frozen=True)
class Ghost:
    """The engine of one model: its loss by rows, with parameters used through a reader (`models.apply(..., reader=)`)."""

    loss: RowLoss

    def first_pass(self, params: Any, examples: Any, microbatch: int) -> tuple[Any, jax.Array]:
        """(G, square_mxT); as `gradients.sums.first_pass`, in one backward pass.

        Raises: ValueError for a microbatch that does not divide m, or a parameter that is not used through the reader.
        """

        def one(total, rows):
            grads, square = self._backward(params, rows, None, (0, 1))
            return jax.tree.map(jnp.add, total, sums.wide(grads)), square

        zero = jax.tree.map(jnp.zeros_like, sums.wide(params))
        total, square = jax.lax.scan(one, zero, sums.microbatches(examples, microbatch))
        return total, jnp.maximum(sums.in_order(square), 0.0)

    def per_example(self, params: Any, examples: Any, microbatch: int, intervals: bool = True) -> Sums:
        """S1, q_i and, with `intervals`, d_i in a second pass; no GSNR, which takes squares by coordinate."""
        total, square = self.first_pass(params, examples, microbatch)
        dot = self.second_pass(params, examples, microbatch, total) if intervals else None
        return Sums(sums.dots(total, total), square, dot)

    def second_pass(self, params: Any, examples: Any, microbatch: int, direction: Any) -> jax.Array:
        """<direction, g_i> of each tensor, [m, T]; the direction is a tree like the parameters."""

        def one(_, rows):
            return None, self._backward(params, rows, direction, (1,))[-1]

        return sums.in_order(jax.lax.scan(one, None, sums.microbatches(examples, microbatch))[1])

    def _backward(self, params, rows, direction, wanted):
        """Gradients of the sum of losses: (G if 0 is wanted, the slots as [B, T])."""
        B = jax.tree.leaves(rows)[0].shape[0]
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        slots = jax.tree_util.tree_map_with_path(
            lambda path, x: jnp.zeros((*x.shape[:1], B) if sums.is_stacked(path) else (B,), sums.accumulator_dtype(x)), params)
        used: set[str] = set()

        def total(params, slots):
            each_B = self.loss(params, rows, Reader(slots, direction, B, used))
            if each_B.shape != (B,):
                raise ValueError(f"a loss by rows has one value an example, [{B}]; found shape {each_B.shape}")
            return each_B.sum()

        *grads, squares = jax.grad(total, wanted)(params, slots)
        if unread := sorted({sums.leaf_name(path) for path in paths} - used):
            raise ValueError(f"parameters {', '.join(unread)} are not used through the reader: their norms would read 0")
        return *grads, jnp.concatenate([x.reshape(-1, B) for x in jax.tree.leaves(squares)]).T


@dataclass(frozen=True)
class Reader:
    """A `models.Reader` whose uses report to slots: |g|^2 of every example, or <direction, g> where there is one."""

    slots: Mapping[str, Any]
    direction: Mapping[str, Any] | None
    rows: int
    used: set[str]  # names that were read, over the whole model
    prefix: str = ""
    _here: set[str] = field(default_factory=set)  # of this layer

    @property
    def layers(self):
        """Slots and directions of the stack, scanned beside its parameters."""
        return self.slots[sums.STACK], None if self.direction is None else self.direction[sums.STACK]

    def inside(self, layer) -> Reader:
        """The reader of one layer."""
        return Reader(*layer, self.rows, self.used, f"{sums.STACK}/")

    def _of(self, name: str, again: bool = False):
        if name in self._here and not again:
            raise ValueError(f"parameter {self.prefix + name!r} is used twice: its norm would lack the cross term")
        self._here.add(name)
        self.used.add(self.prefix + name)
        return self.slots[name], None if self.direction is None else self.direction[name]

    def _by_row(self, x: jax.Array) -> jax.Array:
        return x.reshape(self.rows, -1, x.shape[-1])

    def linear(self, x_Nxd: jax.Array, weights: Mapping[str, jax.Array]) -> list[jax.Array]:
        """x W of every matrix that reads this input; the inputs' products are made once for all."""
        slots, directions = zip(*map(self._of, weights), strict=True)
        products = _linear(self._by_row(x_Nxd), tuple(weights.values()), slots, directions)
        return [y.reshape(*x_Nxd.shape[:-1], -1) for y in products]

    def experts(self, weights: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        """Refused: each expert reads some positions only, and their products are not made here.

        Raises: ValueError; it names the engine that does it.
        """
        raise ValueError(f"ghost norms of {', '.join(self.prefix + name for name in weights)}: a mixture of experts has none; "
                         "take gradients.sums.per_example (GradientCoherence without `rows`), which maps the gradient over "
                         "examples; the routers' losses, which are of a whole batch, are not in it")

    def bias(self, name: str, y_Nxp: jax.Array, b_p: jax.Array) -> jax.Array:
        """y + b."""
        return _bias(self._by_row(y_Nxp), b_p, *self._of(name)).reshape(y_Nxp.shape)

    def gain(self, name: str, y: jax.Array, gain_p: jax.Array) -> jax.Array:
        """y * gain over the last axis."""
        return _gain(self._by_row(y), gain_p, *self._of(name)).reshape(y.shape)

    def embed(self, table_VxD: jax.Array, tokens_BxT: jax.Array) -> tuple[jax.Array, tuple]:
        """(rows of the table, (tokens, zeros whose cotangent is the head's gradient at these rows))."""
        x, zeros = _embed(table_VxD, tokens_BxT, *self._of("embed"))
        return x, (tokens_BxT, zeros)

    def head(self, x_NxD: jax.Array, head_DxV: jax.Array, shared: tuple, tied: bool, dtype: jnp.dtype) -> jax.Array:
        """Logits; a tied head reports to the embedding's slot."""
        slot, direction = self._of("embed" if tied else "head", again=tied)
        if tied and direction is not None:
            direction = direction.T
        logits = _head(dtype, tied, self._by_row(x_NxD), head_DxV, slot, direction, *shared)
        return logits.reshape(x_NxD.shape[0], -1)


def _wide(*arrays: jax.Array) -> list[jax.Array]:
    return [x.astype(sums.accumulator_dtype(x)) for x in arrays]


_product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def _reported(r_BxTxd, cotangents, directions):
    """[(slot's value [B], sum of the examples' gradients where they were formed)] of the products with one input r."""
    (r,), reports, same_BxTxT = _wide(r_BxTxd), [], None
    for c, direction in zip(_wide(*cotangents), directions, strict=True):
        if direction is not None:
            reports.append(((_product("btd,dp->btp", r, direction) * c).sum((1, 2)), None))
        elif forms_gradients(r.shape[1], r.shape[2], c.shape[2]):
            g_Bxdxp = _product("btd,btp->bdp", r, c)
            reports.append(((g_Bxdxp * g_Bxdxp).sum((1, 2)), g_Bxdxp.sum(0)))
        else:
            same_BxTxT = _product("bsd,btd->bst", r, r) if same_BxTxT is None else same_BxTxT
            reports.append(((same_BxTxT * _product("bsp,btp->bst", c, c)).sum((1, 2)), None))
    return reports


def _products(x_BxTxd, weights):
    return tuple(x_BxTxd @ w for w in weights)


@jax.custom_vjp
def _linear(x_BxTxd, weights, slots, directions):
    del slots, directions
    return _products(x_BxTxd, weights)


def _linear_back(kept, cotangents):
    x, weights, directions = kept
    values, formed = zip(*_reported(x, cotangents, directions), strict=True)
    grads = tuple(jnp.einsum("btd,btp->dp", x, c) if g is None else g.astype(w.dtype)
                  for c, w, g in zip(cotangents, weights, formed, strict=True))
    return sum(c @ w.T for c, w in zip(cotangents, weights, strict=True)), grads, values, None


_linear.defvjp(lambda x, weights, slots, directions: (_products(x, weights), (x, weights, directions)), _linear_back)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _head(dtype, tied, x_BxTxD, head_DxV, slot_B, direction, tokens_BxS, zeros_BxSxD):
    del tied, slot_B, direction, tokens_BxS, zeros_BxSxD
    return jnp.matmul(x_BxTxD, head_DxV, preferred_element_type=dtype)


def _head_back(dtype, tied, kept, c_BxTxV):
    x, head, direction, tokens_BxS, like = kept
    ((value, formed),) = _reported(x, (c_BxTxV,), (direction,))
    c = c_BxTxV.astype(x.dtype)
    grad = (jnp.einsum("btd,btv->dv", x, c) if formed is None else formed).astype(head.dtype)
    shared = None
    if tied and direction is None:
        wide_x, wide_c = _wide(x, c_BxTxV)
        at_BxTxS = jnp.take_along_axis(wide_c, tokens_BxS[:, None, :], axis=2)
        shared = _product("bts,btd->bsd", at_BxTxS, wide_x).astype(like.dtype)
    return (c @ head.T).astype(x.dtype), grad, value, None, None, shared


def _head_forth(dtype, tied, x, head, slot, direction, tokens, zeros):
    y = jnp.matmul(x, head, preferred_element_type=dtype)
    return y, (x, head, direction, tokens, jnp.zeros((), zeros.dtype))


_head.defvjp(_head_forth, _head_back)


def _looked_up(table_VxD, tokens_BxT):
    x = jnp.take(table_VxD, tokens_BxT, axis=0)
    return x, jnp.zeros(x.shape, sums.accumulator_dtype(x))


@jax.custom_vjp
def _embed(table_VxD, tokens_BxT, slot_B, direction):
    del slot_B, direction
    return _looked_up(table_VxD, tokens_BxT)


def _embed_back(kept, cotangents):
    table, tokens, direction = kept
    (c,), of_head = _wide(cotangents[0]), cotangents[1]
    if direction is None:
        same_BxTxT = tokens[:, :, None] == tokens[:, None, :]
        alone = (jnp.where(same_BxTxT, _product("bsd,btd->bst", c, c), 0.0)).sum((1, 2))
        value = alone + 2 * (c * of_head).sum((1, 2))
    else:
        value = (direction[tokens] * c).sum((1, 2))
    return jnp.zeros_like(table).at[tokens].add(cotangents[0]), None, value, None


_embed.defvjp(lambda table, tokens, slot, direction: (_looked_up(table, tokens), (table, tokens, direction)), _embed_back)


def _direct(g_Bxp, direction, dtype):
    """(summed gradient, slot's value) of gradients that are small enough to have."""
    value = (g_Bxp * (g_Bxp if direction is None else direction[None])).sum(1)
    return g_Bxp.sum(0).astype(dtype), value


@jax.custom_vjp
def _bias(y_BxTxp, b_p, slot_B, direction):
    del slot_B, direction
    return y_BxTxp + b_p[None, None]


def _bias_back(kept, c):
    dtype, direction = kept
    grad, value = _direct(_wide(c)[0].sum(1), direction, dtype.dtype)
    return c, grad, value, None


_bias.defvjp(lambda y, b, slot, direction: (y + b[None, None], (jnp.zeros((), b.dtype), direction)), _bias_back)


@jax.custom_vjp
def _gain(y_BxTxp, gain_p, slot_B, direction):
    del slot_B, direction
    return y_BxTxp * gain_p[None, None]


def _gain_back(kept, c):
    y, gain, direction = kept
    grad, value = _direct((_wide(c)[0] * _wide(y)[0]).sum(1), direction, gain.dtype)
    return c * gain[None, None], grad, value, None


_gain.defvjp(lambda y, gain, slot, direction: (y * gain[None, None], (y, gain, direction)), _gain_back)
