"""Trend correlations against scipy and brute force; planted drifts that must not count and planted links that must."""

import itertools

import numpy as np
import pytest
import scipy.stats

from jaxpost import records
from jaxpost.probes import trends
from jaxpost.probes.trends import rows as trend_rows

STEPS = np.unique(np.r_[0, np.geomspace(1, 2000, 14).round(), np.linspace(100, 2000, 20).round()]).astype(int)
P = len(STEPS)
LOG = np.log1p(STEPS)


def partial(x, y, control):
    """Partial correlation by least squares, float64."""
    design = np.column_stack([np.ones(len(control)), control])
    left = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y)]
    return np.corrcoef(*left)[0, 1]


@pytest.fixture
def pair():
    rng = np.random.default_rng(3)
    shared = rng.normal(size=P)
    return shared + LOG + rng.normal(size=P), -shared + 0.5 * LOG + rng.normal(size=P)


def test_plain_and_change_are_scipys(pair):
    x, y = pair
    for method, oracle in (("pearson", scipy.stats.pearsonr), ("spearman", scipy.stats.spearmanr)):
        for reading, sides in (("plain", (x, y)), ("change", (np.diff(x), np.diff(y)))):
            found = trends.correlation(STEPS, x, y, method=method, reading=reading, draws=9)
            assert found.value == pytest.approx(oracle(*sides)[0], rel=1e-10)
            assert found.n == len(sides[0])


def test_given_time_is_the_partial_correlation(pair):
    x, y = pair
    found = trends.correlation(STEPS, x, y, reading="given_time", draws=9)
    assert found.value == pytest.approx(partial(x, y, LOG), rel=1e-9)
    ranked = [scipy.stats.rankdata(v) for v in (x, y, STEPS)]
    found = trends.correlation(STEPS, x, y, reading="given_time", method="spearman", draws=9)
    assert found.value == pytest.approx(partial(*ranked), rel=1e-9)
    r = [scipy.stats.spearmanr(a, b)[0] for a, b in ((x, y), (x, STEPS), (y, STEPS))]  # the recursion formula
    assert found.value == pytest.approx((r[0] - r[1] * r[2]) / np.sqrt((1 - r[1] ** 2) * (1 - r[2] ** 2)), rel=1e-9)


def test_p_is_the_share_of_all_block_permutations():
    """Six points in three blocks: 3! orders of 6 rotations, all equally likely."""
    rng = np.random.default_rng(0)
    step, x, y = np.arange(6), rng.normal(size=6), rng.normal(size=6)
    blocks = [(0, 1), (2, 3), (4, 5)]
    every = [(np.concatenate([blocks[i] for i in order]) + shift) % 6
             for order in itertools.permutations(range(3)) for shift in range(6)]
    own = np.corrcoef(x, y)[0, 1]
    exact = np.mean([abs(np.corrcoef(x, y[order])[0, 1]) >= abs(own) - 1e-12 for order in every])
    draws = 8000
    found = trends.correlation(step, x, y, block=2, draws=draws)
    assert abs(found.p - exact) < 4 * np.sqrt(exact * (1 - exact) / draws) + 1 / draws


@pytest.mark.parametrize(("points", "block"), [(10, 3), (12, 4), (7, 7), (7, 20), (5, 1)])
def test_block_orders_keep_neighbours_together(points, block):
    orders = trends.block_orders(points, block, 50, np.random.default_rng(1))
    assert (np.sort(orders, axis=1) == np.arange(points)).all()
    joined = ((np.diff(orders, axis=1) % points) == 1).sum(1)
    assert (joined >= points - -(-points // block)).all()
    assert len({tuple(order) for order in orders}) > 1
    if block >= points:
        assert (joined == points - 1).all()


def test_permutation_of_residuals_takes_time_out_again(pair):
    """Freedman and Lane by hand, draw by draw."""
    x, y = pair
    found = trends.correlation(STEPS, x, y, reading="given_time", block=4, draws=40, seed=5)
    design = np.column_stack([np.ones(P), LOG])
    residual = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y)]
    null = [partial(x, residual[1][order], LOG) for order in trends.block_orders(P, 4, 40, np.random.default_rng(5))]
    assert found.p == pytest.approx((1 + np.sum(np.abs(null) >= abs(found.value))) / 41)
    assert (found.null_lo, found.null_hi) == pytest.approx(tuple(np.quantile(null, (0.025, 0.975))), rel=1e-8)
    assert found.null_mean == pytest.approx(np.mean(null), abs=1e-10)


def drifting(kind, rng):
    """An independent monotone drift with a little noise."""
    if kind == "line":
        return LOG * rng.choice([-1, 1]) + 0.3 * rng.normal(size=P)
    if kind == "step":
        place, width = rng.uniform(3, 7), rng.uniform(0.3, 1)
        return 1 / (1 + np.exp((place - LOG) / width)) + 0.05 * rng.normal(size=P)
    return np.cumsum(rng.exponential(size=P)) + rng.normal(size=P)


@pytest.mark.parametrize("kind", ["line", "step", "increments"])
def test_independent_drifts_do_not_count_given_time(kind):
    """They correlate nearly always in the plain reading, and near the level once time is out."""
    rng = np.random.default_rng(11)
    pairs = [(drifting(kind, rng), drifting(kind, rng)) for _ in range(60)]

    def share(**settings):
        return np.mean([trends.correlation(STEPS, x, y, draws=99, seed=i, **settings).p <= 0.05
                        for i, (x, y) in enumerate(pairs)])

    assert share(method="spearman", reading="plain") > 0.75
    assert share(method="spearman", reading="given_time") <= 0.25
    assert share(method="pearson", reading="change") <= 0.25


def test_strictly_monotone_curves_have_nothing_left_given_time():
    found = trends.correlation(STEPS, LOG**3, -np.sqrt(STEPS), method="spearman", reading="given_time")
    assert found.status == "degenerate" and found.reason == "time explains all of x" and np.isnan([found.value, found.p]).all()


@pytest.mark.parametrize("method", trends.METHODS)
@pytest.mark.parametrize("reading", trends.READINGS)
def test_a_planted_link_is_found_through_the_drift(method, reading):
    rng = np.random.default_rng(7)
    wiggle, clock = 0.5 * rng.normal(size=P), LOG
    x, y = clock - wiggle + 0.1 * rng.normal(size=P), clock + wiggle + 0.1 * rng.normal(size=P)
    found = trends.correlation(STEPS, x, y, method=method, reading=reading)
    if reading == "plain":
        assert found.value > 0  # the drift hides the sign of the link
    else:
        assert found.value < -0.6 and found.p < 0.05


@pytest.mark.parametrize("reading", trends.READINGS)
def test_invariances(pair, reading):
    x, y = pair
    base = trends.correlation(STEPS, x, y, reading=reading)
    moved = trends.correlation(STEPS, 3.0 - 2e4 * x, 1e-6 * y + 5, reading=reading)
    assert moved.value == pytest.approx(-base.value, rel=1e-6) and moved.p == base.p
    ranks = trends.correlation(STEPS, x, y, method="spearman", reading="plain")
    assert trends.correlation(STEPS, np.exp(x), y**3, method="spearman", reading="plain") == ranks
    swapped = trends.correlation(STEPS, y, x, reading=reading)
    assert swapped.value == pytest.approx(base.value, rel=1e-12)


@pytest.mark.parametrize(("x", "y", "status", "reason"), [
    (np.full(P, 2.0), LOG, "degenerate", "x is constant"),
    (LOG, np.zeros(P), "degenerate", "y is constant"),
    (np.where(STEPS > 50, LOG, np.nan), LOG, "absent", "not finite"),
    (np.where(STEPS == 0, np.inf, LOG), LOG, "absent", "not finite"),
])
def test_bad_input_has_a_status(x, y, status, reason):
    for method in trends.METHODS:
        found = trends.correlation(STEPS, x, y, method=method)
        assert found.status == status and reason in found.reason and np.isnan([found.value, found.p, found.null_lo]).all()


def test_too_few_points_have_a_status(pair):
    short = [v[:5] for v in (STEPS, *pair)]
    assert trends.correlation(*short).status == "absent" and "at least 6" in trends.correlation(*short).reason
    six = [v[:6] for v in (STEPS, *pair)]
    assert trends.correlation(*six).status == "ok" and trends.correlation(*six, reading="change").status == "absent"


def test_mistakes_are_named(pair):
    x, y = pair
    for settings, said in (({"method": "kendall"}, "pearson, spearman"), ({"reading": "partial"}, "given_time"),
                           ({"block": 0}, "block=0"), ({"draws": 0}, "draws=0")):
        with pytest.raises(ValueError, match=said):
            trends.correlation(STEPS, x, y, **settings)
    with pytest.raises(ValueError, match="one length"):
        trends.correlation(STEPS, x[1:], y)
    with pytest.raises(ValueError, match="ascend"):
        trends.correlation(STEPS[::-1], x, y)


def test_summary_over_runs_is_fishers():
    r = np.array([0.2, 0.5, -0.1, 0.4])
    z = np.arctanh(r)
    half = scipy.stats.t.ppf(0.975, 3) * z.std(ddof=1) / 2
    assert trends.over_runs(r) == pytest.approx(tuple(np.tanh([z.mean(), z.mean() - half, z.mean() + half])), rel=1e-12)
    assert np.isfinite(trends.fisher([1.0, -1.0])).all() and np.isnan(trends.over_runs([0.3]).lo)


def test_across_runs_pairs_every_run_with_every_other():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(3, P)), rng.normal(size=(3, P))
    y[1] = -x[1]
    found = trends.across_runs(STEPS, x, y)
    for i, j in itertools.product(range(3), repeat=2):
        assert found[i, j] == pytest.approx(np.corrcoef(x[i], y[j])[0, 1], rel=1e-9)
    mean = np.tanh((np.arctanh(found[1, 0]) + np.arctanh(found[1, 2])) / 2)
    assert trends.others(found)[1] == pytest.approx(mean, rel=1e-9) and found[1, 1] == pytest.approx(-1)
    assert np.isnan(trends.others(trends.across_runs(STEPS, x[:1], y[:1]))).all()
    y[2] = 1.0
    assert np.isnan(trends.across_runs(STEPS, x, y)[0, 2]) and np.isfinite(trends.others(trends.across_runs(STEPS, x, y))[0])


@pytest.mark.parametrize(("y", "start"), [([0, 0, 0.05, 0.3, 1], 2), ([0, 0.5, 0, 1, 1], 2), ([0, 0, 0], 3), ([1, 0.5, 0], 3),
                                          ([0.2, 1], 0)])
def test_the_rise_begins_after_the_last_low_point(y, start):
    assert trends.rising_from(y) == start


def test_rows_hold_values_nulls_and_statuses(pair):
    x, y = (np.stack([v, v[::-1], np.full(P, 1.0)]) for v in pair)
    columns = trend_rows.columns(STEPS, x, y, x="distance", y="accuracy", window="rising", start_S=[0, 4, 0], block=4, draws=19,
                                 arm="moe", seeds=[5, 6, 7], conditional_on=None, row_ids=records.row_ids)
    table = records.measurement_table(columns)
    rows = records.select(table, role="seed", metric="trend.correlation").to_pylist()
    assert len(rows) == 3 * len(trends.METHODS) * len(trends.READINGS) and {row["step"] for row in rows} == {2000}
    one = next(row for row in rows if row["seed"] == 6 and "method=spearman" in row["params"] and "given_time" in row["params"])
    own = trends.correlation(STEPS[4:], x[1, 4:], y[1, 4:], method="spearman", reading="given_time", block=4, draws=19, seed=1)
    assert (one["value"], one["null_lo"], one["null_hi"]) == pytest.approx((own.value, own.null_lo, own.null_hi))
    assert records.parse_params(one["params"]) == {"at": "rising", "block": "4", "draws": "19", "method": "spearman",
                                                   "reading": "given_time", "x": "distance", "y": "accuracy"}
    flat = [row for row in rows if row["seed"] == 7]
    assert {row["status"] for row in flat} == {"degenerate"} and {row["value"] for row in flat} == {None}
    (other,) = [row for row in records.select(table, role="null").to_pylist() if row["of"] == one["row_id"]]
    across = trends.across_runs(STEPS[4:], x[:, 4:], y[:, 4:], method="spearman", reading="given_time")
    assert other["null_kind"] == "other_runs" and other["value"] == pytest.approx(trends.others(across)[1])
    p = [row for row in records.select(table, role="seed", metric="trend.p").to_pylist() if row["params"] == one["params"]]
    assert p[1]["value"] == pytest.approx(own.p)
