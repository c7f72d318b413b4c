"""Learning rate schedules: the formula at every step, against optax, and what is refused."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpost.training import optimizers


@pytest.mark.parametrize(("schedule", "final", "theirs"), [
    ("constant", 0.0, optax.constant_schedule(1.0)),
    ("linear", 0.25, optax.linear_schedule(1.0, 0.25, 16)),
    ("cosine", 0.1, optax.cosine_decay_schedule(1.0, 16, alpha=0.1)),
])
def test_shares_of_the_rate_are_optaxs_after_a_linear_warm_up(schedule, final, theirs):
    share = optimizers.relative_rate(schedule, 4, 20, final)
    found = np.asarray([share(jnp.int32(t)) for t in range(24)])
    np.testing.assert_allclose(found[:4], [0.2, 0.4, 0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(found[4:], [theirs(t) for t in range(20)], rtol=2e-6)


def test_the_direction_is_scaled_by_the_share_and_nothing_else():
    params, grads = {"w": jnp.ones(3)}, {"w": jnp.asarray([0.1, -0.2, 0.3])}
    plain, scaled = optimizers.make("sgd"), optimizers.make("sgd", schedule="linear", steps=4)
    states = [plain.init(params), scaled.init(params)]
    for share in (1.0, 0.75, 0.5, 0.25, 0.0):
        ours, states[0] = plain.update(grads, states[0], params)
        theirs, states[1] = scaled.update(grads, states[1], params)
        np.testing.assert_allclose(theirs["w"], share * ours["w"], rtol=1e-6)
    assert optimizers.relative_rate("constant", 0, 0, 0.0) is None


@pytest.mark.parametrize(("settings", "message"), [
    ({"schedule": "cosin"}, "did you mean 'cosine'"),
    ({"schedule": "cosine"}, "needs the number of steps"),
    ({"schedule": "linear", "steps": 5, "warmup_steps": 5}, "at least one step"),
    ({"final_share": 2.0}, "from 0 to 1"),
])
def test_what_is_no_schedule_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        optimizers.make("adamw", **settings)


@pytest.mark.parametrize(("settings", "message"), [
    ({"clip_norm": 0.0}, "clip_norm=0.0: must be greater than 0; 1e9 clips nothing"),  # 0 clips every gradient away
    ({"clip_norm": -1.0}, "clip_norm=-1.0"),  # ascent
    ({"weight_decay": -0.1}, "at least 0"), ({"eps": 0.0}, "eps=0.0"), ({"b1": -0.1}, "b1=-0.1"),
    ({"b2": 1.0}, "b2=1.0: must be at least 0 and below 1"), ({"momentum": float("nan")}, "momentum=nan"),
])
def test_numbers_with_which_no_optimizer_descends_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        optimizers.make("adamw", **settings)
