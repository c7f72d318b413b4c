"""Statistics, scores, selectors and allocations: known values, brute force, exact dynamic programming, distributions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxpost.curricula import allocation, mixture, scores, selection, statistics
from jaxpost.curricula.length import budget
from jaxpost.curricula.orders import cycle

P7 = jnp.asarray([0, 0.125, 0.25, 0.5, 0.75, 0.875, 1])


@pytest.mark.parametrize("stage, wanted", [
    (0, [0, 0.383, 0.707, 1, 1, 1, 1]), (1, [0, 0.383, 0.707, 1, 0.707, 0.383, 0]), (2, [0.25, 1, 1, 1, 0.707, 0.383, 0])])
def test_weights_of_vl_cogito(stage, wanted):
    np.testing.assert_allclose(scores.stage_weight(P7, stage), wanted, atol=5e-4)


def test_published_values_of_scores_and_schedules():
    p = jnp.asarray([0, 0.125, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(scores.acceptance(p), [0, 2.742, 1.984, 1.411, 1.154, 1.0], atol=6e-4)
    np.testing.assert_allclose(scores.deviation(jnp.asarray([0.25, 0.75, 0.5, 0, 1])), [0.433, 0.433, 0.5, 0, 0], atol=5e-4)
    bonus = [float(scores.upper_confidence(0.0, n, total)) for total, n in ((24000, 2000), (24000, 16), (1e5, 8000))]
    np.testing.assert_allclose(bonus, [0.1004, 1.0893, 0.0536], atol=1e-4)
    np.testing.assert_allclose([budget(t, 256, 0.7, 150) for t in (0, 150, 300, 450)], [256, 179.2, 125.4, 87.8], atol=0.05)
    assert budget(10**4, 256, 0.7, 150) == 1
    assert cycle(0.25, 0.5, 1.0, 6.0) == (0.25, 0.5, 1, 0.5, 0.25, 0.5, 1, 0.5, 0.25, 0.5, 1)


def test_knapsack_of_the_published_example():
    count = allocation.knapsack(jnp.asarray([0.05, 0.25, 0.5, 0.75, 0.95]), 40 - 10, jnp.full(5, 2), 32)
    assert count.tolist() == [11, 12, 7, 8, 2]


def test_knapsack_is_exact_by_dynamic_programming():
    """The largest summed value of every total, by a table over problems and budgets in float64."""
    rng = np.random.default_rng(0)
    allocate = jax.jit(allocation.knapsack, static_argnums=3)
    worst = 0.0
    for _ in range(30):
        p_B, most, least = rng.uniform(0.02, 0.98, 6), 12, 2
        total = int(rng.integers(12, 60))
        value_BxN = np.array([[(1 - p**n - (1 - p) ** n) * p * (1 - p) ** 2 for n in range(most + 1)] for p in p_B])
        best = {0: 0.0}
        for value_N in value_BxN:
            following = {}
            for spent, so_far in best.items():
                for n in range(least, most + 1):
                    following[spent + n] = max(following.get(spent + n, -1.0), so_far + value_N[n])
            best = following
        count = np.asarray(allocate(jnp.asarray(p_B, jnp.float32), total - 12, jnp.full(6, least), most))
        assert count.sum() == total and count.min() >= least and count.max() <= most
        worst = max(worst, best[total] - value_BxN[np.arange(6), count].sum())
    assert worst < 1e-6


def test_proportional_shares_keep_the_sum_and_are_largest_remainders():
    rng = np.random.default_rng(1)
    for _ in range(20):
        weight_B, total = rng.uniform(0, 1, 7).astype(np.float32), int(rng.integers(7, 80))
        count = np.asarray(allocation.proportional(jnp.asarray(weight_B), total, 1))
        share = (total - 7) * weight_B.astype(float) / weight_B.sum(dtype=float)
        wanted = np.floor(share)
        wanted[np.argsort(wanted - share, kind="stable")[:total - 7 - int(wanted.sum())]] += 1
        np.testing.assert_array_equal(count, wanted + 1)
    assert allocation.proportional(jnp.zeros(3), 7).tolist() == [3, 2, 2]
    capped = allocation.capped(jnp.asarray([20, 1, 3]), 10)
    assert capped.tolist() == [10, 7, 7]


def test_the_subset_of_largest_variance_by_brute_force():
    rng = np.random.default_rng(2)
    choose = jax.jit(selection.largest_variance)
    for trial in range(40):
        x_G, valid_G = rng.normal(size=8).astype(np.float32), np.ones(8, np.float32)
        if trial % 2:
            x_G, valid_G = np.round(x_G), (rng.uniform(size=8) < 0.7).astype(np.float32)
        count = int(rng.integers(2, 7))
        chosen = np.asarray(choose(jnp.asarray(x_G), count, jnp.asarray(valid_G)))
        live = np.flatnonzero(valid_G)
        count = min(count, len(live))
        assert chosen.sum() == count and not (chosen * (1 - valid_G)).any()
        if count:
            best = max(np.var(x_G[list(some)]) for some in itertools.combinations(live, count))
            np.testing.assert_allclose(np.var(x_G[chosen > 0]), best, atol=1e-6)


def test_draws_without_replacement_have_their_distribution():
    """Ordered pairs of four candidates: P(i, j) = w_i w_j / (1 - w_i); chi-square of 4,000 pairs."""
    weight = np.array([0.5, 0.3, 0.15, 0.05])
    draw = jax.vmap(lambda key: selection.without_replacement(key, jnp.log(jnp.asarray(weight)), 2))
    pairs = np.asarray(draw(jax.random.split(jax.random.key(3), 4000)))
    assert (pairs[:, 0] != pairs[:, 1]).all()
    cells = [(i, j) for i in range(4) for j in range(4) if i != j]
    found = np.array([((pairs == cell).all(axis=1)).sum() for cell in cells])
    wanted = np.array([weight[i] * weight[j] / (1 - weight[i]) for i, j in cells]) * 4000
    assert stats.chisquare(found, wanted).pvalue > 1e-3
    assert set(np.asarray(selection.without_replacement(jax.random.key(0), jnp.asarray([-jnp.inf, 0, 0]), 2))) == {1, 2}


def test_rank_power_and_cursor():
    found = selection.rank_power(jnp.asarray([0.1, 0.9, 0.5, 7.0]), 0.5, jnp.asarray([True, True, True, False]))
    weight = np.array([1 / 9, 1, 1 / 4, 0])
    np.testing.assert_allclose(found, weight / weight.sum(), rtol=1e-5)
    assert selection.cursor(jnp.asarray([5, 6, 7]), 2, 4).tolist() == [7, 5, 6, 7]


def test_an_arm_is_used_up_before_an_item_repeats():
    arm_M, visits_M, seen = jnp.asarray([0, 0, 0, 1, 1]), jnp.zeros(5, jnp.int32), []
    for step in range(3):
        item_B = selection.within_arms(jax.random.key(step), jnp.asarray([0, 0]), arm_M, visits_M, 2)
        visits_M = visits_M.at[item_B].add(1)
        seen += item_B.tolist()
    assert sorted(seen) == [0, 0, 1, 1, 2, 2]
    whole = selection.within_arms(jax.random.key(9), jnp.asarray([1, 0, 1, 1]), arm_M, visits_M, 2)
    assert set(whole[jnp.asarray([0, 2])].tolist()) == {3, 4} and int(whole[3]) in (3, 4) and int(whole[1]) < 3


def test_windows_keep_the_last_values_of_each_key():
    rng = np.random.default_rng(4)
    window, count = jnp.zeros((3, 4)), jnp.zeros(3, jnp.int32)
    lists = [[], [], []]
    push = jax.jit(statistics.push)
    for _ in range(5):
        key_N, x_N = rng.integers(0, 3, 8), rng.normal(size=8).astype(np.float32)
        valid_N = rng.uniform(size=8) < 0.8
        window, count = push(window, count, jnp.asarray(key_N), jnp.asarray(x_N), jnp.asarray(valid_N))
        for key, x in zip(key_N[valid_N], x_N[valid_N]):
            lists[key].append(float(x))
        for key in range(3):
            assert int(count[key]) == len(lists[key])
            np.testing.assert_array_equal(np.sort(window[key][:len(lists[key])]), np.sort(np.float32(lists[key][-4:])))
    np.testing.assert_allclose(statistics.window_mean(window, count), [np.mean(x[-4:]) for x in lists], rtol=1e-5)


def test_means_slopes_and_posterior():
    key_N, x_N, weight_N = jnp.asarray([0, 2, 2, 9]), jnp.asarray([1.0, 2, 4, 8]), jnp.asarray([1.0, 1, 3, 1])
    mean_K, weight_K = statistics.means_by(key_N, x_N, weight_N, 3)
    assert mean_K.tolist() == [1, 0, 3.5] and weight_K.tolist() == [1, 0, 4]
    x, y = np.array([1.0, 2, 5, 6]), np.array([0.2, 0.1, 0.9, 0.7])
    np.testing.assert_allclose(statistics.slope(jnp.asarray(x), jnp.asarray(y), 4), np.polyfit(x, y, 1)[0], rtol=1e-5)
    assert statistics.slope(jnp.asarray(x), jnp.asarray(y), 1) == 0
    np.testing.assert_allclose(statistics.beta_mean(3.0, 1.0), 4 / 6)


def test_a_mixture_has_its_likelihood_and_finds_two_clusters():
    rng = np.random.default_rng(5)
    x = np.concatenate([rng.normal(0, 0.05, (60, 2)), rng.normal(1, 0.05, (40, 2))]).astype(np.float32)
    found = jax.jit(mixture.best, static_argnums=(2, 3, 4))(jax.random.key(0), jnp.asarray(x), 2, 3, 30)
    active = np.asarray(found.weight_K) > 0
    parts = zip(*(np.asarray(part)[active] for part in found))
    density = sum(weight * stats.multivariate_normal(mean, covariance).pdf(x) for weight, mean, covariance in parts)
    np.testing.assert_allclose(mixture.log_likelihood(found, jnp.asarray(x)), np.log(density).sum(), rtol=1e-3)
    low = np.asarray(found.mean_KxD)[:, 0] < 0.5
    np.testing.assert_allclose(np.asarray(found.weight_K)[low & active].sum(), 0.6, atol=0.02)
