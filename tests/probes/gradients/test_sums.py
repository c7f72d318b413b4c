"""Engines of the gradient sums against gradients written by hand, against each other, and their invariances."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxpost.probes.gradients import inline, sums
from jaxpost.probes.updates import ever_changed

_SPEC = importlib.util.spec_from_file_location("gradient_models", Path(__file__).parents[1] / "gradient_models.py")
small = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(small)


def by_hand(grads):
    """Sums and GSNR of [m, ...] gradients of each tensor, in numpy."""
    total = [g.sum(0) for g in grads]
    return {
        "s1_T": [np.sum(t**2) for t in total],
        "square_mxT": np.stack([(g**2).sum(1) for g in grads], 1),
        "dot_mxT": np.stack([g @ t for g, t in zip(grads, total, strict=True)], 1),
        "gsnr_T": [np.sum(g.mean(0) ** 2 / g.var(0, ddof=1)) for g in grads],
        "gsnr_count_T": [g.shape[1] for g in grads],
        "gsnr_eps_T": [np.sum(g.mean(0) ** 2 / (g.var(0) + sums.GSNR_EPS)) for g in grads],
        "gsnr_eps_mxT": np.stack([[np.sum(x.mean(0) ** 2 / (x.var(0) + sums.GSNR_EPS))
                                   for x in (np.delete(g, i, 0) for i in range(len(g)))] for g in grads], 1),
    }


def worst(found, wanted):
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return float(np.max(np.abs(found - wanted)) / np.max(np.abs(wanted)))


@pytest.mark.parametrize("microbatch", [1, 3, 12])
def test_regression_sums_are_those_of_gradients_written_by_hand(microbatch):
    with jax.enable_x64(True):
        params, examples, grads = small.regression_case()
        found = sums.per_example(small.regression, params, examples, microbatch)
        for name, wanted in by_hand(grads).items():
            assert worst(getattr(found, name), wanted) < 1e-12, name
        gram = sums.gram(small.regression, params, examples)
        assert worst(gram, np.stack([g @ g.T for g in grads])) < 1e-12


def test_inventory_names_each_layer_of_a_stack_and_each_entry_of_a_list():
    names = [(i.name, i.kind, i.layer, i.shape) for i in sums.inventory(
        {"layers": {"q": jnp.zeros((2, 3, 4)), "mlp_norm": jnp.zeros((2, 4))}, "embed": jnp.zeros((5, 4))})]
    assert names == [("embed", "embed", None, (5, 4)), ("layers/0/mlp_norm", "norm", 0, (4,)),
                     ("layers/1/mlp_norm", "norm", 1, (4,)), ("layers/0/q", "q", 0, (3, 4)), ("layers/1/q", "q", 1, (3, 4))]
    listed = sums.inventory({"layers": [{"w": jnp.zeros((3, 4))}, {"w": jnp.zeros((4, 2))}]})
    assert [(i.name, i.layer, i.shape) for i in listed] == [("layers/0/w", 0, (3, 4)), ("layers/1/w", 1, (4, 2))]


def test_masked_positions_and_padding_examples_do_not_count():
    with jax.enable_x64(True):
        c = small.config()
        params, examples = small.decoder_case(c, dtype=jnp.float64)
        junk = dict(examples, target=jnp.where(examples["mask"] > 0, examples["target"], 7))
        empty = jax.tree.map(lambda x: jnp.concatenate([x, x[:2]]), examples)
        empty["mask"] = empty["mask"].at[-2:].set(0.0)
        program = jax.jit(lambda e: sums.per_example(small.token_loss(c), params, e, 2))
        plain, other, padded = program(examples), program(junk), program(empty)
        np.testing.assert_array_equal(plain.square_mxT, other.square_mxT)
        np.testing.assert_allclose(padded.s1_T, plain.s1_T, rtol=1e-12)
        assert not np.asarray(padded.square_mxT[-2:]).any() and not np.asarray(padded.dot_mxT[-2:]).any()


def test_order_of_examples_permutes_rows_and_nothing_else():
    with jax.enable_x64(True):
        params, examples, _ = small.regression_case()
        order = np.random.default_rng(1).permutation(12)
        plain = sums.per_example(small.regression, params, examples, 4)
        moved = sums.per_example(small.regression, params, jax.tree.map(lambda x: x[order], examples), 3)
        np.testing.assert_allclose(moved.s1_T, plain.s1_T, rtol=1e-12)
        np.testing.assert_allclose(moved.square_mxT, np.asarray(plain.square_mxT)[order], rtol=1e-12)
        np.testing.assert_allclose(moved.gsnr_T, plain.gsnr_T, rtol=1e-12)


def test_chunks_of_one_example_are_the_examples_and_larger_ones_their_sums():
    with jax.enable_x64(True):
        params, examples, grads = small.regression_case()
        for k in (1, 3):
            parts = jax.tree.map(lambda x, k=k: x.reshape(-1, k, *x.shape[1:]), examples)

            def chunk(total, rows):
                found = jax.grad(lambda p: jax.vmap(small.regression, (None, 0))(p, rows).sum())(params)
                return jax.tree.map(jnp.add, total, found), sums.dots(found, found)

            found = inline.chunk_sums(*jax.lax.scan(chunk, jax.tree.map(jnp.zeros_like, params), parts), 12)
            by_chunk = by_hand([g.reshape(-1, k, g.shape[1]).sum(1) for g in grads])
            assert worst(found["chunk_s1_T"], by_chunk["s1_T"]) < 1e-12
            assert worst(found["chunk_s2_T"], by_chunk["square_mxT"].sum(0)) < 1e-12
            assert (float(found["chunks"]), float(found["chunk_rows"])) == (12 / k, k)


def test_bf16_parameters_are_summed_in_float32():
    params, examples, _ = small.regression_case(dtype=np.float32)
    found = sums.per_example(small.regression, small.cast(params, jnp.bfloat16), examples, 4)
    assert found.s1_T.dtype == found.square_mxT.dtype == jnp.float32


def test_what_does_not_fit_is_refused_by_name():
    params, examples, _ = small.regression_case(dtype=np.float32)
    with pytest.raises(ValueError, match="microbatch=5 does not divide the 12 examples; nearest valid: 4"):
        sums.per_example(small.regression, params, examples, 5)
    with pytest.raises(ValueError, match="one leading axis"):
        sums.microbatches({"a": jnp.zeros(3), "b": jnp.zeros(4)}, 1)


def linear(params, example):
    """Gradient = the example itself."""
    return jnp.vdot(params["w"], example)


@pytest.mark.parametrize("m", [6, 7, 8])
def test_what_only_rounding_moves_does_not_vary(m):
    """Float32: equal gradients have no GSNR; without the one example that moves a coordinate, that coordinate has none."""
    rng = np.random.default_rng(m)
    equal = np.tile(rng.normal(size=40), (m, 1))
    alone = np.where(np.arange(40)[None] % m == np.arange(m)[:, None], rng.normal(size=(m, 40)), 0.0)
    outlier = np.where(np.arange(m)[:, None] == 2, rng.normal(size=(m, 40)), 0.3)
    for g in (equal, alone, outlier):
        g = g.astype(np.float32).astype(np.float64)
        found = sums.per_example(linear, {"w": jnp.zeros(40)}, jnp.asarray(g, jnp.float32), 1)
        assert float(found.gsnr_count_T[0]) == (np.ptp(g, axis=0) > 0).sum()
        for i in range(m):
            rest = np.delete(g, i, 0)
            rest = rest[:, np.ptp(rest, axis=0) > 0]
            assert float(found.gsnr_count_mxT[i, 0]) == rest.shape[1]
            wanted = np.sum(rest.mean(0) ** 2 / rest.var(0, ddof=1))
            np.testing.assert_allclose(found.gsnr_mxT[i, 0], wanted, rtol=1e-4)


def test_the_cosine_of_a_step_survives_small_norms():
    """|g|^2 |u|^2 = 1e-44 is below float32; |g| |u| is not."""
    tree = {"w": jnp.asarray([3e-11, 4e-11])}
    found = inline.measure(tree, jax.tree.map(lambda x: -x, tree), jnp.float32(0))
    assert float(found["descent_cosine"]) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("m", [5, 8, 2000])
@pytest.mark.parametrize("eps", [1e-9, 0.3, 1e4])
def test_the_null_of_the_damped_gsnr_is_its_expectation_at_mean_zero(m, eps):
    """Against the integral over the chi-square law of the spread, for one sigma; unbiased, so averaged over drawn spreads."""
    sigma = 0.7
    law = scipy.stats.chi2(m - 1)
    x = law.ppf((np.arange(200_000) + 0.5) / 200_000)  # equal shares
    wanted = np.mean(sigma**2 / m / (sigma**2 * x / m + eps))
    with jax.enable_x64(True):
        found = sums._damped_null({"w": jnp.asarray(sigma**2 * x)}, m, eps)[0] / len(x)
    np.testing.assert_allclose(found, wanted, rtol=2e-3)
    if eps < 1e-6 and m < 100:
        np.testing.assert_allclose(found, 1 / (m - 3), rtol=5e-3)


def test_the_damped_gsnr_counts_coordinates_that_do_not_vary():
    found = sums.per_example(linear, {"w": jnp.zeros(3)}, jnp.full((6, 3), 0.1), 2, eps=1e-2)
    np.testing.assert_allclose(found.gsnr_eps_T, [3 * 0.01 / 1e-2], rtol=1e-5)
    assert float(found.gsnr_count_T[0]) == 0 and np.isnan(float(sums._damped_null({"w": jnp.ones(3)}, 3, 1e-2)[0]))


def test_a_step_of_more_entries_than_an_int32_is_traced():
    """A model of 7B parameters; nothing of it is made."""
    tree = {"w": jax.ShapeDtypeStruct((3, 2**15, 2**15), jnp.float32)}
    found = jax.eval_shape(lambda x, y: inline.measure(x, y, ever_changed.how_many(ever_changed.changes(x, y))), tree, tree)
    assert set(found) == {"grad_norm", "update_norm", "descent_cosine", "step_sparsity"}
