"""Per-example gradient sums of matrices from layer inputs and output cotangents, without per-example gradients.

A matrix that is used as y_t = r_t W (t the positions of an example) has the gradient g = sum_t r_t (x) c_t, with c_t the
cotangent of y_t. Every sum that is needed follows from the factors (Goodfellow, arXiv:1510.01799; sequences: Li et al.,
arXiv:2110.05679):

    <g, g'>  = sum_{s,t} (r_s . r'_t) (c_s . c'_t)         <G, g> = sum_t (r_t G) . c_t

An embedding has r_t = one-hot(token), an output head on the embedding table r_t = cotangent of the logits and c_t = its
input; two uses of one table (tied embedding and head) have the sum of both gradients, so their cross term counts twice.
The cotangents are gradients with respect to zero perturbations that the model adds to its outputs: one ordinary backward
pass gives them for every example, and G as well. Parameters that no site covers (gains, biases) are broadcast over the
examples and differentiated directly: they are small.

Legend: m examples, b of a microbatch, T positions inside an example (tensors on the axis of `gradient_sums`), L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxpost.probes import gradient_sums as sums
from jaxpost.probes.gradient_sums import Sums

KINDS = ("linear", "embedding", "unembedding")

# (params, perturbations, example) -> (scalar loss, inputs): the model adds perturbations[site] to the site's output and
# returns the site's input: [T, features], or tokens [T] for an embedding; a perturbation may be a scalar zero. Of a stacked
# leaf both have a leading layer axis: they go through the scan over layers.
Tapped = Callable[[Any, Mapping[str, jax.Array], Any], tuple[jax.Array, Mapping[str, jax.Array]]]


@dataclass(frozen=True)
class Site:
    """One use of a matrix: `leaf` is its name in the tree ("layers/q", "embed"), `kind` one of KINDS.

    linear       y = x W, W [d, p]
    embedding    y = W[tokens], W [V, D]
    unembedding  y = h W', W [V, D]
    """

    leaf: str
    kind: str

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"site of {self.leaf!r}: kind {self.kind!r} is none of {', '.join(KINDS)}")


@dataclass(frozen=True)
class Ghost:
    """The engine of one model: its tapped loss and its sites."""

    tapped: Tapped
    sites: Mapping[str, Site]

    def first_pass(self, params: Any, examples: Any, microbatch: int) -> tuple[Any, jax.Array]:
        """(G, square_mxT); as `gradient_sums.first_pass`."""

        def one(total, rows):
            grads, direct, factors = self._backward(params, rows)
            return jax.tree.map(jnp.add, total, grads), self._squares(params, direct, factors)

        zero = jax.tree.map(jnp.zeros_like, sums.wide(params))
        total, square = jax.lax.scan(one, zero, sums.microbatches(examples, microbatch))
        return total, sums.in_order(square)

    def per_example(self, params: Any, examples: Any, microbatch: int) -> Sums:
        """S1, q_i and d_i; no GSNR, whose per-coordinate squares the factors do not give.

        Raises: ValueError for a site whose leaf the tree does not have, or a microbatch that does not divide m.
        """
        total, square = self.first_pass(params, examples, microbatch)

        def one(_, rows):
            _, direct, factors = self._backward(params, rows)
            return None, self._dots(params, total, direct, factors)

        _, dot = jax.lax.scan(one, None, sums.microbatches(examples, microbatch))
        return Sums(sums.dots(total, total), square, sums.in_order(dot))

    def _backward(self, params, rows):
        """(G of the rows, {leaf: per-example gradient} of uncovered leaves, {leaf: [(r, c), ...]} of covered ones)."""
        paths, treedef = jax.tree_util.tree_flatten_with_path(params)
        leaves = {sums.leaf_name(path): leaf for path, leaf in paths}
        for name, site in self.sites.items():
            if site.leaf not in leaves:
                raise ValueError(f"site {name!r} names the leaf {site.leaf!r}, which the parameters do not have; "
                                 f"they have {', '.join(leaves)}")
        covered = {site.leaf for site in self.sites.values()}
        b = jax.tree.leaves(rows)[0].shape[0]
        shared = {n: x for n, x in leaves.items() if n in covered}
        own = {n: jnp.broadcast_to(x, (b, *x.shape)) for n, x in leaves.items() if n not in covered}

        def loss(shared, own, perturbations):
            def example(own, perturbation, row):
                merged = treedef.unflatten([(shared | own)[name] for name in leaves])
                return self.tapped(merged, perturbation, row)

            each, inputs = jax.vmap(example)(own, perturbations, rows)
            return each.sum(), inputs

        zeros = {n: jnp.zeros((b, *x.shape), x.dtype) for n, x in self._outputs(params, rows).items()}
        (of_shared, of_own, cotangents), inputs = jax.grad(loss, (0, 1, 2), has_aux=True)(shared, own, zeros)
        of_own = sums.wide(of_own)
        total = sums.wide(of_shared) | {n: g.sum(axis=0) for n, g in of_own.items()}
        factors: dict[str, list] = {}
        for name, site in self.sites.items():
            x, c = inputs[name], sums.wide(cotangents[name])
            x = x if site.kind == "embedding" else sums.wide(x)
            factors.setdefault(site.leaf, []).append((c, x) if site.kind == "unembedding" else (x, c))
        return treedef.unflatten([total[name] for name in leaves]), of_own, factors

    def _outputs(self, params, rows) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape of every site's output, found from its input with scalar perturbations."""
        stacked = {sums.leaf_name(p): (sums.is_stacked(p), x) for p, x in jax.tree_util.tree_leaves_with_path(params)}
        row = jax.tree.map(lambda x: x[0], rows)
        layers = {n: stacked[s.leaf][1].shape[0] for n, s in self.sites.items() if stacked[s.leaf][0]}
        nothing = {n: jnp.zeros((layers[n],) if n in layers else ()) for n in self.sites}
        _, inputs = jax.eval_shape(self.tapped, params, nothing, row)
        found = {}
        for name, site in self.sites.items():
            weight, x = stacked[site.leaf][1], inputs[name]
            width = weight.shape[-2] if site.kind == "unembedding" else weight.shape[-1]
            leading = x.shape if site.kind == "embedding" else x.shape[:-1]
            found[name] = jax.ShapeDtypeStruct((*leading, width), weight.dtype if site.kind == "embedding" else x.dtype)
        return found

    def _squares(self, params, direct, factors):
        return self._by_tensor(params, lambda name: [
            (2 - (i == j)) * inner(*left, *right)
            for i, left in enumerate(factors[name]) for j, right in enumerate(factors[name]) if i <= j
        ], lambda name: direct[name] ** 2, factors)

    def _dots(self, params, total, direct, factors):
        G = {sums.leaf_name(path): g for path, g in jax.tree_util.tree_leaves_with_path(total)}
        return self._by_tensor(params, lambda name: [against(G[name], r, c) for r, c in factors[name]],
                               lambda name: direct[name] * G[name][None], factors)

    def _by_tensor(self, params, of_site, of_direct, factors):
        """[b, T]: sums of the per-example values of the sites of each covered leaf, of the entries of each other leaf."""
        parts = []
        for path, _ in jax.tree_util.tree_leaves_with_path(params):
            name, lead = sums.leaf_name(path), 1 + sums.is_stacked(path)
            if name in factors:
                x = sum(of_site(name))
            else:
                x = of_direct(name)
                x = x.sum(axis=tuple(range(lead, x.ndim)))
            parts.append(x.reshape(x.shape[0], -1))
        return jnp.concatenate(parts, axis=1)


def _is_tokens(r: jax.Array) -> bool:
    return jnp.issubdtype(r.dtype, jnp.integer)


def _over_leading(function: Callable, *factors: jax.Array) -> jax.Array:
    """Map over examples and, where the factors are stacked, over layers: the leading axes before (positions, features)."""
    for _ in range(factors[-1].ndim - 2):
        function = jax.vmap(function)
    return function(*factors)


def inner(r, c, r2, c2) -> jax.Array:
    """<g, g'> = sum_{s,t} (r_s . r'_t)(c_s . c'_t) of every example (and layer), from factors [..., T, d] and [..., T, p].

    Costs T^2 (d + p) where 2 T^2 <= d p, else forms the d x p gradients of this one matrix: T d p an example, and memory
    for a microbatch of them.
    """

    def one(r, c, r2, c2):
        if not _is_tokens(r) and not _is_tokens(r2) and 2 * c.shape[0] * c2.shape[0] > r.shape[1] * c.shape[1]:
            return jnp.sum(_product(r.T, c) * _product(r2.T, c2))
        return jnp.sum(_row_dots(r, r2) * _product(c, c2.T))

    return _over_leading(one, r, c, r2, c2)


def against(total, r, c) -> jax.Array:
    """<G, g> = sum_t (r_t G) . c_t of every example (and layer); G [d, p], or [L, d, p] with stacked factors."""

    def one(total, r, c):
        return jnp.sum((total[r] if _is_tokens(r) else _product(r, total)) * c)

    if total.ndim == 3:
        return jax.vmap(lambda r, c: jax.vmap(one)(total, r, c))(r, c)
    return jax.vmap(lambda r, c: one(total, r, c))(r, c)


def _row_dots(r, r2):
    if _is_tokens(r) and _is_tokens(r2):
        return (r[:, None] == r2[None, :]).astype(jnp.float32)
    if _is_tokens(r):
        return r2[:, r].T
    return r[:, r2] if _is_tokens(r2) else _product(r, r2.T)


def _product(a, b):
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
