"""Exact half ULPs over all of bf16, value equality, and the closed-form nulls against re-rounded permutations."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import scipy.stats

from jaxpost.probes.weights import blind_moments
from jaxpost.probes.weights import visibility as vis

CODES = np.arange(65536, dtype=np.uint16)
with np.errstate(invalid="ignore"):
    VALUES = CODES.view(ml_dtypes.bfloat16).astype(np.float64)
FINITE = np.isfinite(VALUES)


def to_bf16(w):
    return np.asarray(w, np.float32).astype(ml_dtypes.bfloat16)


def base(rng, n=4000, scale=0.05):
    return jnp.asarray(to_bf16(rng.normal(size=n) * scale).astype(np.float32))


def test_cast_is_round_to_nearest_even_everywhere():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 200_000, dtype=np.uint32)
    ties = (CODES.astype(np.uint32) << 16) + 0x8000
    for w in (bits.view(np.float32), ties.view(np.float32), VALUES[FINITE].astype(np.float32)):
        w = w[~np.isnan(w)]
        np.testing.assert_array_equal(vis.bf16_codes(jnp.asarray(w)), to_bf16(w).view(np.uint16))
    nan = vis.bf16_values(vis.bf16_codes(jnp.asarray(np.uint32([0x7F800001, 0xFFFFFFFF]).view(np.float32))))
    assert np.isnan(nan).all()
    np.testing.assert_array_equal(vis.bf16_values(jnp.asarray(CODES[FINITE])), VALUES[FINITE])


def test_half_ulps_are_the_midpoints_for_every_finite_bf16():
    order = np.sort(np.unique(VALUES[FINITE]))  # +0 and -0 are one value
    top = order[-1] + (order[-1] - order[-2])
    padded = np.concatenate([[-top], order, [top]])
    at = np.searchsorted(order, VALUES[FINITE]) + 1
    plus, minus = jax.jit(vis.half_ulps)(jnp.asarray(CODES[FINITE]))
    np.testing.assert_array_equal(np.asarray(plus, np.float64), (padded[at + 1] - padded[at]) / 2)
    np.testing.assert_array_equal(np.asarray(minus, np.float64), (padded[at] - padded[at - 1]) / 2)
    normal = FINITE & (np.abs(VALUES) >= 2.0**-126)
    ulp = np.asarray(vis.ulp(jnp.asarray(CODES[normal])), np.float64)
    assert ((np.abs(VALUES[normal]) / 256 < ulp * 1.0001) & (ulp <= np.abs(VALUES[normal]) / 128)).all()
    some = VALUES[normal & (np.abs(VALUES) < 1e30) & (np.abs(VALUES) > 1e-20)].astype(np.float32)
    np.testing.assert_array_equal(vis.ulp(vis.bf16_codes(jnp.asarray(some)), "fp32"), np.spacing(np.abs(some)))


def test_classes_share_their_boundaries_and_parity():
    classes = np.asarray(vis.class_of(jnp.asarray(CODES)))
    standing_for = np.asarray(vis.representatives())[classes]
    for h in (0, 1):
        ours, theirs = (np.asarray(vis.half_ulps(jnp.asarray(c))[h]) for c in (CODES[FINITE], standing_for[FINITE]))
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(standing_for & 1, CODES & 1)
    counts = vis.class_counts(jnp.asarray(CODES), jnp.asarray(CODES < 1000))
    np.testing.assert_array_equal(counts, np.bincount(classes[:1000], minlength=vis.CLASSES))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_value_equality(dtype):
    sign = dtype(1) << dtype(dtype().itemsize * 8 - 1)
    nan = dtype(0x7FC0) if dtype == np.uint16 else dtype(0x7FC00000)
    a = np.array([0, 0, sign, 5, 5, nan, nan, sign | dtype(5)], dtype)
    b = np.array([0, sign, 0, 5, 6, nan, nan + dtype(1), 5], dtype)
    np.testing.assert_array_equal(
        vis.same_value(jnp.asarray(a), jnp.asarray(b)), [True, True, True, True, False, True, False, False]
    )


def test_equality_is_not_a_flushed_difference():
    tiny = jnp.asarray(np.uint32([0x00810000, 0x00820000]).view(np.float32))  # neighbours whose difference is subnormal
    codes = vis.bf16_codes(tiny)
    assert not bool(vis.same_value(codes[:1], codes[1:])[0])


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_visibility_is_exact_at_ties_binades_subnormals_and_zero(dtype):
    """Every class against a brute-force count in float64, with many updates exactly on a boundary."""
    rng = np.random.default_rng(1)
    powers = 2.0 ** rng.integers(-149, 10, 300).astype(np.float64)
    d = np.concatenate(
        [powers, -powers[:100], rng.normal(size=200) * 2.0 ** rng.integers(-140, 0, 200), [0.0, -0.0, 0.0]]
    )
    d = d.astype(np.float32)
    n = d.size
    p = jax.jit(lambda x: vis.visibility_empirical(vis.update_histogram(x), n, dtype))(jnp.asarray(d))
    codes = np.asarray(vis.representatives())
    keep = FINITE[codes]
    drop = {"bf16": 1.0, "fp32": 2.0**-16}[dtype]
    plus, minus = (np.asarray(h, np.float64)[keep, None] * drop for h in vis.half_ulps(jnp.asarray(codes)))
    odd = (codes[keep, None] % 2 == 1) & (dtype == "bf16")
    smallest = 2.0**-149  # what float32 cannot hold, no update can be
    x = d.astype(np.float64)[None, :]
    outside = (x > plus) | (x < -minus) | (odd & ((x == plus) | (x == -minus)))
    outside |= (np.abs(x) >= smallest) & (np.where(x > 0, plus, minus) < smallest)
    np.testing.assert_allclose(p[keep], outside.mean(1), atol=1e-6)


def test_expected_density_and_overlap_are_those_of_permuted_updates():
    rng = np.random.default_rng(2)
    w0 = base(rng)
    d = np.float32(rng.standard_t(3, size=w0.size) * 1e-4)
    mask = np.abs(np.asarray(w0)) < 0.02
    codes = vis.bf16_codes(w0)
    counts, inside = vis.class_counts(codes), vis.class_counts(codes, jnp.asarray(mask))
    p = vis.visibility_empirical(vis.update_histogram(jnp.asarray(d)), d.size)
    seen = [to_bf16(np.asarray(w0) + rng.permutation(d)) != to_bf16(w0) for _ in range(300)]
    np.testing.assert_allclose(vis.expected_density(counts, p), np.mean(seen), rtol=4e-3)
    np.testing.assert_allclose(
        vis.expected_overlap(inside, counts, p), np.mean([s[mask].sum() / s.sum() for s in seen]), rtol=4e-3
    )


def test_expected_jaccard_is_that_of_two_blind_runs_and_not_independence():
    rng = np.random.default_rng(3)
    w0 = base(rng)
    da, db = (np.float32(rng.normal(size=w0.size) * s) for s in (4e-4, 3e-4))
    counts = vis.class_counts(vis.bf16_codes(w0))
    pa, pb = (vis.visibility_empirical(vis.update_histogram(jnp.asarray(d)), d.size) for d in (da, db))

    def drawn():
        a, b = (to_bf16(np.asarray(w0) + rng.permutation(d)) != to_bf16(w0) for d in (da, db))
        return (a & b).sum() / (a | b).sum(), a.mean(), b.mean()

    observed, qa, qb = np.mean([drawn() for _ in range(200)], axis=0)
    np.testing.assert_allclose(vis.expected_jaccard(counts, pa, pb), observed, rtol=4e-3)
    assert observed > qa * qb / (qa + qb - qa * qb) + 0.05


@pytest.mark.parametrize(
    ("law", "cdf"),
    [
        ("gaussian", scipy.stats.norm.sf),
        ("laplace", lambda x: scipy.stats.laplace.sf(x, scale=2**-0.5)),
        ("t3", lambda x: scipy.stats.t.sf(x * 3**0.5, 3)),
    ],
)
def test_laws_have_unit_variance_and_scipys_tails(law, cdf):
    x = np.array([0.0, 0.1, 1.0, 3.0, 5.0])
    np.testing.assert_allclose(vis.law_survival(law, jnp.asarray(x, jnp.float32)), cdf(x), rtol=2e-4)
    assert vis.law_survival(law, jnp.float32(jnp.inf)) < 1e-12


def test_visibility_law_agrees_with_a_large_sample():
    rng = np.random.default_rng(4)
    w0 = base(rng)
    counts = vis.class_counts(vis.bf16_codes(w0))
    sample = jnp.asarray(rng.normal(size=400_000) * 2e-4, jnp.float32)
    for dtype in ("bf16", "fp32"):
        expected = vis.expected_density(
            counts, vis.visibility_empirical(vis.update_histogram(sample), sample.size, dtype)
        )
        np.testing.assert_allclose(
            vis.expected_density(counts, vis.visibility_law("gaussian", jnp.float32(2e-4), dtype)), expected, rtol=5e-3
        )
    assert vis.law_survival("laplace", jnp.float32(0.0)) == 0.5
    with pytest.raises(ValueError, match="unknown law 'cauchy'"):
        vis.law_survival("cauchy", jnp.float32(0.0))


def test_calibrate_inverts_the_density_of_each_law():
    counts = vis.class_counts(vis.bf16_codes(base(np.random.default_rng(5))))
    sigma = jax.jit(vis.calibrate)(counts, jnp.float32(0.3))
    for law, s in zip(vis.LAWS, sigma, strict=True):
        np.testing.assert_allclose(vis.expected_density(counts, vis.visibility_law(law, s)), 0.3, rtol=1e-4)


@pytest.mark.parametrize("size", [2e-6, 2e-5, 1e-4, 3e-4, 3e-3])
def test_a_rounded_update_shows_the_norm_and_the_sizes_that_it_is_said_to_show(size):
    rng = np.random.default_rng(7)
    w0 = np.tile(np.asarray(base(rng)), 100)
    laws = {"gaussian": rng.normal(size=w0.size), "laplace": rng.laplace(scale=0.5**0.5, size=w0.size),
            "t3": rng.standard_t(3, size=w0.size) / 3**0.5}
    counts = vis.class_counts(vis.bf16_codes(jnp.asarray(w0)))
    for law, z in laws.items():
        seen = (w0 + (size * z).astype(np.float32)).astype(ml_dtypes.bfloat16).astype(np.float64) - w0
        if law == "gaussian":
            found = jax.jit(blind_moments.calibrate_norm)(counts, jnp.float32(np.mean(seen**2)))
            np.testing.assert_allclose(found, size, rtol=2e-2)
        for tol in (1e-8, 1e-5, 1e-4, 1e-3):
            within = vis.expected_density(counts, vis.rounded_within(law, jnp.float32(size), (tol,))[0])
            np.testing.assert_allclose(within, np.mean(np.abs(seen) <= tol), atol=6e-3)  # powers of two are neglected


def test_scaling_base_and_update_by_a_power_of_two_changes_nothing():
    rng = np.random.default_rng(6)
    w0, d = base(rng), jnp.asarray(rng.normal(size=4000) * 2e-4, jnp.float32)

    def density(scale):
        p = vis.visibility_empirical(vis.update_histogram(scale * d), d.size)
        return vis.expected_density(vis.class_counts(vis.bf16_codes(scale * w0)), p)

    np.testing.assert_array_equal(density(1.0), density(2.0**-20))
