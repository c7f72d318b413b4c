"""Ghost norms of the project's decoder against materialised gradients, their cross terms, their price and what they refuse."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models
from jaxpost.probes.gradients import ghost as gradient_ghost
from jaxpost.probes.gradients import sums
from jaxpost.probes.gradients.ghost import Ghost

_SPEC = importlib.util.spec_from_file_location("gradient_models", Path(__file__).parents[1] / "gradient_models.py")
small = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(small)

FIELDS = ("s1_T", "square_mxT", "dot_mxT")


def worst(found, wanted):
    """Largest error of each tensor, relative to that tensor's largest value."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return float(np.max(np.abs(found - wanted) / np.abs(wanted).reshape(-1, wanted.shape[-1]).max(0)))


def both(c, dtype, T=6, microbatch=4):
    params, examples = small.decoder_case(c, T=T, dtype=dtype)
    direct = jax.jit(lambda p, e: sums.per_example(small.token_loss(c), p, e, microbatch, gsnr=False))(params, examples)
    ghost = jax.jit(lambda p, e: Ghost(small.row_loss(c)).per_example(p, e, microbatch))(params, examples)
    return direct, ghost


@pytest.mark.parametrize("more", [
    {"tied": True, "qkv_bias": True, "qk_norm": True},
    pytest.param({"tied": False, "qkv_bias": True, "value_head": True, "layers": 3}, marks=pytest.mark.slow)])
def test_every_parameter_of_the_decoder_reads_as_its_materialised_gradient(more):
    with jax.enable_x64(True):
        direct, ghost = both(small.config(compute_dtype="float64", **more), jnp.float64)
        for name in FIELDS:
            assert worst(getattr(ghost, name), getattr(direct, name)) < 1e-12, name


@pytest.mark.parametrize("T", [pytest.param(3, marks=pytest.mark.slow), 14])
def test_short_and_long_rows_take_both_ways_and_agree_in_float32(T):
    c = small.config(tied=True, qk_norm=True)
    formed = {gradient_ghost.forms_gradients(T, *shape) for shape in ((8, 4), (8, 12), (8, 11))}
    assert formed == {T > 10}
    direct, ghost = both(c, jnp.float32, T=T)
    for name in FIELDS:
        assert worst(getattr(ghost, name), getattr(direct, name)) < 1e-5, name


def test_microbatches_and_order_change_nothing():
    with jax.enable_x64(True):
        c = small.config(tied=True, compute_dtype="float64")
        params, examples = small.decoder_case(c, dtype=jnp.float64)
        order = np.random.default_rng(1).permutation(8)
        program = jax.jit(Ghost(small.row_loss(c)).per_example, static_argnums=(2, 3))
        whole, parts = (program(params, x, b, False) for x, b in
                        ((examples, 8), (jax.tree.map(lambda x: x[order], examples), 2)))
        assert worst(parts.s1_T, whole.s1_T) < 1e-12
        assert worst(parts.square_mxT, np.asarray(whole.square_mxT)[order]) < 1e-12


def test_the_gradient_is_that_of_the_plain_pass_and_bf16_products_are_summed_in_float32():
    c = small.config(tied=True, compute_dtype="bfloat16")
    params, examples = small.decoder_case(c)
    total, square = jax.jit(lambda p: Ghost(small.row_loss(c)).first_pass(p, examples, 8))(params)
    plain = jax.jit(jax.grad(lambda p: small.row_loss(c)(p, examples).sum()))(params)
    for a, b in zip(jax.tree.leaves(total), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-2 * float(jnp.abs(b).max()))
    exact = jax.jit(lambda p: sums.first_pass(small.token_loss(small.config(tied=True)), p, examples, 8)[1])(params)
    assert square.dtype == jnp.float32 and worst(square, exact) < 0.1


def test_a_table_that_is_read_twice_has_its_cross_term():
    """Tied embedding and head of one example, gradient by hand; without the cross term the norm is off by percents."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(3)
        table, tokens, cotangent = rng.normal(size=(6, 3)), np.array([[1, 1, 4]]), rng.normal(size=(3, 6))

        def loss(params, tokens, reader):
            x, shared = reader.embed(params["embed"], tokens)
            logits = reader.head(x.reshape(-1, 3), params["embed"].T, shared, True, jnp.float64)
            return (jnp.asarray(cotangent)[None] * logits.reshape(1, 3, 6)).sum((1, 2))

        found = Ghost(loss).per_example({"embed": jnp.asarray(table)}, jnp.asarray(tokens), 1)
        head, inside = cotangent.T @ table[tokens[0]], np.zeros((6, 3))
        np.add.at(inside, tokens[0], cotangent @ table)
        whole = np.sum((head + inside) ** 2)
        np.testing.assert_allclose(found.square_mxT, [[whole]], rtol=1e-12)
        np.testing.assert_allclose(found.dot_mxT, [[whole]], rtol=1e-12)
        assert abs(np.sum(head**2) + np.sum(inside**2) - whole) > 0.04 * whole


def test_the_plain_reader_leaves_nothing_in_the_program():
    """Seven products a layer, two of attention, one of the head; and no trace of slots."""
    c = small.config(tied=True)
    params, examples = small.decoder_case(c)
    text = jax.jit(small.row_loss(c)).lower(params, examples).as_text()
    assert text.count("stablehlo.dot_general") == 10
    assert "custom" not in text


@pytest.mark.parametrize(("width", "T", "rows"), [
    (128, 32, 16), *(pytest.param(*shape, marks=pytest.mark.slow) for shape in ((64, 96, 8), (128, 64, 8)))])
def test_price_in_operations_and_memory(width, T, rows):
    """At most 1.3 times the operations of the plain gradient of these rows and 1.5 times its memory, as XLA counts them."""
    c = models.TransformerConfig(vocab=32, width=width, layers=2, heads=4, kv_heads=2, head_dim=width // 4, ff=2 * width)
    params = jax.eval_shape(lambda: models.init(c, jax.random.key(0)))
    examples = jax.eval_shape(lambda: small.decoder_case(small.config(), m=rows, T=T)[1])

    def plain(p, e):
        return jax.grad(lambda q: small.row_loss(c)(q, e).sum())(p)

    def ghost(p, e):
        return Ghost(small.row_loss(c)).per_example(p, e, rows, intervals=False)

    built = [jax.jit(f).lower(params, examples).compile() for f in (plain, ghost)]
    operations = [b.cost_analysis()["flops"] for b in built]
    held = [b.memory_analysis().temp_size_in_bytes + b.memory_analysis().argument_size_in_bytes
            + b.memory_analysis().output_size_in_bytes for b in built]
    assert operations[1] <= 1.3 * operations[0] and held[1] <= 1.5 * held[0]


def test_what_would_read_wrong_is_refused():
    params, rows = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}, jnp.ones((4, 3))

    def loss(params, x, reader):
        return (reader.linear(x, {"w": params["w"]})[0] + params["b"][None]).sum(1)

    with pytest.raises(ValueError, match="parameters b are not used through the reader"):
        Ghost(loss).first_pass(params, rows, 4)
    with pytest.raises(ValueError, match="'w' is used twice"):
        Ghost(lambda p, x, r: loss(p, x, r) + loss(p, x, r)).first_pass(params, rows, 4)
    with pytest.raises(ValueError, match=r"one value an example, \[4\]; found shape \(\)"):
        Ghost(lambda p, x, r: loss(p, x, r).sum()).first_pass(params, rows, 4)
    with pytest.raises(ValueError, match="microbatch=3 does not divide the 4 examples"):
        Ghost(loss).first_pass(params, rows, 3)


def test_positions_that_cancel_never_read_a_negative_norm():
    """Equal inputs with opposite cotangents: float32 products round to either side of 0."""
    rng = np.random.default_rng(0)
    x, c = np.repeat(rng.normal(size=(2, 8, 3, 16)), 2, axis=2)
    c = c * np.tile([1.0, -1.0], 3)[None, :, None]

    def loss(params, rows, reader):
        (y,) = reader.linear(rows["x"].reshape(-1, 16), {"w": params["w"]})
        return (y.reshape(-1, 6, 16) * rows["c"]).sum((1, 2))

    rows = {"x": jnp.asarray(x, jnp.float32), "c": jnp.asarray(c, jnp.float32)}
    square = np.asarray(Ghost(loss).first_pass({"w": jnp.zeros((16, 16))}, rows, 4)[1])
    size = ((x**2).sum((1, 2)) * (c**2).sum((1, 2)))[:, None]
    assert (square >= 0).all() and (square <= 1e-6 * size).all()
