"""One-token rollouts: the closed form against numpy and DFT, the draws against their distribution, and what moves a draw.

Shapes: N rows, T tokens, V vocabulary, K draws.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from jaxpost.objectives import one_token
from tests.objectives import given
from tests.objectives.test_supervised import distributions, through_logits


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


draw = jax.jit(one_token.draw, static_argnums=2)


def tempered(lp, kappa):
    q = np.exp(lp / kappa)
    return q / q.sum(-1, keepdims=True)


@pytest.mark.parametrize("kappa", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("wrong", [-0.1, 0.0, 0.4])
def test_the_expectation_against_a_sum_over_the_vocabulary(kappa, wrong):
    """-sum_a q(a) R(a) log pi(a), and its slope -sum_a q(a) R(a) (onehot(a) - pi) in the logits."""
    view, batch = given.rows(1)
    objective = objectives.get("one_token_rollout_expected", temperature=kappa, wrong_reward=wrong)
    value, gradient, aux = through_logits(objective, view, batch)
    lp, _, target, m = distributions(view, batch)
    weight = tempered(lp, kappa) * np.where(target > 0, 1.0, wrong)
    assert value == pytest.approx(-((weight * lp).sum(-1) * m).sum() / m.sum(), rel=1e-12)
    g = -(weight - weight.sum(-1, keepdims=True) * np.exp(lp)) * m[..., None] / m.sum()
    np.testing.assert_allclose(gradient, g, rtol=0, atol=1e-12 * np.abs(g).max())
    hits = ((tempered(lp, kappa) * target).sum(-1) * m).sum()
    assert float(aux["hit"][0]) == pytest.approx(hits, rel=1e-12)


def test_at_temperature_one_the_expected_gradient_is_that_of_dft_times_one_minus_the_wrong_reward():
    view, batch = given.rows(2)
    objective = objectives.get("one_token_rollout_expected", temperature=1.0, wrong_reward=-0.3)
    dft = through_logits(objectives.get("dft"), view, batch)[1]
    np.testing.assert_allclose(through_logits(objective, view, batch)[1], 1.3 * dft, rtol=0, atol=1e-15)
    warm = objectives.get("one_token_rollout_expected", temperature=1.3, wrong_reward=-0.3)
    assert np.abs(through_logits(warm, view, batch)[1] - 1.3 * dft).max() > 1e-3


def test_the_mean_over_draws_is_the_expectation():
    """Loss and gradient over 16 seeds of 4096 draws a position, each within 5 standard errors of the closed form."""
    view, batch = given.rows(3)
    objective = objectives.get("one_token_rollout", samples=4096)
    rng = np.random.default_rng(0)
    seeds = [jnp.asarray(rng.integers(0, 2**32, len(batch.seed_N), dtype=np.uint32)) for _ in range(16)]
    found = [through_logits(objective, view, batch._replace(seed_N=s)) for s in seeds]
    value, gradient, _ = through_logits(objectives.get("one_token_rollout_expected"), view, batch)
    for samples, exact in ((np.array([f[0] for f in found]), value), (np.stack([f[1] for f in found]), gradient)):
        error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
        assert np.all(np.abs(samples.mean(axis=0) - exact) <= 5 * error + 1e-15)
        assert np.any(error > 0)


def test_one_draw_against_numpy():
    """The sampled loss of the tokens that were drawn."""
    view, batch = given.rows(4)
    objective = objectives.get("one_token_rollout", samples=5, wrong_reward=-0.4)
    drawn = np.asarray(draw(view.logits_NxTxV / 1.3, batch.seed_N, 5))
    lp, _, _, m = distributions(view, batch)
    reward = np.where(drawn == np.asarray(batch.completion_NxT)[..., None], 1.0, -0.4)
    x = -(reward * np.take_along_axis(lp, drawn, -1)).mean(-1)
    assert through_logits(objective, view, batch)[0] == pytest.approx((x * m).sum() / m.sum(), rel=1e-12)


def test_the_draws_have_the_distribution():
    """Frequencies of 20000 draws at each of 3 positions: within 5 standard errors; a token without mass never."""
    logits = np.random.default_rng(0).normal(size=(1, 3, 5))
    logits[0, :, 2], logits[0, 1, 4], logits[0, 2, 0] = -np.inf, -np.inf, -np.inf
    drawn = np.asarray(draw(jnp.asarray(logits), jnp.array([7], jnp.uint32), 20000))[0]
    for tokens, line in zip(drawn, logits[0], strict=True):
        p = np.exp(line) / np.exp(line).sum()
        frequency = np.bincount(tokens, minlength=5) / 20000
        assert np.all(np.abs(frequency - p) <= 5 * np.sqrt(p * (1 - p) / 20000))
    assert len({tuple(x[:20]) for x in drawn}) == 3


def test_positions_and_rows_of_one_distribution_draw_apart():
    drawn = np.asarray(draw(jnp.zeros((2, 3, 5)), jnp.array([7, 8], jnp.uint32), 400))
    apart = np.array([[(x != y).mean() for y in drawn.reshape(6, 400)] for x in drawn.reshape(6, 400)])
    assert np.all(np.abs(apart[~np.eye(6, dtype=bool)] - 0.8) < 5 * np.sqrt(0.16 / 400))


def test_only_the_seed_word_and_the_position_move_a_draw():
    view, batch = given.rows(5)
    logits, seed = view.logits_NxTxV, batch.seed_N
    whole = np.asarray(draw(logits, seed, 9))
    np.testing.assert_array_equal(draw(logits[3:5], seed[3:5], 9), whole[3:5])
    np.testing.assert_array_equal(draw(jnp.pad(logits, ((0, 0), (0, 2), (0, 0))), seed, 9)[:, :given.T], whole)
    np.testing.assert_array_equal(draw(logits.astype(jnp.float32), seed, 9), whole)
    assert np.any(np.asarray(draw(logits, seed + jnp.uint32(1), 9)) != whole)


@pytest.mark.parametrize("name, parts, message", [
    ("one_token_rollout", {"samples": 0}, "must be a whole number of at least 1"),
    ("one_token_rollout", {"temperature": 0.0}, "must be greater than 0"),
    ("one_token_rollout", {"wrong_reward": 1.0}, "must be below 1"),
])
def test_what_is_refused(name, parts, message):
    with pytest.raises(ValueError, match=message):
        objectives.get(name, **parts)


def test_only_the_sampled_form_needs_seeds():
    assert objectives.get("one_token_rollout").needs == {"logits", "seed"}
    assert objectives.get("one_token_rollout_expected").needs == {"logits"}
