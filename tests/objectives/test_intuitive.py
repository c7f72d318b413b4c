"""IFT against float64 loops: weights by what follows, the gradient through them, gamma 0."""

import jax
import numpy as np
import pytest

from jaxpost import objectives
from tests.objectives import given


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def by_hand(nll, mask, gamma, held=None):
    """The loss; `held`: losses that the weights are of, if not these."""
    rows = []
    for row, keep in zip(nll, mask > 0, strict=True):
        own, n = row[keep], keep.sum()
        of = own if held is None else held[len(rows)][keep]
        V = np.array([sum(gamma ** (s - t) * of[s] for s in range(t, n)) for t in range(n)])
        rows.append((own * V * n / V.sum()).mean() if gamma else own.mean())
    return np.mean(rows)


@pytest.mark.parametrize("parts", [{}, {"gamma": 0.5}, {"gamma": 0.0}, {"detach_weights": True}])
def test_against_loops_and_finite_differences(parts):
    objective, view, batch = given.ready("ift", **parts)
    gamma, mask = objective.gamma, np.asarray(batch.mask_NxT)
    nll = -np.asarray(view.mixed_logp_NxT)
    total, count, grads = given.differentiated(objective, view, batch)
    assert total / count == pytest.approx(by_hand(nll, mask, gamma), rel=1e-12)
    held = nll if objective.detach_weights else None
    for n, t in ((0, 0), (2, 1), (5, 0)):
        if mask[n, t]:
            steps = [nll.copy(), nll.copy()]
            for sign, moved in zip((1, -1), steps, strict=True):
                moved[n, t] += sign * 1e-6
            slope = (by_hand(steps[0], mask, gamma, held) - by_hand(steps[1], mask, gamma, held)) / 2e-6
            assert float(grads.mixed_logp_NxT[n, t]) / count == pytest.approx(-slope, abs=1e-8)
    assert not np.any(grads.logp_NxT)


def test_weights_do_not_see_the_scale_of_the_losses_and_add_up():
    objective, view, batch = given.ready("ift")
    nll = np.where(np.asarray(batch.mask_NxT) > 0, -np.asarray(view.mixed_logp_NxT), 0)
    W = np.asarray(objective.weights(nll, batch.mask_NxT))
    np.testing.assert_allclose(W.sum(axis=1), np.asarray(batch.mask_NxT).sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(objective.weights(7 * nll, batch.mask_NxT), W, rtol=1e-12)
    np.testing.assert_array_equal(objective.weights(0 * nll, batch.mask_NxT), batch.mask_NxT)


@pytest.mark.parametrize("parts, message", [({"mixture": 1.0}, "must lie in"), ({"gamma": 1.5}, "must lie in"),
                                            ({"gamma": 0.0, "detach_weights": True}, "has no effect with gamma=0")])
def test_what_is_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        objectives.get("ift", **parts)
