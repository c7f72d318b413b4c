"""Winsorising, M3 and RM3 against numpy loops."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpost.training import suppression

LIKE = {"a": (3, 2), "b": (4,)}


def gradients(n, seed=0):
    rng = np.random.default_rng(seed)
    return [{name: rng.normal(size=shape) for name, shape in LIKE.items()} for _ in range(n)]


def stacked(grads):
    return {name: jnp.asarray(np.stack([g[name] for g in grads])) for name in LIKE}


@pytest.mark.parametrize(("m", "percent"), [(100, 10.0), (100, 1.0), (11, 10.0), (8, 25.0), (7, 40.0), (3, 40.0), (1, 30.0)])
def test_winsorised_gradients_are_clipped_to_numpys_nearest_percentiles(m, percent):
    with jax.enable_x64(True):
        grads = stacked(gradients(m))
        found = jax.jit(lambda g: suppression.winsorise(g, percent))(grads)
        for name in LIKE:
            x = np.asarray(grads[name])
            low, high = (np.percentile(x, q, axis=0, method="nearest") for q in (percent, 100 - percent))
            np.testing.assert_array_equal(found[name], np.clip(x, low, high))


def test_winsorising_ignores_one_outlier_and_a_tie_of_ranks_goes_outward():
    grads = {"w": jnp.asarray([[0.0], [1.0], [2.0], [1e6]])}
    np.testing.assert_array_equal(suppression.winsorise(grads, 30.0)["w"], [[1.0], [1.0], [2.0], [2.0]])
    assert [suppression.nearest_rank(p, 6) for p in (10, 30, 9.9, 10.1)] == [0, 1, 0, 1]  # positions .5, 1.5, .495, .505
    np.testing.assert_array_equal(suppression.winsorise(grads, 0.0)["w"], grads["w"])


def test_median_is_sum_minus_min_minus_max_and_ignores_infinities():
    with jax.enable_x64(True):
        a, b, c = gradients(3)
        found = suppression.median_of_three(*(jax.tree.map(jnp.asarray, g) for g in (a, b, c)))
        for name in LIKE:
            x = np.stack([a[name], b[name], c[name]])
            np.testing.assert_array_equal(found[name], np.median(x, axis=0))
            np.testing.assert_allclose(found[name], x.sum(0) - x.min(0) - x.max(0), rtol=0, atol=1e-15)
    assert suppression.median_of_three(jnp.inf, 1.0, 2.0) == 2.0


def reference(grads, w, rolling, weight_decay, decay, rate, momentum):
    """M3 or RM3 around heavy-ball momentum, in numpy: the parameters after every gradient."""
    w, trace, ring, path = dict(w), {n: np.zeros(s) for n, s in LIKE.items()}, [], []
    for t, g in enumerate(grads, 1):
        if decay == "before":
            g = {n: g[n] + weight_decay * w[n] for n in LIKE}
        ring = [*ring[-2:], g]
        if (rolling and t >= 3) or (not rolling and t % 3 == 0):
            for n in LIKE:
                median = np.median(np.stack([x[n] for x in ring]), axis=0)
                if decay == "after":
                    median = median + weight_decay * w[n]
                trace[n] = momentum * trace[n] + median
            w = {n: w[n] - rate * trace[n] for n in LIKE}
        path.append(w)
    return path


@pytest.mark.parametrize("rolling", [False, True])
@pytest.mark.parametrize("decay", ["before", "after"])
def test_m3_and_rm3_follow_numpy(rolling, decay):
    with jax.enable_x64(True):
        grads = gradients(10, seed=1)
        start = gradients(1, seed=2)[0]
        transform = suppression.median_update(optax.sgd(0.1, momentum=0.9), rolling=rolling, weight_decay=0.3, decay=decay)
        params = jax.tree.map(jnp.asarray, start)
        state = transform.init(params)
        step = jax.jit(lambda g, s, p: transform.update(g, s, p))
        for g, wanted in zip(grads, reference(grads, start, rolling, 0.3, decay, 0.1, 0.9), strict=True):
            updates, state = step(jax.tree.map(jnp.asarray, g), state, params)
            params = optax.apply_updates(params, updates)
            for name in LIKE:
                np.testing.assert_allclose(params[name], wanted[name], rtol=1e-12)


def test_the_order_of_decay_matters_for_rm3_only():
    grads, start = gradients(9, seed=3), gradients(1, seed=4)[0]
    last = {(rolling, decay): reference(grads, start, rolling, 0.3, decay, 0.1, 0.0)[-1]["a"]
            for rolling in (False, True) for decay in suppression.DECAY}
    np.testing.assert_allclose(last[False, "before"], last[False, "after"], rtol=1e-12)
    assert np.max(np.abs(last[True, "before"] - last[True, "after"])) > 1e-4


def test_steps_without_an_update_leave_the_inner_state_alone():
    transform = suppression.median_update(optax.adam(1e-2))
    params = {"w": jnp.ones(3)}
    state = transform.init(params)
    for t in range(1, 7):
        updates, state = transform.update({"w": jnp.full(3, float(t))}, state, params)
        assert bool(jnp.any(updates["w"] != 0)) == (t % 3 == 0)
        assert int(state.inner[0].count) == t // 3


def test_what_is_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"percent=50 is outside \[0, 50\)"):
        suppression.winsorise({"w": jnp.zeros((3, 2))}, 50)
    with pytest.raises(ValueError, match="one leading axis"):
        suppression.winsorise({"a": jnp.zeros((3, 2)), "b": jnp.zeros((4, 2))}, 10)
    with pytest.raises(ValueError, match="decay='during' is unknown; choose one of before, after"):
        suppression.median_update(optax.sgd(0.1), decay="during")
    with pytest.raises(ValueError, match="negative"):
        suppression.median_update(optax.sgd(0.1), weight_decay=-1.0)
    with pytest.raises(ValueError, match="pass them to update"):
        transform = suppression.median_update(optax.sgd(0.1), weight_decay=0.1)
        transform.update({"w": jnp.zeros(2)}, transform.init({"w": jnp.zeros(2)}))
