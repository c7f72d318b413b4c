"""The kernel against closed forms in float64, finite differences, invariants, and its sketch within its error."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxpost.probes import kernels
from jaxpost.probes.kernels import tangent
from jaxpost.probes.policy import fisher


def _beside(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


networks = _beside("networks")
KEY = jax.random.key(0)


def exact(read, params, rows, outputs="sum", microbatch=2):
    with jax.enable_x64(True):
        return np.asarray(kernels.kernel(read, params, rows, kernels.Jacobian(outputs, microbatch), KEY))[0]


@pytest.mark.parametrize("outputs", tangent.OUTPUTS)
def test_the_kernel_is_the_closed_form(outputs):
    params, rows = networks.case()
    np.testing.assert_allclose(exact(networks.read, params, rows, outputs), networks.kernel(params, rows, outputs), rtol=1e-13)


def test_the_kernel_of_a_linear_model_is_the_inputs_gram_matrix():
    x = np.random.default_rng(1).normal(size=(6, 5))
    found = exact(lambda w, x: kernels.Answer((w @ x)[None], x), np.zeros(5), x)
    np.testing.assert_allclose(found, x @ x.T, rtol=1e-14, atol=1e-15)


def test_the_kernel_of_the_polynomial_model_is_that_of_the_paper():
    rng = np.random.default_rng(2)
    w, x, eps = rng.normal(size=(7, 3)), rng.normal(size=(4, 3)), 0.3

    def read(w, x):
        h = w @ x
        return kernels.Answer((h + eps / 2 * h**2).mean(keepdims=True), x)

    inner, mean, second = x @ x.T, x @ w.mean(0), x @ (w.T @ w / 7) @ x.T
    wanted = inner * (1 + eps * (mean[:, None] + mean[None, :]) + eps**2 * second) / 7
    np.testing.assert_allclose(exact(read, w, x), wanted, rtol=1e-13)


def test_gradients_are_finite_differences():
    params, rows = networks.case()
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree(params)
        values = jax.vmap(lambda row, w: networks.read(unravel(w), row).output_O.sum() / 3**0.5, (0, None))
        steps = 1e-5 * np.eye(flat.size)
        j = np.stack([np.asarray(values(rows, flat + d) - values(rows, flat - d)) / 2e-5 for d in steps], axis=1)
    np.testing.assert_allclose(exact(networks.read, params, rows), j @ j.T, rtol=1e-8)


def test_order_microbatches_and_scale_of_the_outputs():
    params, rows = networks.case()
    order = np.asarray([3, 0, 5, 1, 4, 2])
    plain = exact(networks.read, params, rows)
    permuted = exact(networks.read, params, {name: x[order] for name, x in rows.items()}, microbatch=3)
    np.testing.assert_allclose(permuted, plain[np.ix_(order, order)], rtol=1e-13)
    scaled = exact(lambda w, row: kernels.Answer(3 * networks.read(w, row).output_O, row["y"]), params, rows)
    np.testing.assert_allclose(scaled, 9 * plain, rtol=1e-13)


def test_sketches_are_unbiased_and_as_far_off_as_their_variance_says():
    params, rows = networks.case()
    k, (sketches, width) = networks.kernel(params, rows, "each"), (512, 8)
    with jax.enable_x64(True):
        found = np.asarray(kernels.kernel(networks.read, params, rows, kernels.Jacobian("each", 2, sketches, width), KEY))
    bound = ((k**2).sum() + np.trace(k) ** 2) / width  # of E |K_m - K|^2
    assert 0.2 * bound < ((found - k) ** 2).sum((1, 2)).mean() < bound
    assert ((found.mean(0) - k) ** 2).sum() < 4 * bound / sketches


def test_the_linearised_model_is_the_first_order_taylor_polynomial():
    params, rows = networks.case()
    other = {name: x + 0.1 for name, x in params.items()}
    with jax.enable_x64(True):
        start, line = kernels.linearised(networks.read, params, other, rows, 2)
    h, slope = np.tanh(rows["x"] @ params["w"].T), 1 - np.tanh(rows["x"] @ params["w"].T) ** 2
    moved = 0.1 * h.sum(1, keepdims=True) + 0.1 * rows["x"].sum(1, keepdims=True) * (slope @ params["v"].T)
    np.testing.assert_allclose(start, h @ params["v"].T, rtol=0, atol=1e-15 * np.abs(h).sum(1).max())  # some nearly cancel
    np.testing.assert_allclose(np.asarray(line) - np.asarray(start), moved, rtol=1e-12)


def test_a_policy_is_read_at_its_first_target_position():
    logits = jnp.arange(12.0).reshape(3, 4)
    read = kernels.of_policy(lambda w, row: fisher.Predictions(logits, jnp.asarray([1, 2, 3]), row))
    found = read({}, jnp.asarray([0, 1, 1]))
    np.testing.assert_array_equal(found.output_O, logits[1])
    np.testing.assert_array_equal(found.label_C, [0, 0, 1, 0])
