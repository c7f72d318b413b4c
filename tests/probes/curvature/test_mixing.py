"""R-hat and effective draws against closed forms: autoregressive chains, shifted chains, drifting ones."""

import numpy as np
import pytest
import scipy.signal

from jaxpost.probes.curvature import mixing


def autoregressive(rho, chains=4, draws=4000, seed=0):
    """x_t = rho x_t-1 + z_t with unit variance, started in its law: worth draws (1 - rho) / (1 + rho) a chain."""
    z = np.random.default_rng(seed).normal(size=(chains, draws + 500)) * (1 - rho**2) ** 0.5
    return scipy.signal.lfilter([1.0], [1.0, -rho], z, axis=1)[:, 500:]


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
def test_autoregressive_chains_are_worth_their_closed_form(rho):
    x = autoregressive(rho)
    wanted = x.size * (1 - rho) / (1 + rho)
    assert abs(mixing.effective_draws(x) / wanted - 1) < 0.15
    assert abs(mixing.split_r_hat(x) - 1) < 0.01


def test_chains_that_disagree_or_drift_are_seen():
    x = autoregressive(0.0, chains=2)
    apart = x + np.asarray([[0.0], [2.0]])  # half chains at 0, 0, 2, 2: their means have variance 4/3, pooled 1 + 4/3
    assert mixing.split_r_hat(apart) == pytest.approx((1 + 4 / 3) ** 0.5, abs=0.03)
    assert mixing.effective_draws(apart) < 20
    drift = x + np.linspace(-2, 2, x.shape[1])  # the mean over whole chains is the same
    assert mixing.split_r_hat(drift) > 1.3
    assert np.isnan(mixing.split_r_hat(np.ones((2, 10)))) and np.isnan(mixing.effective_draws(np.ones((2, 10))))
    for n in range(8, 60):  # the variance of equal numbers may be rounding
        still = np.full((2, n), 0.1) + np.asarray([[0.0], [0.2]])
        assert np.isnan(mixing.split_r_hat(still)) and np.isnan(mixing.effective_draws(still))
    with pytest.raises(ValueError, match=r"draws >= 8\]; found shape \(2, 7\)"):
        mixing.split_r_hat(np.ones((2, 7)))
