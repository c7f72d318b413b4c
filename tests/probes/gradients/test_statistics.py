"""Statistics of (S1, S2, m) against gradients in numpy: planted coherence, brute-force deletion, coverage, statuses."""

import numpy as np
import pytest

from jaxpost.probes.gradients import statistics


def sums_of(g_mxn):
    total = g_mxn.sum(0)
    return total @ total, (g_mxn**2).sum(1), g_mxn @ total


def planted(alpha, m, n, rng):
    """m gradients u sqrt(alpha n) + sqrt(1 - alpha) noise: coherence alpha."""
    u = rng.normal(size=n)
    return np.sqrt(alpha * n) * u / np.linalg.norm(u) + np.sqrt(1 - alpha) * rng.normal(size=(m, n))


@pytest.mark.parametrize("m", [2, 3, 7, 50])
def test_point_values_are_those_of_pairs_and_covariances(m):
    g = planted(0.3, m, 20, np.random.default_rng(m))
    s1, square, _ = sums_of(g)
    found = statistics.point(s1, square.sum(), m)
    gram = g @ g.T
    off = (gram.sum() - np.trace(gram)) / (m * (m - 1))
    wanted = {"alpha.plug_in": gram.mean() / square.mean(), "alpha.unbiased": off / square.mean(),
              "m_coherence.plug_in": m * gram.mean() / square.mean(), "m_coherence.unbiased": m * off / square.mean(),
              "mean_norm2": off, "noise_trace": np.trace(np.cov(g.T)), "noise_scale": np.trace(np.cov(g.T)) / off}
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-12), name
    assert found["noise_scale"] == pytest.approx(1 / found["alpha.unbiased"] - 1, rel=1e-12)
    small, big = square.mean(), s1 / m**2  # the two-batch form of McCandlish et al., sizes 1 and m
    assert found["mean_norm2"] == pytest.approx((m * big - small) / (m - 1), rel=1e-12)
    assert found["noise_trace"] == pytest.approx((small - big) / (1 - 1 / m), rel=1e-12)


def test_orthogonal_and_identical_gradients_read_their_limits():
    m = 6
    apart, same = (statistics.point(*(lambda s: (s[0], s[1].sum()))(sums_of(g)), m) for g in (np.eye(m), np.ones((m, 4))))
    for name, at in statistics.ORTHOGONAL.items():
        assert apart[name] == pytest.approx(at(m), abs=1e-15), name
    assert same["alpha.plug_in"] == same["alpha.unbiased"] == 1 and same["m_coherence.plug_in"] == m
    assert same["noise_scale"] == 0 and np.isnan(apart["noise_scale"])


def test_chunk_sums_read_the_noise_of_single_examples():
    rng = np.random.default_rng(0)
    g = planted(0.2, 4000, 30, rng)
    chunks = g.reshape(1000, 4, 30).sum(1)
    one, four = (statistics.point(s[0], s[1].sum(), m, k) for s, m, k in (
        (sums_of(g), 4000, 1), (sums_of(chunks), 1000, 4)))
    assert four["noise_scale"] == pytest.approx(one["noise_scale"], rel=0.1)
    assert four["mean_norm2"] == pytest.approx(one["mean_norm2"], rel=0.02)
    assert statistics.alpha_of_one(four["alpha.unbiased"], 4) == pytest.approx(one["alpha.unbiased"], rel=0.1)
    a = 0.2
    assert statistics.alpha_of_one(4 * a / (1 + 3 * a), 4) == pytest.approx(a, rel=1e-12)


def test_jackknife_is_that_of_deleting_examples_one_by_one():
    g = planted(0.3, 9, 15, np.random.default_rng(4))
    s1, square, dot = sums_of(g)
    found = statistics.estimates(s1, square, dot)
    dropped = [statistics.point(s[0], s[1].sum(), 8) for s in (sums_of(np.delete(g, i, 0)) for i in range(9))]
    for name, estimate in found.items():
        if name in ("sum_norm2", "norm2_sum", "noise_scale"):
            continue
        scale = 9 if name.startswith("m_coherence") else 1  # m alpha at m = 9
        x = np.asarray([scale * d[name.replace("m_coherence", "alpha")] for d in dropped])
        half = 2.306004135 * np.sqrt(8 / 9 * ((x - x.mean()) ** 2).sum())
        assert estimate.hi - estimate.value == pytest.approx(half, rel=1e-8), name
    alpha = found["alpha.unbiased"]
    assert found["noise_scale"].hi == pytest.approx(1 / alpha.lo - 1) and found["noise_scale"].lo == pytest.approx(
        1 / alpha.hi - 1)


def test_unbiased_coherence_is_unbiased_and_its_interval_covers():
    """400 samples of 24 gradients with alpha 0.25: mean within its error, plug-in off by (1 - a)/m, coverage near 95 %."""
    rng, alpha, m = np.random.default_rng(7), 0.25, 24
    u = rng.normal(size=40)
    mean = np.sqrt(alpha * 40) * u / np.linalg.norm(u)
    g = mean + np.sqrt(1 - alpha) * rng.normal(size=(400, m, 40))
    total = g.sum(1)
    found = statistics.estimates((total**2).sum(-1), (g**2).sum(-1), np.einsum("rmn,rn->rm", g, total))
    value = found["alpha.unbiased"].value
    assert abs(value.mean() - alpha) < 4 * value.std() / 20
    assert found["alpha.plug_in"].value.mean() - alpha == pytest.approx((1 - alpha) / m, rel=0.15)
    for name, truth in (("alpha.unbiased", alpha), ("mean_norm2", alpha * 40), ("noise_trace", 0.75 * 40), ("noise_scale", 3)):
        covered = np.mean((found[name].lo <= truth) & (truth <= found[name].hi))
        assert 0.9 <= covered <= 0.985, (name, covered)


def test_independent_gradients_read_zero_as_it_comes_and_the_noise_scale_is_unresolved():
    rng = np.random.default_rng(1)
    found = [statistics.estimates(*sums_of(rng.normal(size=(8, 500)))) for _ in range(40)]
    alpha = np.asarray([f["alpha.unbiased"].value for f in found])
    assert (alpha < 0).any() and abs(alpha.mean()) < 4 * alpha.std() / np.sqrt(40)
    status = np.asarray([f["noise_scale"].status for f in found])
    assert (status == "unresolved").mean() > 0.85
    assert all(np.isfinite(f["noise_scale"].value) for f in found)
    assert {str(f["noise_scale"].reason) for f, s in zip(found, status, strict=True) if s == "unresolved"} == {
        "the interval of the denominator holds 0"}


def test_one_example_zero_and_broken_gradients_are_absent_with_a_status():
    one = statistics.estimates(*sums_of(np.ones((1, 3))))
    assert {str(e.status) for n, e in one.items() if "norm2" not in n} == {"absent"}
    assert one["sum_norm2"].value == one["norm2_sum"].value == 3
    zero = statistics.estimates(*sums_of(np.zeros((4, 3))))
    assert {str(e.status) for e in zero.values()} == {"degenerate"} and np.isnan(zero["alpha.plug_in"].value)
    broken = statistics.estimates(*sums_of(np.full((4, 3), np.nan)))
    assert {str(e.status) for e in broken.values()} == {"nan"}
    two = statistics.estimates(*sums_of(np.ones((2, 3))))
    assert np.isnan(two["alpha.unbiased"].lo) and two["alpha.unbiased"].reason == statistics.FEW


def test_rounding_bound_holds_for_float32_sums_and_is_not_idle():
    rng = np.random.default_rng(2)
    for alpha in (0.0, 0.05, 0.9):
        g = planted(alpha, 64, 400, rng).astype(np.float32)
        total = np.zeros(400, np.float32)
        for row in g:
            total = total + row
        s1 = np.sum((total * total).reshape(20, 20).sum(1), dtype=np.float32)
        square = np.asarray([np.sum((r * r).reshape(20, 20).sum(1), dtype=np.float32) for r in g])
        exact = statistics.point(*(lambda s: (s[0], s[1].sum()))(sums_of(g.astype(np.float64))), 64)
        found = statistics.estimates(s1, square, additions=40)
        for name, value in exact.items():
            if name != "noise_scale" or alpha:
                assert abs(found[name].value - value) <= found[name].error, name
        assert found["alpha.unbiased"].error < 1e-4


def test_scale_of_the_loss_leaves_ratios_alone():
    g = planted(0.3, 9, 15, np.random.default_rng(5))
    plain, scaled = (statistics.estimates(*sums_of(k * g)) for k in (1.0, 8.0))
    for name in ("alpha.plug_in", "alpha.unbiased", "m_coherence.plug_in", "m_coherence.unbiased", "noise_scale"):
        assert scaled[name].value == plain[name].value and scaled[name].lo == plain[name].lo
    assert scaled["mean_norm2"].value == 64 * plain["mean_norm2"].value


def test_quantile_interval_covers_and_is_open_where_the_sample_is_small():
    x = np.random.default_rng(3).exponential(size=(2000, 40))
    value, lo, hi = statistics.quantile(x, 0.5)
    assert 0.95 <= np.mean((lo <= np.log(2)) & (np.log(2) <= hi)) <= 0.99
    np.testing.assert_allclose(value, np.quantile(x, 0.5, axis=1), rtol=1e-12)
    assert np.isnan(statistics.quantile(x[:, :8], 0.1)[1]).all() and np.isnan(statistics.quantile(x[:, :8], 0.9)[2]).all()


def test_gsnr_null_is_the_mean_over_gaussian_samples():
    g = np.random.default_rng(6).normal(size=(200000, 8))
    assert np.mean(g.mean(1) ** 2 / g.var(1, ddof=1)) == pytest.approx(statistics.gsnr_at_zero_mean(8), rel=0.02)
    assert np.isnan(statistics.gsnr_at_zero_mean(3))
