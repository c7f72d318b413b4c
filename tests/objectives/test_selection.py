"""Selections against brute force and float64 numpy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from jaxpost.objectives import selection
from tests.objectives import given


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("seed", range(6))
def test_the_subset_of_largest_variance_by_brute_force(seed):
    rng = np.random.default_rng(seed)
    value = np.round(rng.normal(size=8), 1) if seed % 2 else rng.normal(size=8)
    present = np.ones(8, bool)
    present[:seed % 3] = False
    for count in range(1, int(present.sum()) + 1):
        chosen = np.asarray(selection.largest_variance(jnp.asarray(value), jnp.asarray(present), count)) > 0
        best = max(np.var(value[list(c)]) for c in itertools.combinations(np.flatnonzero(present), count))
        assert chosen.sum() == count and not chosen[~present].any()
        assert np.var(value[chosen]) == pytest.approx(best, abs=1e-12)


def test_top_tokens_are_a_share_of_the_counted_ones():
    score = jnp.asarray([[3., 1, 9], [2, 2, 5]])
    mask = jnp.asarray([[1., 1, 0], [1, 1, 1]])
    np.testing.assert_array_equal(selection.top_tokens(score, mask, 0.4), [[1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(selection.top_tokens(score, mask, 0.6), [[1, 0, 0], [1, 0, 1]])  # the first of a tie
    np.testing.assert_array_equal(selection.top_tokens(score, mask, 1.0), mask)
    assert not np.any(selection.top_tokens(score, 0 * mask, 0.5))


def test_covariance_against_numpy():
    view, batch = given.rows(3)
    A = np.random.default_rng(0).normal(size=(8, given.T))
    keep = np.asarray(batch.mask_NxT) > 0
    logp = np.asarray(view.logp_NxT)
    expected = np.where(keep, (logp - logp[keep].mean()) * (A - A[keep].mean()), 0)
    got = selection.covariance(view.logp_NxT, jnp.asarray(A), batch.mask_NxT)
    np.testing.assert_allclose(got, expected, atol=1e-13)
    assert np.asarray(got)[keep].mean() == pytest.approx(np.cov(logp[keep], A[keep], ddof=0)[0, 1], rel=1e-12)


def test_d3s_keeps_decisive_tokens_of_spread_rows():
    objective, _, batch = given.ready("d3s", keep_rows=0.5, keep_tokens=0.5)
    plain = given.ready("grpo")[2]
    A = np.asarray(plain.advantage_NxT)[:, 0]
    kept_rows = np.asarray(batch.mask_NxT).sum(1) > 0
    everything = given.ready("d3s", keep_rows=0.5, keep_tokens=1.0)[2]
    rows = np.asarray(everything.mask_NxT).sum(1) > 0
    assert rows.sum() == 4
    assert np.var(A[rows]) == pytest.approx(max(np.var(A[list(c)]) for c in itertools.combinations(range(8), 4)), abs=1e-12)
    tokens = np.asarray(plain.mask_NxT)[rows].sum()
    assert np.asarray(batch.mask_NxT).sum() == np.ceil(tokens / 2) and not kept_rows[~rows].any()
    score = np.abs(np.asarray(plain.advantage_NxT)) * np.asarray(given.rows()[1].entropy_NxT)
    within = (np.asarray(plain.mask_NxT) > 0) & rows[:, None]
    chosen = np.asarray(batch.mask_NxT) > 0
    assert score[chosen].min() >= score[within & ~chosen].max()
    np.testing.assert_array_equal(batch.advantage_NxT, plain.advantage_NxT)


def test_d3s_moves_from_everything_to_its_shares():
    objective = given.recipe("d3s", horizon=4)
    _, batch = given.needed(objective, *given.rows())
    state, counts = objective.init(), []
    for _ in range(6):
        counts.append(float(objective.prepare(batch, given.GROUP, state=state).mask_NxT.sum()))
        state = objective.observe(state, batch)
    assert counts[0] == float(batch.mask_NxT.sum()) and counts[4] == counts[5] < counts[0]
    assert all(a >= b for a, b in zip(counts, counts[1:], strict=False))


def test_rows_that_were_not_chosen_are_no_empty_rows():
    """"counted" counts a row that sampled nothing; not one that D3S left out, nor the filling of an over-sampled batch."""
    for lengths, empty in (([3] * 8, 0), ([3, 0, 2, 4, 1, 0, 5, 2], 2)):
        counts = {}
        for rule in ("default", "counted"):
            objective, view, batch = given.ready("d3s", lengths=lengths, keep_tokens=1.0, aggregation_empty=rule)
            counts[rule] = float(objective.loss(view, batch, objective.init())[1])
        assert counts["counted"] == counts["default"] + empty == np.ceil((8 - empty) / 2) + empty
    objective, view, batch = given.ready("grpo", lengths=[3, 0, 2, 4, 0, 0, 0, 0], aggregation_empty="counted")
    absent = batch._replace(absent_N=jnp.asarray([0.0] * 4 + [1.0] * 4))
    assert float(objective.loss(view, batch, {})[1]) == 8 and float(objective.loss(view, absent, {})[1]) == 4


def test_clip_cov_takes_a_random_share_of_the_band():
    parts = {"guard_share": 0.1, "guard_low": 0.05, "guard_high": 2.0}
    objective, view, batch = given.ready("clip_cov", N=32, **parts)
    score = np.asarray(selection.covariance(batch.behaviour_NxT, batch.advantage_NxT, batch.mask_NxT))
    band = (score > 0.05) & (score < 2.0) & (np.asarray(batch.mask_NxT) > 0)
    guarded = np.asarray(batch.share_NxT) > 0
    assert guarded.sum() == np.floor(0.1 * np.asarray(batch.mask_NxT).sum()) < band.sum() and not guarded[~band].any()
    grads = np.asarray(given.differentiated(objective, view, batch)[2].logp_NxT)
    assert not grads[guarded].any()
    plain, _, _ = given.ready("grpo", N=32, aggregation="token")
    base = np.asarray(given.differentiated(plain, view, batch)[2].logp_NxT)
    np.testing.assert_allclose(grads[~guarded], base[~guarded], atol=1e-14)
    rows, other = given.needed(objective, *given.rows(N=32))[1], {}
    for shift in (0, 1):
        other[shift] = objective.prepare(rows._replace(seed_N=rows.seed_N + np.uint32(shift)), given.GROUP).share_NxT
    assert np.any(np.asarray(other[0]) != np.asarray(other[1]))


def test_kl_cov_penalises_the_largest_covariances():
    objective, view, batch = given.ready("kl_cov", N=32, guard_share=0.05, guard_coef=0.7)
    score = np.asarray(selection.covariance(batch.behaviour_NxT, batch.advantage_NxT, batch.mask_NxT))
    keep = np.asarray(batch.mask_NxT) > 0
    largest = np.zeros_like(keep)
    count = int(np.floor(0.05 * keep.sum()))
    largest[np.unravel_index(np.argsort(-np.where(keep, score, -np.inf), axis=None, kind="stable")[:count], keep.shape)] = True
    logp, old, A = (np.asarray(x) for x in (view.logp_NxT, batch.behaviour_NxT, batch.advantage_NxT))
    x = -A * np.exp(logp - old) + 0.7 * np.abs(logp - old) * largest
    s, total, _ = objective.loss(view, batch, {})
    assert float(s / total) == pytest.approx(x[keep].mean(), rel=1e-12)


@pytest.mark.parametrize("guard", ["clip", "kl"])
def test_a_proximal_policy_is_what_the_guard_and_the_ratio_are_of(guard):
    """With it in the batch the behaviour's log-probabilities do not matter."""
    parts = {"guard_share": 0.1, **({"guard_low": 0.02, "guard_high": 3.0} if guard == "clip" else {})}
    objective = given.recipe(f"{guard}_cov", **parts)
    view, batch = given.needed(objective, *given.rows(N=32))
    near = given.rows(N=32)[1].proximal_NxT
    losses = [objective.loss(view, given.prepared(objective, batch._replace(behaviour_NxT=b, proximal_NxT=p)), {})[0]
              for b, p in ((near, None), (near, near), (batch.behaviour_NxT, near))]
    assert losses[0] == losses[1] == losses[2]


def verl_guard(guard, logp, old, A, mask, *, share, low, high, coef, uniform):
    """The losses of verl's clip_cov and kl_cov on one mini-batch, as its source says, with the random order given."""
    keep, ratio = mask > 0, np.exp(logp - old)
    centred = (A - A[keep].mean()) * (logp - logp[keep].mean())
    first, second = -A * ratio, -A * np.clip(ratio, 0.8, 1.2)
    if guard == "kl":
        x = first.copy()
        order = np.argsort(-np.where(keep, centred, -np.inf), axis=None, kind="stable")[:max(1, int(share * keep.sum()))]
        x.reshape(-1)[order] += coef * np.abs(logp - old).reshape(-1)[order]
        return x[keep].mean()
    centred = np.where(keep & ~(second > first), centred, -np.inf)
    band = np.flatnonzero((centred < high) & (centred > low) & keep)
    order = band[np.argsort(-uniform.reshape(-1)[band], kind="stable")][:max(int(share * keep.sum()), 1)]
    weight = np.ones(mask.shape)
    weight.reshape(-1)[order] = 0
    return (np.maximum(first, second) * weight)[keep].mean()


@pytest.mark.parametrize("guard", ["clip", "kl"])
def test_covariances_of_the_current_policy_are_those_of_verl(guard):
    parts = {"guard_share": 0.1, **({"guard_low": 0.02, "guard_high": 3.0} if guard == "clip" else {"guard_coef": 0.7})}
    values = {}
    for whose in ("old", "current"):
        objective, view, batch = given.ready(f"{guard}_cov", N=32, guard_logp=whose, **parts)
        total, count, _ = objective.loss(view, batch, {})
        values[whose] = float(total / count)
        assert objective.couples_update == (whose == "current")
    uniform = np.asarray(selection._uniform(batch)) if guard == "clip" else None
    arrays = map(np.asarray, (view.logp_NxT, batch.behaviour_NxT, batch.advantage_NxT, batch.mask_NxT))
    expected = verl_guard(guard, *arrays, share=0.1, low=0.02, high=3.0, coef=0.7, uniform=uniform)
    assert values["current"] == pytest.approx(expected, rel=1e-10) and abs(values["old"] - expected) > 1e-4
    same = batch._replace(behaviour_NxT=view.logp_NxT)
    first = [float(o.loss(view, o.prepare(same, given.GROUP), {})[0])
             for o in (given.recipe(f"{guard}_cov", guard_logp=whose, **parts) for whose in ("old", "current"))]
    assert first[0] == pytest.approx(first[1], rel=1e-12)  # at the first update they are the same


def test_planning_tokens_are_raised_on_both_signs():
    objective, _, batch = given.ready("hicra")
    plain = np.asarray(given.ready("dr_grpo")[2].advantage_NxT)
    flag = np.asarray(given.rows()[1].token_weight_NxT) * np.asarray(batch.mask_NxT)
    np.testing.assert_allclose(batch.advantage_NxT, plain * np.where(flag > 0, np.where(plain > 0, 1.2, 0.8), 1.0), atol=1e-12)


@pytest.mark.parametrize("name, parts, message", [
    ("d3s", {"keep_rows": 0.0}, "must lie in"), ("clip_cov", {"guard": "none"}, "choose one of clip, kl"),
    ("clip_cov", {"guard_low": 6.0}, "is not below")])
def test_what_is_refused(name, parts, message):
    with pytest.raises(ValueError, match=message):
        objectives.get(name, **parts)


def test_the_subset_of_largest_variance_is_found_far_from_zero():
    """In float32, by brute force: a mean of squares less the square of the mean loses all digits at 1000."""
    value = (np.random.default_rng(3).normal(size=8) + 3000).astype(np.float32)
    best = max(np.var(value.astype(float)[list(c)]) for c in itertools.combinations(range(8), 4))
    chosen = np.asarray(selection.largest_variance(jnp.asarray(value), jnp.ones(8, bool), 4)) > 0
    assert chosen.sum() == 4
    assert np.var(value.astype(float)[chosen]) == pytest.approx(best, rel=1e-3)
