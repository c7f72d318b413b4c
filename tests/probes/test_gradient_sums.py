"""Engines of the gradient sums against gradients written by hand, against each other, and their invariances."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost.probes import gradient_sums as sums
from jaxpost.probes.gradient_ghost import Ghost, Site

_SPEC = importlib.util.spec_from_file_location("gradient_models", Path(__file__).with_name("gradient_models.py"))
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


@pytest.mark.parametrize("tied", [True, False])
def test_ghost_sums_equal_those_of_materialised_gradients(tied):
    with jax.enable_x64(True):
        c = small.config(tied)
        params, examples = small.decoder_case(c, dtype=jnp.float64)
        ghost = Ghost(small.tapped(c), small.sites(c))
        direct = jax.jit(lambda p, e: sums.per_example(lambda q, x: small.tapped(c)(q, dict.fromkeys(small.sites(c), 0.0) | {
            n: jnp.zeros(c.layers) for n in q["layers"] if n in small.sites(c)}, x)[0], p, e, 4))(params, examples)
        for microbatch in (2, 8):
            found = jax.jit(lambda p, e, b=microbatch: ghost.per_example(p, e, b))(params, examples)
            for name in ("s1_T", "square_mxT", "dot_mxT"):
                assert worst(getattr(found, name), getattr(direct, name)) < 1e-12, name
        assert found.gsnr_T is None


def test_ghost_sums_equal_those_of_the_model_itself_in_float32():
    c = small.config(tied=True)
    params, examples = small.decoder_case(c)
    direct = jax.jit(lambda p, e: sums.per_example(small.token_loss(c), p, e, 4))(params, examples)
    found = jax.jit(lambda p, e: Ghost(small.tapped(c), small.sites(c)).per_example(p, e, 8))(params, examples)
    for name in ("s1_T", "square_mxT", "dot_mxT"):
        assert worst(getattr(found, name), getattr(direct, name)) < 1e-5, name


@pytest.mark.parametrize("T", [1, 2, 9])  # both branches of 2 T^2 <= d p
def test_ghost_of_one_matrix_on_both_sides_of_the_cost_rule(T):
    with jax.enable_x64(True):
        rng = np.random.default_rng(T)
        w, x = rng.normal(size=(4, 5)), rng.normal(size=(3, T, 4))

        def tapped(params, perturbations, example):
            return jnp.sum(jnp.tanh(example @ params["w"] + perturbations["y"])), {"y": example}

        params, examples = {"w": jnp.asarray(w)}, jnp.asarray(x)
        found = Ghost(tapped, {"y": Site("w", "linear")}).per_example(params, examples, 3)
        grads = np.einsum("mtd,mtp->mdp", x, 1 - np.tanh(x @ w) ** 2).reshape(3, -1)
        wanted = by_hand([grads])
        for name in ("s1_T", "square_mxT", "dot_mxT"):
            assert worst(getattr(found, name), wanted[name]) < 1e-12, name


def test_a_table_that_is_read_twice_has_its_cross_term():
    """Tied embedding and head of one example, gradient by hand; without the cross term the norm is off by tens of percent."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(3)
        table, tokens, cotangent = rng.normal(size=(6, 3)), np.array([[1, 1, 4]]), rng.normal(size=(3, 6))

        def tapped(params, perturbations, example):
            x = params["embed"][example] + perturbations["in"]
            return jnp.sum(cotangent * (x @ params["embed"].T + perturbations["out"])), {"in": example, "out": x}

        sites = {"in": Site("embed", "embedding"), "out": Site("embed", "unembedding")}
        found = Ghost(tapped, sites).per_example({"embed": jnp.asarray(table)}, jnp.asarray(tokens), 1)
        grad = cotangent.T @ table[tokens[0]]
        np.add.at(grad, tokens[0], cotangent @ table)
        assert worst(found.square_mxT, [[np.sum(grad**2)]]) < 1e-12
        assert worst(found.dot_mxT, [[np.sum(grad**2)]]) < 1e-12


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
                return sums.add_chunk(total, jax.grad(lambda p: jax.vmap(small.regression, (None, 0))(p, rows).sum())(params))

            total, square_MxT = jax.lax.scan(chunk, jax.tree.map(jnp.zeros_like, params), parts)
            by_chunk = by_hand([g.reshape(-1, k, g.shape[1]).sum(1) for g in grads])
            assert worst(sums.dots(total, total), by_chunk["s1_T"]) < 1e-12
            assert worst(square_MxT, by_chunk["square_mxT"]) < 1e-12


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
    with pytest.raises(ValueError, match="'conv' is none of linear, embedding, unembedding"):
        Site("w", "conv")
    with pytest.raises(ValueError, match="the leaf 'layers/z', which the parameters do not have"):
        Ghost(lambda p, q, e: (0.0, {}), {"z": Site("layers/z", "linear")}).first_pass(params, examples, 4)
