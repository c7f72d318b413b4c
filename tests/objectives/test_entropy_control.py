"""Quantiles and the entropy controller against numpy."""

import jax
import numpy as np
import pytest

from jaxpost import objectives
from jaxpost.objectives import entropy_control
from tests.objectives import given


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_a_masked_quantile_is_that_of_the_counted_entries():
    rng = np.random.default_rng(1)
    x, mask = rng.normal(size=(5, 7)), rng.integers(0, 2, (5, 7)) * 1.0
    for q in (0.0, 0.2, 0.77, 1.0):
        got = entropy_control.masked_quantile(np.where(mask > 0, x, np.nan), mask, q)
        assert float(got) == pytest.approx(np.quantile(x[mask > 0], q), rel=1e-12)
    one = np.eye(5, 7)[:, :] * (np.arange(5) == 2)[:, None]
    assert float(entropy_control.masked_quantile(x, one, 0.4)) == x[2, 2]
    assert np.isinf(entropy_control.masked_quantile(x, 0 * mask, 0.4))


def test_the_policy_loss_is_of_the_most_uncertain_tokens_and_all_count():
    objective, view, batch = given.ready("top_entropy_tokens", top_entropy=0.3)
    H, keep = np.asarray(batch.entropy_NxT), np.asarray(batch.mask_NxT) > 0
    chosen = keep & (np.quantile(H[keep], 0.7) <= H)
    plain, *_ = given.ready("grpo", aggregation="token", clip_high=0.28)
    x, base = (np.asarray(given.differentiated(o, view, batch)[2].logp_NxT) for o in (objective, plain))
    np.testing.assert_allclose(x, np.where(chosen, base, 0), atol=1e-14)
    assert float(objective.loss(view, batch, {})[1]) == keep.sum() and 0 < chosen.sum() < keep.sum()


def test_the_weight_of_the_bonus_follows_the_entropy():
    """c rises while H is at most the target and falls above it; the bonus is on only while H is at most the target."""
    parts = {"entropy_target": 0.75, "entropy_step": 0.25, "entropy_high": 0.4}  # 0.75: means of it are exact
    objective = given.recipe("adaptive_entropy", **parts)
    view, batch = given.needed(objective, *given.rows())
    plain = given.recipe("grpo", aggregation="token")
    entropy = np.asarray(view.entropy_NxT)[np.asarray(batch.mask_NxT) > 0].mean()
    state, c = objective.init(), 0.0
    for mean in (0.5, 0.75, 0.9, 0.3, 2.0, 2.0, 2.0):
        now = batch._replace(entropy_NxT=batch.entropy_NxT * 0 + mean)
        ready = objective.balance(objective.prepare(now, given.GROUP, state=state))
        total, count, _ = objective.loss(view, ready, state)
        expected = plain.loss(view, ready, {})[0] / count - (c if mean <= 0.75 else 0.0) * entropy
        assert float(total / count) == pytest.approx(float(expected), rel=1e-6, abs=1e-9)
        state = objective.observe(state, ready)
        c = min(max(c + (0.25 if mean <= 0.75 else -0.25), 0.0), 0.4)
        assert float(state["coef"]) == pytest.approx(c, abs=1e-7)


@pytest.mark.parametrize("name, parts, message", [
    ("top_entropy_tokens", {"top_entropy": 0.0}, "must lie in"), ("adaptive_entropy", {"entropy_coef": 2.0}, "in this order"),
    ("adaptive_entropy", {"entropy_step": 0.0}, "must be greater than 0")])
def test_what_is_refused(name, parts, message):
    with pytest.raises(ValueError, match=message):
        objectives.get(name, **parts)
