"""Which entries of an update a bf16 reader can see, observed and expected.

A master weight w0 on the bf16 grid reads differently after w0 + d exactly when d reaches past the boundary at which
round-to-nearest-even leaves w0's code. Those boundaries are powers of two, so the visibility probability of an entry
depends only on its sign, its exponent and whether its mantissa is zero, odd or even: 1,536 classes. A blind update
(the same entries of d, in another order) then has expected density, overlap and Jaccard in closed form, from one
histogram of d over powers of two: no draws and no sorting.

All comparisons are on integer bit patterns: XLA flushes subnormal differences to zero, so `a - b != 0` is not a test.

Legend: C = 1,536 classes, E exponents.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import sharding

CLASSES = 1536  # sign (2) x biased exponent (256) x mantissa (zero, odd, even)
LAWS = ("gaussian", "laplace", "t3", "lognormal")  # of updates whose own law is unknown, heavy tails to nearly equal sizes
LOG_SD = 0.25  # of "lognormal": |d| log-normal, random sign, as of an optimizer that normalises every entry's step
LOWEST = -24  # biased exponents run from here: subnormal d reach -22, half a ULP of the smallest float32 is at -23
_EXPONENTS = 255 - LOWEST + 1


def bf16_codes(w: jax.Array) -> jax.Array:
    """Bit pattern of w rounded to bf16, ties to even: u16. On integers, so subnormals survive on every back end."""
    bits = jax.lax.bitcast_convert_type(w, jnp.uint32)
    rounded = (bits + jnp.uint32(0x7FFF) + ((bits >> 16) & jnp.uint32(1))) >> 16
    quiet_nan = (bits >> 16) | jnp.uint32(0x40)
    return jnp.where((bits & jnp.uint32(0x7FFFFFFF)) > 0x7F800000, quiet_nan, rounded).astype(jnp.uint16)


def bf16_values(codes: jax.Array) -> jax.Array:
    """The float32 value of bf16 bit patterns (exact)."""
    return jax.lax.bitcast_convert_type(codes.astype(jnp.uint32) << 16, jnp.float32)


def fp32_codes(w: jax.Array) -> jax.Array:
    """Bit pattern of float32 values: u32."""
    return jax.lax.bitcast_convert_type(w, jnp.uint32)


def same_value(codes0: jax.Array, codes1: jax.Array) -> jax.Array:
    """Equality of two u16 or u32 bit patterns as values: +0 equals -0; NaN only equals a bit-equal NaN."""
    magnitude = jnp.asarray(np.iinfo(codes0.dtype).max // 2, codes0.dtype)
    both_zero = ((codes0 | codes1) & magnitude) == 0
    return (codes0 == codes1) | both_zero


def _power_of_two(biased_exponent: jax.Array) -> jax.Array:
    """2^(e - 127) in float32 from e (may be <= 0: subnormal), exact; built from bits, not from exp2."""
    normal = jnp.maximum(biased_exponent, 1).astype(jnp.uint32) << 23
    subnormal = jnp.uint32(1) << jnp.clip(22 + biased_exponent, 0, 22).astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(jnp.where(biased_exponent >= 1, normal, subnormal), jnp.float32)


def boundary_exponents(codes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Biased exponents of the half ULP away from zero and towards zero, for bf16 codes."""
    exponent = ((codes >> 7) & 0xFF).astype(jnp.int32)
    outward = jnp.maximum(exponent, 1) - 8
    binade_boundary = ((codes & 0x7F) == 0) & (exponent > 1)
    return outward, outward - binade_boundary.astype(jnp.int32)


def half_ulps(codes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Distances (h+, h-) from a finite bf16 number to the midpoints with its upper and lower neighbour: exact f32.

    Half an ULP on both sides, except a power of two above the smallest normal, whose inner neighbour is at half the
    distance; zero and subnormals have 2^-134. Above the largest finite number lies the overflow threshold.
    """
    outward, inward = boundary_exponents(codes)
    negative = (codes >> 15) == 1
    plus, minus = jnp.where(negative, inward, outward), jnp.where(negative, outward, inward)
    return _power_of_two(plus), _power_of_two(minus)


def ulp(codes: jax.Array, dtype: str = "bf16") -> jax.Array:
    """Spacing of bf16 (or, with dtype="fp32", of float32) numbers just above |w|, for bf16 codes of w: exact f32."""
    exponent = jnp.maximum(((codes >> 7) & 0xFF).astype(jnp.int32), 1)
    return _power_of_two(exponent - {"bf16": 7, "fp32": 23}[dtype])


def rounding_variance(codes0: jax.Array, codes1: jax.Array) -> jax.Array:
    """Mean square error that bf16 rounding makes of an entry of matrices with these codes: mean((ulp0^2 + ulp1^2) / 2) / 12."""
    return jnp.mean((ulp(codes0) ** 2 + ulp(codes1) ** 2) / 2) / 12


def class_of(codes: jax.Array) -> jax.Array:
    """Class of bf16 codes, i32 in [0, 1536): sign * 768 + exponent * 3 + (0 zero, 1 odd, 2 even mantissa)."""
    mantissa = codes & 0x7F
    kind = jnp.where(mantissa == 0, 0, 2 - (mantissa & 1)).astype(jnp.int32)
    return (codes >> 15).astype(jnp.int32) * 768 + ((codes >> 7) & 0xFF).astype(jnp.int32) * 3 + kind


def representatives() -> np.ndarray:
    """One bf16 code for each class, in class order: u16[C]."""
    c = np.arange(CLASSES)
    return ((c // 768) << 15 | (c % 768 // 3) << 7 | (c % 3)).astype(np.uint16)  # mantissa 0, 1 or 2


@functools.cache
def class_half_ulps() -> tuple[np.ndarray, np.ndarray]:
    """`half_ulps` of the representatives, f32[C] twice: computed once, never by the compiler of every program."""
    return sharding.constants(lambda: half_ulps(jnp.asarray(representatives())))


@functools.cache
def class_boundary_exponents() -> tuple[np.ndarray, np.ndarray]:
    """`boundary_exponents` of the representatives, likewise."""
    return sharding.constants(lambda: boundary_exponents(jnp.asarray(representatives())))


def class_counts(codes: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """How many entries (inside `mask`) fall in each class: i32[C]."""
    weight = jnp.ones(codes.shape, jnp.int32) if mask is None else mask.astype(jnp.int32)
    return jnp.zeros(CLASSES, jnp.int32).at[class_of(codes).ravel()].add(weight.ravel())


def update_histogram(dw: jax.Array) -> jax.Array:
    """Counts of update entries by sign, power-of-two interval and being that power exactly: i32[2, E, 2].

    [s, e, 1] counts |d| = 2^(e - 127), [s, e, 0] counts 2^(e - 127) < |d| < 2^(e - 126), e from -24 (subnormals have
    their own); zeros are nowhere. This is the empirical distribution F at every boundary there is.
    """
    bits = jax.lax.bitcast_convert_type(dw.ravel(), jnp.uint32)
    exponent = ((bits >> 23) & 0xFF).astype(jnp.int32)
    mantissa = bits & jnp.uint32(0x7FFFFF)
    lead = 31 - jax.lax.clz(jnp.maximum(mantissa, 1)).astype(jnp.int32)  # leading bit of a subnormal
    power = jnp.where(exponent > 0, exponent, lead - 22)
    exact = jnp.where(exponent > 0, mantissa == 0, mantissa == (jnp.uint32(1) << lead.astype(jnp.uint32)))
    nonzero = (bits & jnp.uint32(0x7FFFFFFF)) != 0
    index = ((bits >> 31).astype(jnp.int32) * _EXPONENTS + power - LOWEST) * 2 + exact
    counts = jnp.zeros(2 * _EXPONENTS * 2, jnp.int32).at[index].add(nonzero.astype(jnp.int32))
    return counts.reshape(2, _EXPONENTS, 2)


def visibility_empirical(histogram: jax.Array, n: int, dtype: str = "bf16") -> jax.Array:
    """Visibility probability of each class when d is drawn from the update's own entries: f32[C].

    p_c = 1 - [F(h+) - F(-h-)], with the boundary itself inside for an even mantissa (ties to even) and outside for an
    odd one. `n` entries made the histogram. dtype="fp32" asks whether float32 sees it, for w0 on the bf16 grid (its
    float32 mantissa is even). Rounding of w0 + d to float32 before the cast is neglected.
    """
    codes = representatives()
    outward, inward = class_boundary_exponents()
    odd = ((codes & 1) == 1) & (dtype == "bf16")
    drop = {"bf16": 0, "fp32": 16}[dtype]
    at_least_2xE = jnp.cumsum(histogram.sum(2)[:, ::-1], axis=1)[:, ::-1]  # |d| >= 2^e, by sign
    beyond_2xE = at_least_2xE - histogram[:, :, 1]
    negative = ((codes >> 15) == 1).astype(np.int32)

    def count(d_sign, exponent):
        e = np.maximum(exponent - drop - LOWEST, 0)
        return jnp.where(odd, at_least_2xE[d_sign, e], beyond_2xE[d_sign, e])

    visible = count(negative, outward) + count(1 - negative, inward)  # outward: d has the sign of w
    return visible.astype(jnp.float32) / n


def law_survival(law: str, x: jax.Array) -> jax.Array:
    """P(X > x), x >= 0, for one of `LAWS`, symmetric and of unit variance."""
    if law == "gaussian":
        return _normal_survival(x)
    if law == "laplace":
        return 0.5 * jnp.exp(-(2.0**0.5) * x)
    if law == "t3":
        x = jnp.minimum(x, 1e18)
        return (jnp.arctan2(1.0, x) - x / (1.0 + x * x)) / jnp.pi
    if law == "lognormal":
        return 0.5 * _normal_survival((jnp.log(x) + LOG_SD**2) / LOG_SD)
    raise ValueError(f"unknown law {law!r}; expected one of {', '.join(LAWS)}")


def _normal_survival(x: jax.Array) -> jax.Array:
    """P(X > x) of a standard normal. `jax.scipy.stats.norm.sf` evaluates erf and erfc both and compiles for twice as long."""
    return 0.5 * jax.scipy.special.erfc(x * 0.5**0.5)


def visibility_law(law: str, sigma: jax.Array, dtype: str = "bf16") -> jax.Array:
    """Visibility probability of each class when d has a symmetric law of standard deviation sigma > 0: f32[C].

    dtype="fp32" asks whether float32 sees it, for w0 on the bf16 grid (boundaries nearer by 2^16).
    """
    h_plus, h_minus = class_half_ulps()
    sigma = sigma * {"bf16": 1.0, "fp32": 2.0**16}[dtype]
    return jnp.clip(law_survival(law, h_plus / sigma) + law_survival(law, h_minus / sigma), 0.0, 1.0)


def calibrate(counts_C: jax.Array, density: jax.Array) -> jax.Array:
    """Standard deviations at which each of `LAWS` has the given expected visible density: f32[LAWS].

    Bisection on log sigma, 40 halvings between 1e-14 and 1e4. For weights that exist in bf16 only: there the update's
    own entries are not its distribution before rounding.
    """
    return bisect(lambda sigma_L: jnp.stack([expected_density(counts_C, visibility_law(law, sigma_L[i]))
                                              for i, law in enumerate(LAWS)]) < density, len(LAWS))


def bisect(below: Callable[[jax.Array], jax.Array], n: int) -> jax.Array:
    """Where `below`, elementwise of n standard deviations, stops to hold: 40 halvings of log sigma between 1e-14 and 1e4."""

    def halve(_, ends):
        middle = 0.5 * (ends[0] + ends[1])
        low = below(jnp.exp(middle))
        return jnp.where(low, middle, ends[0]), jnp.where(low, ends[1], middle)

    ends = jnp.full(n, np.log(1e-14), jnp.float32), jnp.full(n, np.log(1e4), jnp.float32)
    ends = jax.lax.fori_loop(0, 40, halve, ends)
    return jnp.exp(0.5 * (ends[0] + ends[1]))


def rounded_within(law: str, sigma: jax.Array, tols: Sequence[float]) -> jax.Array:
    """P(an update rounded to bf16 on its entry is at most a tolerance in magnitude) by tolerance and class: f32[tolerances, C].

    It is r whole ULPs u, and r <= tol / u where the update itself is below (2 floor(tol / u) + 1) u / 2. Neglects that ULPs
    change where the update crosses a power of two.
    """
    within, tol = 1.0, np.asarray(tols, np.float32)[:, None]
    for h_C in class_half_ulps():
        fine = tol / 2**10 > h_C  # rounding moves the boundary by less than a thousandth
        with np.errstate(over="ignore"):
            steps = np.floor(np.where(fine, np.float32(1), tol / (2 * h_C)))
        within -= law_survival(law, np.where(fine, tol, (2 * steps + 1) * h_C) / sigma)
    return within


def _total(counts_C: jax.Array, p_C: jax.Array) -> jax.Array:
    return jnp.vdot(counts_C.astype(jnp.float32), p_C, precision=jax.lax.Precision.HIGHEST)


def expected_density(counts_C: jax.Array, p_C: jax.Array) -> jax.Array:
    """mean(p) over entries: the expected fraction that a blind update changes visibly."""
    return _total(counts_C, p_C) / jnp.sum(counts_C)


def expected_overlap(mask_counts_C: jax.Array, counts_C: jax.Array, p_C: jax.Array) -> jax.Array:
    """sum_{i in M} p_i / sum_i p_i: the expected share of a blind update's visible entries that lie in the mask."""
    return _total(mask_counts_C, p_C) / _total(counts_C, p_C)


def expected_jaccard(counts_C: jax.Array, pa_C: jax.Array, pb_C: jax.Array) -> jax.Array:
    """sum p^a p^b / sum (p^a + p^b - p^a p^b): the expected Jaccard index of two blind updates of the same base."""
    return _total(counts_C, pa_C * pb_C) / _total(counts_C, pa_C + pb_C - pa_C * pb_C)
