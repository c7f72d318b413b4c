"""Moments of what bf16 shows of a blind update: how large its visible part is, entry by entry, before any weight is known.

An update d of an entry on the bf16 grid shows r whole ULPs u = 2h, reached from |d| = (2r - 1) h on. With S(t) = P(|d| > t),

    P(visible) = S(h),  E|visible| = u sum_r S((2r-1)h),  E visible^2 = u^2 sum_r (2r-1) S((2r-1)h),
    E visible^4 = u^4 sum_r (r^4 - (r-1)^4) S((2r-1)h)

for each side of the entry. For the laws of `visibility.LAWS` these depend on h / sigma only: tables in float64. For the
matrix's own update they follow from its histogram over eighths of octaves. ULPs that change
where an update crosses a power of two are neglected.

The mean absolute visible update measures the size of an update whose law is unknown: unlike the mean square it has a finite
variance under every law (the square of t3 has none), and unlike the density it is not the statistic under test.

Legend: C visibility classes, X points of a table.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats

from jaxpost import linalg
from jaxpost.probes.weights import visibility

_LOG2 = np.linspace(-18.0, 22.0, 1281)  # h / sigma
_TERMS = 64  # terms summed one by one; the rest by the midpoint rule
_CUT = 64.0  # sigma: what of a fourth moment lies beyond is left out, that of t3 being infinite
_FINE = np.concatenate([[0.0], np.exp(np.linspace(np.log(1e-8), np.log(1e9), 40001))])


def survival(law: str, x: np.ndarray) -> np.ndarray:
    """P(|X| > x) of a law of unit variance, float64: the host form of `visibility.law_survival`, both tails."""
    x = np.asarray(x, np.float64)
    if law == "gaussian":
        return scipy.special.erfc(x / np.sqrt(2))
    if law == "laplace":
        return np.exp(-np.sqrt(2) * x)
    if law == "t3":
        return 2 * scipy.stats.t.sf(np.sqrt(3) * x, 3)
    if law == "lognormal":
        with np.errstate(divide="ignore"):
            return scipy.special.ndtr(-(np.log(x) + visibility.LOG_SD**2) / visibility.LOG_SD)
    raise ValueError(f"unknown law {law!r}; expected one of {', '.join(visibility.LAWS)}")


def mean_size(law: str) -> float:
    """E|X| of a law of unit variance."""
    return float({"gaussian": np.sqrt(2 / np.pi), "laplace": np.sqrt(0.5), "t3": 2 / np.pi,
                  "lognormal": np.exp(-visibility.LOG_SD**2 / 2)}[law])


def inside(law: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P(|X| <= x), E[|X| 1{|X| <= x}] and d P(|X| <= x sigma0 / sigma) / d ln sigma at sigma0, of a law of unit variance."""
    step = 1e-4
    p = 1 - survival(law, x)
    slope = (survival(law, x * (1 + step)) - survival(law, x * (1 - step))) / (2 * step)
    below = np.interp(x, _FINE, np.concatenate([[0.0], np.cumsum(0.5 * np.diff(1 - survival(law, _FINE))
                                                                * (_FINE[1:] + _FINE[:-1]))]))
    return p, below, slope


@functools.cache
def table(law: str) -> np.ndarray:
    """f64[4, X]: P(visible), E|visible|, E visible^2, E visible^4 of one entry in powers of sigma, at h / sigma = 2^_LOG2.

    Both sides together.
    """
    s = survival(law, _FINE)
    short = np.where(_FINE < _CUT, s, 0.0)
    tail = [np.concatenate([np.cumsum((0.5 * (f[1:] + f[:-1]) * np.diff(_FINE**p))[::-1])[::-1], [0.0]])
            for f, p in ((s, 1), (s, 2), (short, 4))]
    x = 2.0**_LOG2
    r = np.arange(1, _TERMS + 1)[:, None]
    terms = survival(law, (2 * r - 1) * x)
    beyond = np.clip(2 * _TERMS * x, _FINE[1], _FINE[-1])
    rest = [np.interp(np.log(beyond), np.log(_FINE[1:]), t[1:]) for t in tail]
    u = 2 * x
    cut = np.where((2 * r - 1) * x < _CUT, terms, 0.0)
    return np.stack([survival(law, x), u * terms.sum(0) + rest[0], u**2 * ((2 * r - 1) * terms).sum(0) + rest[1],
                     u**4 * ((r**4 - (r - 1) ** 4) * cut).sum(0) + rest[2]])


def of_laws(sigma_L: jax.Array, laws: tuple[str, ...] = visibility.LAWS) -> jax.Array:
    """P(visible), E|visible|, E visible^2, E visible^4 of each class under laws of standard deviations sigma: f32[L, 4, C],
    the last three divided by sigma, sigma^2, sigma^4."""
    tables_Lx4xX = jnp.asarray(np.stack([table(law) for law in laws]), jnp.float32)
    law, moment = np.arange(len(laws))[:, None, None], np.arange(4)[None, :, None]
    step, moments = _LOG2[1] - _LOG2[0], 0.0
    for h_C in visibility.class_half_ulps():
        log_h_C = np.log2(h_C, dtype=np.float64).astype(np.float32)
        place = (log_h_C[None] - jnp.log2(sigma_L)[:, None] - _LOG2[0]) / step  # straight lines between the points
        place = jnp.clip(place, 0.0, len(_LOG2) - 1.001)[:, None]
        left = place.astype(jnp.int32)
        share = place - left
        moments += 0.5 * ((1 - share) * tables_Lx4xX[law, moment, left] + share * tables_Lx4xX[law, moment, left + 1])
    return moments


def calibrate_norm(counts_C: jax.Array, mean_square: jax.Array) -> jax.Array:
    """Standard deviation of the Gaussian update whose bf16-visible part has this mean square: f32, for bf16 masters."""
    return visibility.bisect(lambda sigma: visibility.expected_density(counts_C, of_laws(sigma, ("gaussian",))[0, 2])
                             < mean_square / sigma**2, 1)[0]


def calibrate(counts_C: jax.Array, mean_visible: jax.Array) -> jax.Array:
    """Standard deviations at which each law has the given mean absolute visible update: f32[LAWS]."""
    n_C = counts_C.astype(jnp.float32) / jnp.sum(counts_C)
    return visibility.bisect(lambda sigma_L: linalg.matmul(of_laws(sigma_L)[:, 1], n_C[:, None])[:, 0] * sigma_L < mean_visible,
                             len(visibility.LAWS))


def density_at_size(counts_C: jax.Array, sigma_L: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(P(visible) f32[L, C], variance of the visible count f32[L]) of blind updates whose mean absolute visible update was
    measured.

    The size is estimated from the same entries, so of the count X and the size A only X - b A varies freely, with
    b = (dEX / d sigma) / (dEA / d sigma): Var = sum n_c [p(1-p) - 2 b (a - p a) + b^2 (v - a^2)].
    """
    step, n_C = 1.02, counts_C.astype(jnp.float32)

    def total(x_LxC):
        return linalg.matmul(x_LxC, n_C[:, None])[:, 0]

    here, up, down = jax.vmap(lambda scale: of_laws(sigma_L * scale))(jnp.asarray([1.0, step, 1 / step]))
    p, a, v = here[:, 0], here[:, 1], here[:, 2]
    slope = (total(up[:, 0]) - total(down[:, 0])) / jnp.maximum(total(up[:, 1]) * step - total(down[:, 1]) / step, 1e-30)
    b = slope[:, None]
    return p, jnp.maximum(total(p * (1 - p) - 2 * b * a * (1 - p) + b**2 * (v - a**2)), 0.0)


def sizes(dw: jax.Array) -> jax.Array:
    """Counts of update entries by magnitude, eight equal intervals an octave: i32[256, 8]. Zeros count nowhere."""
    bits = jax.lax.bitcast_convert_type(dw.ravel(), jnp.uint32) & jnp.uint32(0x7FFFFFFF)
    counts = jnp.zeros(2048, jnp.int32).at[(bits >> 20).astype(jnp.int32)].add((bits >= 0x00800000).astype(jnp.int32))
    return counts.reshape(256, 8)


_NEAR = 4  # octaves above h in which steps of 2h are counted; their edges (2r - 1)h are edges of the intervals
_MIDDLE = 1 + (np.arange(8) + 0.5) / 8
_STEPS = 2.0 * np.floor((2.0 ** np.arange(_NEAR)[:, None] * _MIDDLE + 1) / 2)  # visible change in units of h: [_NEAR, 8]


def of_sizes(counts_256x8: jax.Array, n: jax.Array, sigma: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(E visible^2 / sigma^2, E visible^4 / sigma^4) of each class when |d| is drawn from the update's own: f32[C] twice.

    `counts` of `sizes`, made of n entries; sigma, their root mean square, is the unit. Beyond _NEAR octaves above h the update
    is taken as seen, with the variance h^2 / 3 of its rounding.
    """
    share = counts_256x8.astype(jnp.float32) / n
    unit = jnp.exp2(jnp.clip(jnp.arange(256) - 127 - jnp.log2(jnp.maximum(sigma, 1e-37)), -60.0, 30.0))

    def suffix(x):
        return jnp.append(jnp.cumsum(jnp.sum(x, 1)[::-1])[::-1], jnp.zeros(_NEAR + 1))

    size = unit[:, None] * jnp.asarray(_MIDDLE, jnp.float32)[None, :]
    above = [suffix(share * size**p) for p in (0, 2, 4)]
    at = np.arange(256)
    near = jnp.stack([jnp.pad(share, ((0, _NEAR), (0, 0)))[at + k] for k in range(_NEAR)], 1)  # [256, _NEAR, 8]
    seen, square, fourth = (x[at + _NEAR] for x in above)
    steps = jnp.asarray(_STEPS, jnp.float32)[None]
    second = unit**2 * (jnp.sum(near * steps**2, (1, 2)) + seen / 3) + square
    fourth = unit**4 * jnp.sum(near * steps**4, (1, 2)) + fourth + 2 * unit**2 * square
    outward, inward = (np.clip(x, 0, 255) for x in visibility.class_boundary_exponents())
    return 0.5 * (second[outward] + second[inward]), 0.5 * (fourth[outward] + fourth[inward])
