"""Advantages of a group against loops and enumeration: token baselines, pass@k, terms apart, weights of length, gaps."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from jaxpost.objectives import advantages, group_credit
from tests.objectives import given


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("lone", advantages.LONE)
def test_token_baselines_against_loops(lone):
    objective = given.recipe("optimal_token_baseline", lone_reward=lone, kl_place="reward", kl_estimator="k1", kl_coef=0.1)
    _, batch = given.needed(objective, *given.rows(3, lengths=[6, 4, 4, 1, 2, 2, 5, 3]))
    batch = batch._replace(reward_N=batch.reward_N.at[6].set(jnp.nan), mask_NxT=batch.mask_NxT.at[1, 1].set(0.0))
    got = np.asarray(objective.prepare(batch, given.GROUP).advantage_NxT)
    R, b, f, s, mask = (np.asarray(x) for x in (batch.reward_N, batch.behaviour_NxT, batch.reference_NxT, batch.collision_NxT,
                                                batch.mask_NxT))
    G, W = {}, {}
    for n in range(8):
        at = np.flatnonzero(mask[n])
        if np.isnan(R[n]):
            continue
        r = -0.1 * (b - f)[n, at]
        r[-1] += R[n]
        G[n], W[n] = r[::-1].cumsum()[::-1], (1 - 2 * np.exp(b) + s)[n, at].cumsum()
    expected = np.zeros(mask.shape)
    for n in G:
        for k, t in enumerate(np.flatnonzero(mask[n])):
            rows = [m for m in G if m // 4 == n // 4 and len(G[m]) > k]
            base = sum(W[m][k] * G[m][k] for m in rows) / sum(W[m][k] for m in rows)
            expected[n, t] = G[n][k] - base if len(rows) > 1 else G[n][k] * (lone == "reward")
    np.testing.assert_allclose(got, expected, atol=1e-12)
    assert np.any(expected[0, 4:]) == (lone == "reward")


def test_the_optimal_baseline_has_the_smallest_variance_by_enumeration():
    """One token: E[energy (R - b)^2] over the policy is smallest at b = E[energy R] / E[energy]."""
    theta, reward = np.array([0.3, -0.5, 1.1]), np.array([1.0, 0.2, -0.4])
    p = np.exp(theta) / np.exp(theta).sum()
    energy = 1 - 2 * p + (p**2).sum()
    np.testing.assert_allclose(energy, [((np.eye(3)[a] - p) ** 2).sum() for a in range(3)])  # |grad_theta log p(a)|^2
    grid = np.linspace(-1, 1, 2001)
    best = grid[np.argmin([(p * energy * (reward - b) ** 2).sum() for b in grid])]
    assert best == pytest.approx((p * energy * reward).sum() / (p * energy).sum(), abs=1e-3)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_pass_at_k_is_the_mean_over_all_subsets(k):
    reward = np.array([[1, 0, 0, 1, 0, 0], [1, 1, 1, 1, 0, 1], [0.0] * 6, [1.0] * 6, [1, 0, np.nan, 0, 0, np.nan]])
    got = np.asarray(group_credit.pass_at_k(jnp.asarray(reward), k))
    for row, found in zip(reward, got, strict=True):
        there = np.flatnonzero(~np.isnan(row))
        subsets = [c for c in itertools.combinations(there, k)]
        values = np.array([row[list(c)].max() for c in subsets])
        mean, std = values.mean(), values.std()
        for i in range(6):
            with_i = [v for c, v in zip(subsets, values, strict=True) if i in c]
            expected = (np.mean(with_i) - mean) / std if i in there and std > 0 else 0.0
            assert found[i] == pytest.approx(expected, abs=1e-12)


def test_terms_are_normalised_apart():
    objective = given.recipe("gdpo")
    _, batch = given.needed(objective, *given.rows(2))
    batch = batch._replace(term_NxK=batch.term_NxK.at[5, 1].set(jnp.nan))
    got = np.asarray(objective.prepare(batch, given.GROUP).advantage_NxT)[:, 0]
    A = np.zeros(8)
    for k, w in ((0, 1.0), (1, 0.5)):
        for g in range(2):
            r = np.asarray(batch.term_NxK)[4 * g:4 * g + 4, k]
            A[4 * g:4 * g + 4] += w * np.nan_to_num((r - np.nanmean(r)) / (np.nanstd(r, ddof=1) + 1e-4))
    np.testing.assert_allclose(got, (A - A.mean()) / (A.std(ddof=1) + 1e-4), atol=1e-12)
    mixed = batch._replace(term_NxK=batch.term_NxK[:, ::-1], term_weight_NxK=batch.term_weight_NxK[:, ::-1])
    np.testing.assert_allclose(objective.prepare(mixed, given.GROUP).advantage_NxT[:, 0], got, atol=1e-12)


def test_baselines_of_length_gap_and_nothing():
    R = jnp.asarray([[1.0, 0, 0.5, 1.0], [0.3, 1.0, 0.2, jnp.nan], [1, 1, 1, 1]])
    n = jnp.asarray([[3.0, 1, 2, 0], [1, 1, 4, 2], [1, 2, 3, 4]])
    opo = advantages.advantage(R, baseline="length_weighted", length_BxG=n)
    first, second = 4 / 6, 2.1 / 6
    np.testing.assert_allclose(opo, [[1 - first, -first, 0.5 - first, 1 - first],
                                     [0.3 - second, 1 - second, 0.2 - second, 0], [0] * 4], atol=1e-14)
    gap = advantages.advantage(R, baseline="best_gap")
    np.testing.assert_allclose(gap, [[0] * 4, [0, 0.7, 0, 0], [0] * 4], atol=1e-14)
    scaled = advantages.advantage(R, baseline="best_gap", scale="group")
    assert float(scaled[1, 1]) == pytest.approx(0.7 / (np.std([0.3, 1, 0.2], ddof=1) + 1e-4))
    assert not np.any(advantages.advantage(R, baseline="ignored"))
    gpg = advantages.advantage(R, baseline="mean", scale="informative")  # 11 rewards, 7 in groups that differ
    np.testing.assert_allclose(gpg, np.asarray(advantages.advantage(R, baseline="mean")) * 11 / 7, atol=1e-14)


def test_opo_weighs_by_counted_tokens_and_gpg_by_the_batch():
    view, batch = given.rows(4)
    R, n = (np.asarray(x).reshape(2, 4) for x in (batch.reward_N, batch.mask_NxT.sum(axis=1)))
    got = given.prepared(given.recipe("opo"), batch).advantage_NxT[:, 0]
    np.testing.assert_allclose(got, (R - (R * n).sum(1, keepdims=True) / n.sum(1, keepdims=True)).reshape(-1), atol=1e-12)
    batch = batch._replace(reward_N=batch.reward_N.at[4:].set(1.0))
    got = np.asarray(given.prepared(given.recipe("gpg"), batch).advantage_NxT)[:, 0]
    np.testing.assert_allclose(got, np.concatenate([2 * (R[0] - R[0].mean()), np.zeros(4)]), atol=1e-12)


@pytest.mark.parametrize("name, parts, message", [
    ("optimal_token_baseline", {"baseline": "mean"}, "has no effect with a baseline a token"),
    ("pass_at_k", {"scale": "group"}, "has no effect"), ("pass_at_k", {"pass_k": 0}, "whole number of"),
    ("gdpo", {"kl_place": "reward"}, "not a term of the reward"), ("gpg", {"eps": 1.0}, "choose a scale"),
    ("on_policy_distillation_sampled", {"kl_place": "loss"}, "leaves nothing to learn from")])
def test_what_is_refused(name, parts, message):
    with pytest.raises(ValueError, match=message):
        objectives.get(name, **parts)


def test_a_group_smaller_than_k_is_refused():
    objective = given.recipe("pass_at_k", pass_k=5)
    _, batch = given.needed(objective, *given.rows())
    with pytest.raises(ValueError, match="pass_k=5 in groups of 4; nearest valid: pass_k=4"):
        objective.prepare(batch, 4)
