"""Products with curvature matrices against dense matrices in float64: closed forms, jax.hessian, loops over rows."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxpost.probes import curvature
from jaxpost.probes.curvature import products


def _beside(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


policy, small = _beside("softmax_policy"), _beside("gradient_models")


def dense(made, params):
    """The whole matrix, from products with unit vectors."""
    flat, unravel = ravel_pytree(params)
    found = made.product(jax.vmap(unravel)(jnp.eye(flat.size, dtype=flat.dtype)))
    return np.asarray(jax.vmap(lambda x: ravel_pytree(x)[0])(found))


def hidden(params, row):
    """A network of one hidden layer: the row as the softmax regression sees it."""
    return row | {"x": jnp.tanh(row["x"] @ params["first"])}


def predict(params, row):
    return policy.predict(params["last"], hidden(params, row))


def loss(params, row):
    return policy.loss(params["last"], hidden(params, row))


def network(dtype):
    last, rows = policy.case(dtype=dtype)
    return {"first": jnp.asarray(np.random.default_rng(5).normal(size=(4, 4)), dtype), "last": last}, rows


@pytest.mark.parametrize("microbatch", [1, 4, 8])
def test_ggn_is_the_closed_form_of_the_fisher_and_the_hessian_of_a_softmax_regression(microbatch):
    params, rows = policy.case()
    wanted = policy.dense_fisher(params, rows).mean(0)
    with jax.enable_x64(True):
        ggn = curvature.ggn(policy.predict, params, rows, microbatch)
        hessian = curvature.hessian(policy.loss, params, rows, microbatch)
        np.testing.assert_allclose(dense(ggn, params), wanted, atol=1e-13)
        np.testing.assert_allclose(dense(hessian, params), wanted, atol=1e-13)
    assert np.linalg.eigvalsh(wanted)[0] > -1e-13


def test_the_empirical_fisher_is_the_mean_outer_product_of_gradients_and_another_matrix():
    params, rows = policy.case()
    with jax.enable_x64(True):
        found = dense(curvature.empirical_fisher(policy.loss, params, rows, 2), params)
        g = np.asarray(jax.vmap(lambda r: ravel_pytree(jax.grad(policy.loss)(params, r))[0])(rows))
    np.testing.assert_allclose(found, g.T @ g / len(g), atol=1e-13)
    assert np.linalg.norm(found - policy.dense_fisher(params, rows).mean(0)) > 0.3 * np.linalg.norm(found)


def test_a_linear_regression_has_the_gram_matrix_of_its_inputs():
    with jax.enable_x64(True):
        params, rows, _ = small.regression_case()
        found = dense(curvature.hessian(small.regression, params, rows, 3), params)
    x = np.concatenate([np.ones((12, 2)), np.asarray(rows["x"]).reshape(12, 6)], axis=1)
    np.testing.assert_allclose(found, x.T @ x / 12, atol=1e-13)


def test_products_of_a_network_are_finite_differences_and_sums_over_positions():
    with jax.enable_x64(True):
        params, rows = network(np.float64)
        flat, unravel = ravel_pytree(params)
        v = jax.random.normal(jax.random.key(1), (3, flat.size), jnp.float64)

        def mean(w):
            return jax.vmap(lambda r: loss(unravel(w), r))(rows).mean()

        step, slope = 1e-5, jax.jit(jax.grad(mean))
        slopes = [(slope(flat + step * x) - slope(flat - step * x)) / (2 * step) for x in v]
        jacobian = jax.jacobian(lambda w: jax.vmap(lambda r: predict(unravel(w), r).logits_TxV)(rows))(flat)
        z = jax.vmap(lambda r: predict(params, r).logits_TxV)(rows)
        wanted = {"hessian": np.asarray(slopes), "ggn": _by_positions(v, z, jacobian, rows["mask"])}
        made = {kind: products.of_kind(kind, params, rows, 2, predict=predict, loss=loss) for kind in wanted}
        for kind, values in wanted.items():
            found = jax.vmap(lambda x: ravel_pytree(x)[0])(made[kind].product(jax.vmap(unravel)(v)))
            np.testing.assert_allclose(found, values, rtol=1e-7, atol=1e-8 * np.abs(values).max(), err_msg=kind)
            rows_ = made[kind].quadratic(unravel(v[0]))
            np.testing.assert_allclose(rows_.mean(), np.asarray(v[0]) @ np.asarray(found[0]), rtol=1e-10, err_msg=kind)
        assert np.linalg.norm(wanted["hessian"] - wanted["ggn"]) > 0.1 * np.linalg.norm(wanted["ggn"])


def _by_positions(v, z, jacobian, mask):
    """J'(diag p - pp')J v in numpy, one position after the other, mean over rows."""
    z, jacobian, v, mask = (np.asarray(x) for x in (z, jacobian, v, mask))
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    out = np.zeros_like(v)
    for i, t in np.argwhere(mask > 0):
        j = jacobian[i, t]
        out += v @ j.T @ (np.diag(p[i, t]) - np.outer(p[i, t], p[i, t])) @ j
    return out / len(z)


def test_microbatches_jit_and_sharded_trees_change_nothing():
    params, rows = jax.tree.map(jnp.asarray, network(np.float32))
    v = jax.tree.map(lambda w: jax.random.normal(jax.random.key(w.size), (2, *w.shape)), params)
    mesh = jax.make_mesh((2,), ("fsdp",), devices=jax.devices()[:2], axis_types=(jax.sharding.AxisType.Auto,))

    def spread(x, axis):
        spec = [None] * x.ndim
        if x.ndim > axis and x.shape[axis] % 2 == 0:
            spec[axis] = "fsdp"
        return jax.device_put(x, jax.NamedSharding(mesh, jax.P(*spec)))

    for kind in products.KINDS:
        def product(params, rows, v, kind=kind, microbatch=8):
            return products.of_kind(kind, params, rows, microbatch, predict=predict, loss=loss).product(v)

        whole = product(params, rows, v)
        apart = jax.jit(lambda *x, f=product: f(*x, microbatch=2))(params, rows, v)
        there = jax.jit(product)(*(jax.tree.map(lambda x, a=a: spread(x, a), y) for y, a in ((params, 1), (rows, 0), (v, 2))))
        scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(whole))
        for a, b, c in zip(*map(jax.tree.leaves, (whole, apart, there)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale, err_msg=kind)
            np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-5 * scale, err_msg=kind)


def test_an_unknown_kind_and_a_missing_function_are_named():
    with pytest.raises(ValueError, match="'fisher' is unknown; expected one of ggn, hessian"):
        products.of_kind("fisher", {}, {}, 1)
    with pytest.raises(ValueError, match="'hessian' needs 'loss'"):
        products.of_kind("hessian", {}, {}, 1)
