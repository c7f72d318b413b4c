"""Blind updates of one matrix, read as its own update is read: after the same rounding, in both views.

Of float32 masters a blind update is the update itself with its entries in another order: its law is known. Of masters stored in
bf16 only the rounded update exists; there the laws of `visibility.LAWS` stand for what is unknown, each with the standard
deviation at which its mean absolute visible update is the one seen, and a null is the union of their bands.

Legend: C visibility classes, L laws, D draws, K dimensions of subspaces; V the two views, fp32 and bf16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpost import linalg
from jaxpost.probes.weights import blind_energy, blind_moments, by_matrix, spectra, visibility
from jaxpost.probes.weights.panel import Panel

DRAWN = ("t3", "gaussian", "t3", "lognormal")  # laws of the draws of a bf16 run: the ends of the range, the widest twice


class Described(NamedTuple):
    """What is known of an update without its place in the matrix."""

    sigma: jax.Array  # root mean square, f32
    kurtosis: jax.Array  # E d^4 / (E d^2)^2
    visible_size: jax.Array  # mean absolute visible update
    visible_L: jax.Array  # standard deviation of each law at this visible size
    sizes_L: jax.Array  # standard deviation of each law at this mean absolute update
    counts_256x8: jax.Array  # `blind_moments.sizes`
    stored_bf16: jax.Array  # bool: the masters are stored in bf16


def describe(dw: jax.Array, visible: jax.Array, class_counts_C: jax.Array, stored_bf16: jax.Array) -> Described:
    """Sizes of an update and of what bf16 shows of it."""
    sigma = jnp.sqrt(jnp.mean(dw**2))
    unit = dw / jnp.maximum(sigma, 1e-30)
    size = jnp.mean(jnp.abs(visible))
    sizes = jnp.mean(jnp.abs(dw)) / jnp.asarray([blind_moments.mean_size(law) for law in visibility.LAWS], jnp.float32)
    return Described(sigma, jnp.mean(unit**4), size, blind_moments.calibrate(class_counts_C, size), sizes,
                     blind_moments.sizes(dw), stored_bf16)


def tables(w0: jax.Array, w1: jax.Array) -> jax.Array:
    """Visibility probability of every class under each law that stands for a blind update of these magnitudes: f32[L, C].

    Float32 masters: the law of the update's own entries, in every row. Masters stored in bf16: the laws at the visible density.
    Zero for a matrix without an update.
    """
    codes0, dw = visibility.bf16_codes(w0), w1 - w0
    counts_C = visibility.class_counts(codes0)
    density = jnp.mean(~visibility.same_value(codes0, visibility.bf16_codes(w1)), dtype=jnp.float32)

    def laws():
        sigma_L = visibility.calibrate(counts_C, density)
        return jnp.stack([visibility.visibility_law(law, sigma_L[i]) for i, law in enumerate(visibility.LAWS)])

    def own():
        on_grid = visibility.visibility_empirical(visibility.update_histogram(dw), w0.size)
        p_C = jax.lax.cond(by_matrix.bf16_master(w0), lambda: on_grid, lambda: _off_grid(w0, codes0, dw, counts_C))
        return jnp.broadcast_to(p_C, (len(visibility.LAWS), visibility.CLASSES))

    probability = jax.lax.cond(by_matrix.bf16_master(w1), laws, own)
    return jnp.where(jnp.any(dw != 0), probability, 0.0)


def _off_grid(w0: jax.Array, codes0: jax.Array, dw: jax.Array, counts_C: jax.Array) -> jax.Array:
    """Mean over the entries of a class of the probability that a permuted update leaves their bf16 cell: f32[C].

    An entry that bf16 does not hold lies anywhere in its cell: [S(t+) + S(t-)] / 2, t+- its distances to the boundaries.
    """
    size = jnp.sort(jnp.abs(dw).ravel())
    offset = w0 - visibility.bf16_values(codes0)
    sides = [h - sign * offset for sign, h in zip((1, -1), visibility.half_ulps(codes0))]
    p = sum(1 - jnp.searchsorted(size, t.ravel(), side="right") / size.size for t in sides) / 2
    summed = jnp.zeros(visibility.CLASSES).at[visibility.class_of(codes0).ravel()].add(p)
    return summed / jnp.maximum(counts_C, 1)


def each_law(read: Callable[[jax.Array], Any], tables_LxC: jax.Array, stored_bf16: jax.Array) -> Any:
    """`read` of every law's table, stacked; once where masters are float32 and all rows are the same."""
    def once():
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (len(tables_LxC), *x.shape)), read(tables_LxC[0]))

    return jax.lax.cond(stored_bf16, lambda: jax.lax.map(read, tables_LxC), once)


def visible_square(update: Described, class_counts_C: jax.Array) -> jax.Array:
    """Mean and variance of the sum of squares that bf16 shows of a permuted update: f32[2]."""
    second, fourth = blind_moments.of_sizes(update.counts_256x8, jnp.sum(class_counts_C), update.sigma)
    n = class_counts_C.astype(jnp.float32)
    spread = jnp.maximum(fourth - second**2, 0.0)  # of one visible size it is 0 but for rounding
    return jnp.stack([jnp.vdot(n, second) * update.sigma**2, jnp.vdot(n, spread) * update.sigma**4])


def energies(update: Described, ref: Mapping[str, Any], ks: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """(mean, variance) of the share of a blind update's energy in each region: f32[2 + L, 4, K] twice.

    First the update's own law in the float32 view and in the bf16 view, then the bf16 view of every law.
    """
    w0 = ref["w0"]
    classes = visibility.class_of(ref["codes"])
    own = blind_moments.of_sizes(update.counts_256x8, w0.size, update.sigma)
    pairs = jnp.concatenate([jnp.stack(own)[None], blind_moments.of_laws(update.visible_L)[:, 2:]])  # [1 + L, 2, C]
    flat = jnp.stack([jnp.ones_like(w0), jnp.full_like(w0, update.kurtosis)])

    def read(moments):
        whole = (slice(None), *jax.lax.optimization_barrier((moments[0], moments[1])))
        return blind_energy.shares([whole], ref["u"], ref["v"], ks, jnp, linalg.matmul, jax.lax.optimization_barrier)

    first = read(flat)
    wanted = jnp.arange(len(pairs)) == 0
    wanted = jnp.where(update.stored_bf16, ~wanted, wanted)  # only what the masters' dtype asks for is computed
    nothing = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), first)
    rest = jax.lax.map(lambda x: jax.lax.cond(x[0], lambda t: read(t[:, classes]), lambda t: nothing, x[1]), (wanted, pairs))
    return tuple(jnp.concatenate([one[None], more]) for one, more in zip(first, rest, strict=True))


def draw(update: Described, dw: jax.Array, key: jax.Array, number: jax.Array) -> jax.Array:
    """Blind update number `number`: a permutation of dw, or of bf16 masters a draw from a law of DRAWN."""
    key = jax.random.fold_in(key, number)
    shape = dw.shape
    of = {"gaussian": lambda: jax.random.normal(key, shape), "t3": lambda: _t3(key, shape),
          "lognormal": lambda: _lognormal(key, shape)}

    def of_law():
        place = number % len(DRAWN)
        sigma = update.visible_L[jnp.asarray([visibility.LAWS.index(law) for law in DRAWN])[place]]
        return sigma * jax.lax.switch(place, [of[law] for law in DRAWN])

    def permuted():
        order = jnp.argsort(jax.random.bits(key, (dw.size,)))
        return dw.ravel()[order].reshape(shape)

    return jax.lax.cond(update.stored_bf16, of_law, permuted)


def _t3(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Student's t of three degrees of freedom at unit variance: sqrt(U^(-2/3) - 1) cos(2 pi V) (Bailey 1994). `jax.random.t`
    draws a chi-square by rejection, a loop that compiles for longer than the rest of a draw."""
    size_key, angle_key = jax.random.split(key)
    u = jax.random.uniform(size_key, shape, minval=jnp.finfo(jnp.float32).tiny)
    return jnp.sqrt(u ** (-2.0 / 3.0) - 1.0) * jnp.cos(2 * jnp.pi * jax.random.uniform(angle_key, shape))


def _lognormal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    size_key, sign_key = jax.random.split(key)
    size = jnp.exp(visibility.LOG_SD * jax.random.normal(size_key, shape) - visibility.LOG_SD**2)
    return jnp.where(jax.random.bernoulli(sign_key, shape=shape), size, -size)


def ranks(panel: Panel, update: Described, ref: Mapping[str, Any], dw: jax.Array, edge_V: jax.Array) -> dict[str, jax.Array]:
    """Ranks of drawn blind updates as each view reads them: "blind_ranks" f32[V, D, ranks of the level]
    and, at level "exact", "blind_above_edge" f32[V, D]."""
    w0, key = ref["w0"], jax.random.wrap_key_data(ref["blind_key"])

    def one(number):
        w = w0 + draw(update, dw, key, number)
        seen = visibility.bf16_values(visibility.bf16_codes(w)) - w0
        views = jnp.where(update.stored_bf16, jnp.stack([seen, seen]), jnp.stack([w - w0, seen]))
        return jax.lax.map(read, (views, edge_V))

    def read(x):
        hill_k, d = panel.ks[0], jnp.where(jnp.isfinite(x[0]).all(), x[0], 0.0)
        if not panel.reads("exact"):
            s_K, _ = linalg.leading_values(d, min(hill_k, min(d.shape)), jax.random.key(spectra.SKETCH))
            return {"blind_ranks": spectra.leading_ranks(jnp.linalg.norm(d), s_K, hill_k)}
        s_Q = linalg.singular_values(d)
        above = linalg.count_above(s_Q, x[1]).astype(jnp.float32)
        return {"blind_ranks": spectra.ranks(s_Q, hill_k), "blind_above_edge": above}

    return jax.tree.map(lambda x: x.swapaxes(0, 1), jax.lax.map(one, jnp.arange(panel.rank_draws)))
