"""ReMix's clip around the proximal policy and its KL, SPEAR's recalibration, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from tests.objectives import given


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("batches, w", [(0, 1.0), (50, 1.0), (51, 0.9), (60, 0.9), (61, 0.8), (200, 0.5)])
def test_remix_clips_around_the_policy_before_the_update(batches, w):
    objective = given.recipe("remix", kl_coef=0.3)
    view, batch = given.needed(objective, *given.rows(2, N=16))
    batch = objective.balance(objective.prepare(batch, given.GROUP, state={"batches": jnp.asarray(batches)}))
    logp, b, o, f, A, mask = (np.asarray(x) for x in (view.logp_NxT, batch.behaviour_NxT, batch.proximal_NxT,
                                                      batch.reference_NxT, batch.advantage_NxT, batch.mask_NxT))
    r, c = np.exp(logp - b), np.exp(o - b)
    k3 = lambda d: np.exp(-d) - 1 + d  # noqa: E731
    x = -np.minimum(r * A, np.clip(r, c - 0.2, c + 0.2) * A) + 0.3 * (w * k3(logp - f) + (1 - w) * k3(logp - o))
    total, count, _ = objective.loss(view, batch, {})
    assert float(total / count) == pytest.approx(((x * mask).sum(1) / mask.sum(1)).mean(), rel=1e-6)


def test_on_fresh_rows_remix_clips_as_grpo_does():
    view, batch = given.rows(3)
    batch = batch._replace(proximal_NxT=batch.behaviour_NxT)
    ours, plain = given.recipe("remix", kl_place="none", kl_coef=0.0), given.recipe("grpo")
    losses = [o.loss(view, given.prepared(o, batch), {})[0] for o in (ours, plain)]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-12)


def test_spear_imitates_what_beats_the_median_of_group_means():
    objective = given.recipe("spear", imitation_steps=4, guard_share=1e-9, means=12)
    view, batch = given.needed(objective, *given.rows(1, N=16))
    age = jnp.asarray([0] * 8 + [2] * 8, float)
    R = np.array([1, 0, 0, 0, 1, 1, 0, 0, 1, 0, 0.3, 0.2, 1, 1, 1, np.nan])
    batch = batch._replace(reward_N=jnp.asarray(R), age_N=age)
    state = objective.init()
    for step, mean in ((0, 0.0), (1, 0.375), (2, 0.25)):  # of nothing; 4 + 4 rows; 8 + 4, as 12 are kept
        ready = objective.prepare(batch, given.GROUP, state=state)
        A, mask = np.asarray(ready.advantage_NxT)[:, 0], np.asarray(ready.mask_NxT)
        np.testing.assert_allclose(A[:8], R[:8] - np.repeat(R[:8].reshape(2, 4).mean(1), 4), atol=1e-12)
        weight = (1 - np.cos(np.pi * min(step / 4, 1))) / 2
        old = weight * np.maximum(np.nan_to_num(R[8:], nan=-9) - mean, 0)
        np.testing.assert_allclose(A[8:], old, atol=1e-6)
        np.testing.assert_array_equal(mask[8:].any(axis=1), old > 0)
        np.testing.assert_array_equal(np.asarray(ready.absent_N)[8:], old == 0)
        state = objective.observe(state, ready)
        kept = np.asarray(state["mean_M"])
        np.testing.assert_allclose(kept[:8], [0.25] * 4 + [0.5] * 4)
        assert np.isnan(kept[8:]).all() == (step == 0) and len(kept) == 12
    assert int(state["batches"]) == 3


@pytest.mark.parametrize("name, parts, message", [
    ("remix", {"clip_low": None}, "needs both"), ("remix", {"ratio": "sequence"}, "choose one of token"),
    ("remix", {"dual_clip": 3.0}, "has no effect with a clip around"), ("spear", {"means": 0}, "at least 1")])
def test_what_is_refused(name, parts, message):
    with pytest.raises(ValueError, match=message):
        objectives.get(name, **parts)
