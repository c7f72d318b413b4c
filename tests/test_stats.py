"""Intervals and tests against scipy, closed testing and closed forms; verdicts case by case."""

import itertools

import numpy as np
import pytest
import scipy.stats

from jaxpost import stats

RNG = np.random.default_rng(0)


def test_t_interval_is_scipys():
    x = RNG.normal(size=(3, 5))
    found = stats.t_interval(x)
    for row, value, lo, hi in zip(x, *found, strict=True):
        expected = scipy.stats.ttest_1samp(row, 0).confidence_interval(0.95)
        np.testing.assert_allclose([value, lo, hi], [row.mean(), expected.low, expected.high])


def test_one_replicate_has_no_interval_and_none_is_an_error():
    found = stats.t_interval(np.array([[2.0], [3.0]]))
    np.testing.assert_array_equal(found.value, [2, 3])
    assert np.isnan(found.lo).all() and np.isnan(found.hi).all()
    with pytest.raises(ValueError, match="at least one replicate"):
        stats.t_interval([])


def test_t_interval_covers():
    x = RNG.normal(1.0, size=(4000, 5))
    found = stats.t_interval(x)
    assert abs(np.mean((found.lo < 1) & (found.hi > 1)) - 0.95) < 0.015


def test_paired_difference_uses_the_pairing():
    a = RNG.normal(size=6) * 10
    b = a - 1 + 0.01 * RNG.normal(size=6)
    found = stats.paired_difference(a, b)
    expected = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    np.testing.assert_allclose([found.lo, found.hi], [expected.low, expected.high])
    with pytest.raises(ValueError, match="seeds must pair"):
        stats.paired_difference(a, b[:-1])


@pytest.mark.parametrize("direction", ["greater", "less"])
def test_t_pvalue_is_scipys(direction):
    x = RNG.normal(0.3, size=(4, 7))
    expected = scipy.stats.ttest_1samp(x, 0.1, axis=-1, alternative=direction).pvalue
    np.testing.assert_allclose(stats.t_pvalue(x, 0.1, direction), expected)
    assert np.isnan(stats.t_pvalue([1.0], 0.0, direction))


def test_t_pvalue_without_spread():
    assert stats.t_pvalue([1.0, 1.0], 0.0, "greater") == 0
    assert stats.t_pvalue([1.0, 1.0], 0.0, "less") == 1
    assert stats.t_pvalue([1.0, 1.0], 1.0, "less") == 0.5
    for n in range(2, 20):  # the sum of n equal numbers is not n times the number
        assert stats.t_pvalue([0.1] * n, 0.1, "greater") == 0.5
        assert stats.t_interval([0.1] * n) == (0.1, 0.1, 0.1)


def test_holm_is_the_closed_testing_procedure():
    for _ in range(20):
        p = RNG.uniform(size=4) ** 2
        subsets = [s for r in range(1, 5) for s in itertools.combinations(range(4), r)]
        expected = [max(min(1.0, len(s) * min(p[list(s)])) for s in subsets if i in s) for i in range(4)]
        np.testing.assert_allclose(stats.holm(p), expected)
    with pytest.raises(ValueError, match="without NaN"):
        stats.holm([0.1, np.nan])


def test_jackknife_of_a_linear_pair_statistic_is_the_t_interval():
    x = RNG.normal(size=(2, 6))
    pairs = (x[:, :, None] + x[:, None, :]) / 2  # mean over pairs = mean over seeds
    found, expected = stats.jackknife_pairs(pairs), stats.t_interval(x)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b)


def test_jackknife_reads_pairs_only_and_says_when_it_cannot():
    pairs = RNG.uniform(size=(4, 4))
    pairs = pairs + pairs.T
    other = pairs + np.diag([9.0, 9, 9, 9])
    np.testing.assert_array_equal(stats.jackknife_pairs(pairs), stats.jackknife_pairs(other))
    two = stats.jackknife_pairs(pairs[:2, :2])
    assert two.value == pairs[0, 1] and np.isnan(two.lo)
    with pytest.raises(ValueError, match="S >= 2"):
        stats.jackknife_pairs(pairs[:1, :1])


def test_jackknife_covers_on_correlated_pairs():
    x = RNG.normal(size=(3000, 10))
    shared = x[:, :, None] + x[:, None, :] + x[:, :, None] * x[:, None, :]  # every pair holds two of the ten seeds
    jackknife, as_if_independent = stats.jackknife_pairs(shared), stats.t_interval(shared[:, *np.triu_indices(10, 1)])
    coverage = [np.mean((i.lo < 0) & (i.hi > 0)) for i in (jackknife, as_if_independent)]
    assert coverage[0] > 0.9 > 0.75 > coverage[1]


def test_hierarchical_interval_generalises_over_bases():
    x = RNG.normal(size=(4, 1)) + 0.01 * RNG.normal(size=(4, 5))
    found = stats.hierarchical_interval(x)
    np.testing.assert_allclose(found, stats.t_interval(x.mean(1)))
    np.testing.assert_allclose(stats.hierarchical_interval([x[0, :2], x[1]]), stats.t_interval([x[0, :2].mean(), x[1].mean()]))
    assert found.hi - found.lo > 5 * (stats.t_interval(x.ravel()).hi - x.mean()) / 5
    assert np.isnan(stats.hierarchical_interval(x[:1]).lo)
    with pytest.raises(ValueError, match=r"\[bases, seeds\]"):
        stats.hierarchical_interval(x[0])


@pytest.mark.parametrize(
    ("lo", "hi", "threshold", "margin", "expected"),
    [
        (0.3, 0.5, 0.1, 0.05, "supported"),
        (0.05, 0.5, 0.1, 0.05, "inconclusive"),
        (-0.5, -0.1, 0.1, 0.05, "contradicted"),
        (-0.1, -0.01, 0.1, 0.05, "contradicted"),  # the other side of zero, and not inside the margin
        (-0.04, 0.04, 0.1, 0.05, "practically equivalent"),
        (0.01, 0.02, 0.1, 0.05, "practically equivalent"),
        (-0.02, -0.01, 0.1, 0.05, "practically equivalent"),  # on the other side, and negligible
        (0.01, 0.06, 0.1, 0.05, "inconclusive"),
        (0.01, 0.02, 0.0, 0.0, "supported"),
        (-0.01, 0.02, 0.0, 0.0, "inconclusive"),
        (np.nan, np.nan, 0.1, 0.05, "inconclusive"),  # one seed
    ],
)
def test_verdicts_and_their_mirror_image(lo, hi, threshold, margin, expected):
    middle = (lo + hi) / 2
    assert stats.verdict(stats.Interval(middle, lo, hi), "greater", threshold, margin) == expected
    assert stats.verdict(stats.Interval(-middle, -hi, -lo), "less", -threshold, margin) == expected


def test_a_claim_that_could_be_both_is_refused():
    interval = stats.Interval(0.0, -1.0, 1.0)
    with pytest.raises(ValueError, match="at or beyond 0.05"):
        stats.verdict(interval, "greater", 0.0, 0.05)
    with pytest.raises(ValueError, match="unknown direction 'above'"):
        stats.verdict(interval, "above", 0.0)


def test_log_interp_is_linear_in_log_x_and_absent_outside():
    x = np.array([1.0, 10.0, 1000.0])
    found = stats.log_interp([1.0, np.sqrt(10), 100.0, 1000.0, 0.5, 2000.0], x, 2 * np.log10(x))
    np.testing.assert_allclose(found, [0, 1, 4, 6, np.nan, np.nan], atol=1e-12)


def test_log_interp_takes_the_first_crossing_of_a_path_that_turns_back():
    found = stats.log_interp([2.0, 8.0], [1.0, 4.0, 1.0, 16.0], [0.0, 1.0, 5.0, 6.0])
    np.testing.assert_allclose(found, [0.5, 5.75])
    np.testing.assert_allclose(stats.log_interp([2.0], [0.0, 1.0, np.nan, 4.0], [9.0, 0.0, 9.0, 1.0]), [0.5])
    with pytest.raises(ValueError, match="positive"):
        stats.log_interp([0.0], [1.0], [1.0])
    with pytest.raises(ValueError, match="one length"):
        stats.log_interp([1.0], [1.0, 2.0], [1.0])


@pytest.mark.parametrize("seeds, power", [(3, 0.8), (5, 0.9), (20, 0.5)])
def test_the_smallest_effect_is_resolved_with_the_stated_probability(seeds, power):
    """20,000 samples of normal replicates: an interval lies wholly beyond the threshold as often as stated (4 errors)."""
    effect = stats.smallest_effect(2.0, seeds, power)
    x = np.random.default_rng(0).normal(effect, 2.0, (20_000, seeds))
    assert abs(np.mean(stats.t_interval(x).lo > 0) - power) < 4 * np.sqrt(power * (1 - power) / 20_000)
    assert np.isnan(stats.smallest_effect(2.0, 1))
    assert 0 < stats.smallest_effect(2.0, seeds, 0.0251) < 0.01
    with pytest.raises(ValueError, match=r"power=0.01 must lie between 0.025, that of no effect, and 1"):
        stats.smallest_effect(2.0, seeds, 0.01)


def test_rank_correlations_are_scipys_and_absent_where_all_tie():
    x, y = RNG.integers(0, 5, (4, 9)).astype(float), RNG.normal(size=(4, 9))
    expected = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(x, y)]
    np.testing.assert_allclose(stats.rank_correlations(x, y), expected, atol=1e-14)
    x[0], y[1, 3] = 2.0, np.nan
    assert np.isnan(stats.rank_correlations(x, y)).tolist() == [True, True, False, False]


def test_permuted_ranks_are_those_of_all_orders_and_random_ones_agree():
    x, y = RNG.normal(size=(3, 6)), RNG.normal(size=(3, 6))
    for direction, sign in (("greater", 1), ("less", -1)):
        found = stats.permuted_ranks(x, y, direction)
        every = [stats.rank_correlations(x, y[:, list(order)]).mean() for order in itertools.permutations(range(6))]
        assert found.value == pytest.approx(every[0], abs=1e-14) and found.exact and found.draws == 720
        assert found.p == pytest.approx(np.mean(sign * np.asarray(every) >= sign * every[0] - 1e-12), abs=1e-12)
        drawn = stats.permuted_ranks(x, y, direction, draws=600)
        assert not drawn.exact and abs(drawn.p - found.p) < 4 * np.sqrt(found.p * (1 - found.p) / 600) + 1 / 601


def test_permutations_of_arms_keep_their_level_where_seeds_are_replicates():
    """Arms without a relation, each nearly equal in all seeds: 5 % of p are at most 0.05, as if there were one seed."""
    rng = np.random.default_rng(1)
    arm = rng.normal(size=(2, 400, 1, 6))
    x, y = arm + 0.1 * rng.normal(size=(2, 400, 5, 6))
    p = np.asarray([stats.permuted_ranks(a, b, "greater").p for a, b in zip(x, y)])
    assert abs((p <= 0.05).mean() - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: stats.permuted_ranks(np.eye(4), np.eye(4), "equivalent"), "expected greater or less"),
    (lambda: stats.permuted_ranks(np.eye(4), np.eye(3), "less"), r"found shapes \(4, 4\) and \(3, 3\)"),
    (lambda: stats.permuted_ranks(np.ones((1, 4)), np.eye(4)[:1], "less"), "a side is constant or a value is missing"),
])
def test_permutations_refuse_what_has_no_ranks(call, message):
    with pytest.raises(ValueError, match=message):
        call()
