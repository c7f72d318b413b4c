"""The mixture of experts against loops over tokens and experts, its symmetries and limits, and what an expert has room for."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models, sharding
from jaxpost.models import moe
from jaxpost.models.declare import EXPERT_PRODUCTS
from tests import compiled

X, K, D, F = 6, 2, 10, 7


def config(**changes):
    return models.TransformerConfig(**{"vocab": 17, "width": 16, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 8,
                                       "ff": 20, "experts": X, "experts_per_token": K, **changes})


def layer(seed=0, experts=X, tokens=23):
    """(float64 tokens, float64 weights) of one layer."""
    rng = np.random.default_rng(seed)
    weights = {"router": rng.normal(size=(D, experts)), "gate": rng.normal(size=(experts, D, F)),
               "up": rng.normal(size=(experts, D, F)), "down": rng.normal(size=(experts, F, D))}
    return rng.normal(size=(tokens, D)), {n: w / np.sqrt(w.shape[-2]) for n, w in weights.items()}


def mix(c, x, weights, counts=None, dtype="float32"):
    weights = {n: jnp.asarray(w, "float32" if n == "router" else dtype) for n, w in weights.items()}
    with jax.default_matmul_precision("highest"):
        y, taps = moe.mixture(c, jnp.asarray(x, dtype), weights, None if counts is None else jnp.asarray(counts))
    return np.asarray(y, np.float64), taps


def swiglu(x, w, e):
    gate = x @ w["gate"][e]
    return (gate / (1 + np.exp(-gate)) * (x @ w["up"][e])) @ w["down"][e]


def oracle(x, w, k, renormalise, capacity=0.0, counts=None):
    """(y, kept) by a queue an expert, one token after the other, float64."""
    experts, y = w["router"].shape[1], np.zeros_like(x)
    counts = np.ones(len(x), bool) if counts is None else counts
    room = {e: math.ceil(round(capacity * 100) * k * int(counts.sum()) / (100 * experts)) if capacity else len(x)
            for e in range(experts)}
    kept = np.zeros((len(x), k), bool)
    for n in range(len(x)):
        z = x[n] @ w["router"]
        share = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        chosen = sorted(range(experts), key=lambda e: (-z[e], e))[:k]
        total = sum(share[e] for e in chosen) if renormalise else 1.0
        for choice, e in enumerate(chosen):
            if capacity and not (counts[n] and room[e] > 0):
                continue
            room[e] -= 1
            kept[n, choice] = True
            y[n] += share[e] / total * swiglu(x[n], w, e)
    return y, kept


def normwise(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("k", [1, 2, X])
@pytest.mark.parametrize("products", EXPERT_PRODUCTS)
def test_the_layer_against_loops(k, renormalise, products):
    x, w = layer()
    y, taps = mix(config(experts_per_token=k, renormalise=renormalise, expert_products=products), x, w)
    expected, _ = oracle(x, w, k, renormalise)
    assert normwise(y, expected) < 2e-6
    assert normwise(np.asarray(taps["logits"]), x @ w["router"]) < 1e-6 and "kept" not in taps


def test_an_experts_gradient_is_that_of_the_tokens_that_chose_it():
    x, w = layer()
    chosen = np.argsort(-(x @ w["router"]), axis=1)[:, :K]
    c = config()
    grads = jax.grad(lambda w: moe.mixture(c, jnp.asarray(x, jnp.float32), w)[0].sum())(
        {n: jnp.asarray(v, jnp.float32) for n, v in w.items()})
    lone = int(np.bincount(chosen.ravel(), minlength=X).argmin())
    users = np.flatnonzero((chosen == lone).any(axis=1))
    alone = jax.grad(lambda w: moe.mixture(c, jnp.asarray(x[users], jnp.float32), w)[0].sum())(
        {n: jnp.asarray(v, jnp.float32) for n, v in w.items()})
    for name in ("gate", "up", "down"):
        np.testing.assert_allclose(grads[name][lone], alone[name][lone], rtol=1e-4, atol=1e-5)


def test_the_gradient_against_finite_differences():
    x, w = layer(tokens=5)
    with jax.enable_x64(True):
        c = config(renormalise=True)
        value = jax.jit(lambda w: (moe.mixture(c, jnp.asarray(x), w)[0] ** 2).sum())
        w = {n: jnp.asarray(v) for n, v in w.items()}
        direction = {n: jnp.asarray(np.random.default_rng(i).normal(size=v.shape)) for i, (n, v) in enumerate(w.items())}
        up, down = (value({n: v + s * 1e-6 * direction[n] for n, v in w.items()}) for s in (1, -1))
        slope = sum(float((g * direction[n]).sum()) for n, g in jax.grad(value)(w).items())
        assert float(up - down) / 2e-6 == pytest.approx(slope, rel=1e-6)


def test_grouped_products_have_the_gradients_of_dense_ones():
    """In tokens, router and experts, one of which no token chooses; float64."""
    x, w = layer()
    x, w["router"][:, 4] = np.abs(x), -50
    pull = np.random.default_rng(5).normal(size=x.shape)
    with jax.enable_x64(True):
        slope = jax.jit(jax.grad(lambda x, w, c: (moe.mixture(c, x, w)[0] * pull).sum(), (0, 1)), static_argnums=2)
        dense, grouped = (slope(jnp.asarray(x), jax.tree.map(jnp.asarray, w), config(renormalise=True, expert_products=kind))
                          for kind in EXPERT_PRODUCTS)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), grouped, dense)
    assert not np.asarray(grouped[1]["up"][4]).any()


def test_an_unused_expert_gets_no_gradient():
    x, w = layer()
    x, w["router"][:, 4] = np.abs(x), -50
    used = set(np.argsort(-(x @ w["router"]), axis=1)[:, :K].ravel())
    c = config()
    grads = jax.grad(lambda w: (moe.mixture(c, jnp.asarray(x, jnp.float32), w)[0] ** 2).sum())(
        {n: jnp.asarray(v, jnp.float32) for n, v in w.items()})
    assert 1 < len(used) < X and 4 not in used
    assert all(np.asarray(grads[n][e]).any() == (e in used) for n in ("gate", "up", "down") for e in range(X))


def test_ties_go_to_the_lower_expert():
    x, w = layer()
    w["router"] = np.repeat(w["router"][:, :2], 3, axis=1)  # 0 = 1 = 2 and 3 = 4 = 5
    expert, weight = moe.choose(config(), jnp.asarray(x @ w["router"], jnp.float32))
    expected = np.where((x @ w["router"][:, 0] >= x @ w["router"][:, 3])[:, None], [[0, 1]], [[3, 4]])
    np.testing.assert_array_equal(expert, expected)
    np.testing.assert_array_equal(weight[:, 0], weight[:, 1])


def test_renumbering_experts_changes_nothing():
    x, w = layer()
    order = np.random.default_rng(1).permutation(X)
    moved = {"router": w["router"][:, order], **{n: w[n][order] for n in ("gate", "up", "down")}}
    c = config(capacity=0.75)
    counts = np.ones(len(x), bool)
    np.testing.assert_allclose(mix(c, x, moved, counts)[0], mix(c, x, w, counts)[0], atol=1e-5)


def test_one_expert_is_the_dense_block():
    c = config(experts=1, experts_per_token=1, renormalise=True)
    dense = dataclasses.replace(c, experts=0, experts_per_token=2, renormalise=False)
    params = models.init(c, jax.random.key(0))
    plain = {n: x[:, 0] if n in ("gate", "up", "down") else x for n, x in params["layers"].items() if n != "router"}
    tokens, valid = jax.random.randint(jax.random.key(1), (2, 6), 0, 17), jnp.ones((2, 6), bool)
    out = compiled.apply(c, params, tokens, valid_BxS=valid)
    expected = compiled.apply(dense, {**params, "layers": plain}, tokens, valid_BxS=valid)
    assert normwise(np.asarray(out.logits), np.asarray(expected.logits)) < 1e-6
    assert expected.router == {} and out.router["logits"].shape == (2, 2, 6, 1)


def test_all_experts_are_the_softmax_mixture():
    x, w = layer()
    z = np.exp(x @ w["router"])
    expected = sum((z / z.sum(axis=1, keepdims=True))[:, e, None] * swiglu(x, w, e) for e in range(X))
    for renormalise in (False, True):
        assert normwise(mix(config(experts_per_token=X, renormalise=renormalise), x, w)[0], expected) < 2e-6


def test_the_router_is_float32_where_activations_are_not():
    x, w = layer()
    x = np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64)
    y, taps = mix(config(compute_dtype="bfloat16"), x, w, dtype="bfloat16")
    assert taps["logits"].dtype == jnp.float32 and normwise(np.asarray(taps["logits"]), x @ w["router"]) < 1e-6
    assert normwise(y, oracle(x, w, K, False)[0]) < 0.02
    out = compiled.apply(config(compute_dtype="bfloat16"), models.init(config(), jax.random.key(0)),
                         jnp.ones((1, 4), jnp.int32), valid_BxS=jnp.ones((1, 4), bool))
    assert out.router["logits"].dtype == jnp.float32


@pytest.mark.parametrize("capacity", [0.25, 0.7, 1.0, 1.25, X / K])
@pytest.mark.parametrize("products", EXPERT_PRODUCTS)
def test_capacity_is_a_queue(capacity, products):
    x, w = layer(tokens=37)
    counts = np.random.default_rng(2).random(37) < 0.7
    y, taps = mix(config(capacity=capacity, expert_products=products), x, w, counts)
    expected, kept = oracle(x, w, K, False, capacity, counts)
    np.testing.assert_array_equal(taps["kept"], kept)
    np.testing.assert_allclose(y, expected, atol=2e-5)
    assert kept[counts].all() if capacity >= X / K else capacity > 1 or not kept[counts].all()


def test_padding_takes_no_room_and_its_place_changes_nothing():
    c = config(capacity=0.5)
    params = models.init(c, jax.random.key(0))
    prompt, answer = (jax.random.randint(jax.random.key(i), (3, n), 1, 17) for i, n in ((1, 5), (2, 4)))
    padded = jnp.pad(prompt, ((0, 0), (3, 0)))
    plain, shifted = (models.teacher_forced(c, params, p, answer) for p in (prompt, padded))
    np.testing.assert_array_equal(shifted.router["kept"][:, :, 3:], plain.router["kept"])
    assert not np.asarray(shifted.router["kept"][:, :, :3]).any()
    np.testing.assert_allclose(shifted.logits, plain.logits, atol=2e-5)
    assert not np.asarray(plain.router["kept"]).all()


def test_segments_take_room_as_their_tokens_do():
    """Segment numbers are no numbers of tokens."""
    c = config(capacity=0.5)
    params, tokens = models.init(c, jax.random.key(0)), jax.random.randint(jax.random.key(1), (2, 8), 1, 17)
    segment = jnp.asarray([[1, 1, 1, 2, 2, 2, 2, 0], [3, 3, 3, 3, 4, 4, 4, 4]])
    found, wanted = (compiled.apply(c, params, tokens, valid_BxS=segment, counts_BxT=x) for x in (None, segment > 0))
    chex.assert_trees_all_equal(found, wanted)
    stream = models.residual_stream(c, params, tokens, valid_BxS=segment)
    np.testing.assert_allclose(stream.logits_BxTxV, wanted.logits, atol=2e-5)


def test_tokens_off_the_mask_take_no_room():
    c = config(capacity=0.5)
    params = models.init(c, jax.random.key(0))
    prompt, answer = (jax.random.randint(jax.random.key(i), (3, n), 1, 17) for i, n in ((1, 5), (2, 4)))
    mask = jnp.asarray([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], jnp.float32)
    garbage = jnp.where(mask > 0, answer, 3)
    one, other = (models.teacher_forced(c, params, prompt, a, mask_NxT=mask) for a in (answer, garbage))
    real = np.asarray(models.real_tokens(prompt, mask))
    np.testing.assert_array_equal(real[:, 5:], np.asarray(mask[:, :3], bool))
    np.testing.assert_array_equal(one.router["kept"], other.router["kept"])
    seen = np.asarray(mask) > 0
    np.testing.assert_allclose(np.asarray(one.logits)[seen], np.asarray(other.logits)[seen], atol=2e-5)
    assert not np.asarray(one.router["kept"])[:, ~real].any()


def test_decoding_is_dropless():
    bounded = config(capacity=0.25)
    params = models.init(bounded, jax.random.key(0))
    prompt = jax.random.randint(jax.random.key(1), (4, 5), 1, 17)
    a, b = (compiled.sample(c, params, prompt, jax.random.key(2), length=4, eos=3) for c in (bounded, config()))
    chex.assert_trees_all_equal(a, b)
    cached = compiled.apply(bounded, params, prompt, valid_BxS=jnp.ones((4, 5), bool), cache=models.empty_cache(bounded, 4, 5))
    assert set(cached.router) == {"logits"}


def test_a_mapped_program_is_each_members_own():
    c, x = config(capacity=0.5), jnp.asarray(layer()[0], jnp.float32)
    params = jax.tree.map(lambda *w: jnp.asarray(np.stack(w), jnp.float32), *[layer(seed)[1] for seed in range(3)])
    slope = jax.jit(jax.grad(lambda w: (moe.mixture(c, x, w, jnp.ones(len(x), bool))[0] ** 2).mean()))
    every = [jax.jit(lambda w: jax.lax.map(slope, w))(params), jax.jit(jax.vmap(slope))(params)]
    for i in range(3):
        one = slope(jax.tree.map(lambda x, i=i: x[i], params))
        for found in every:
            jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=1e-4, atol=1e-7), found, one)


def test_names_of_matrices():
    c = config(shared_ff=8)
    params = models.init(c, jax.random.key(0))
    named = models.matrices(params, c)
    np.testing.assert_array_equal(named["layers/1/experts/4/down"], params["layers"]["down"][1, 4])
    assert named["layers/0/router"].shape == (16, X) and named["layers/1/shared_gate"].shape == (16, 8)
    assert all(w.ndim == 2 for w in named.values()) and len(named) == 2 + 2 * (4 + 1 + 3 * X + 3)
    assert sum(x.size for x in jax.tree.leaves(params)) == models.count_parameters(c)
    shapes = jax.tree.map(lambda p: p.shape, models.parameter_table(c), is_leaf=lambda p: isinstance(p, models.Parameter))
    assert shapes == jax.tree.map(lambda x: x.shape, params)


@pytest.mark.parametrize(("changes", "message"), [
    ({"experts_per_token": 7}, "nearest valid: 6"), ({"experts_per_token": 0}, "nearest valid: 1"),
    ({"experts": 0, "experts_per_token": 2, "shared_ff": 4}, "shared_ff=4 is of a mixture"),
    ({"experts": 0, "experts_per_token": 3}, "experts_per_token=3"), ({"experts": 0, "capacity": 1.0}, "capacity"),
    ({"capacity": 1.234}, "whole hundredths"), ({"capacity": -1.0}, "at least 0"), ({"experts": -1}, "experts=-1"),
    ({"qk_norm_joint": True}, "qk_norm=True"), ({"expert_products": "group"}, "did you mean 'grouped'"),
    ({"experts": 0, "expert_products": "grouped"}, "expert_products=grouped is of a mixture"),
])
def test_bad_mixtures_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


@pytest.mark.parametrize(("capacity", "products"), [
    (0.0, "dense"), pytest.param(0.5, "dense", marks=pytest.mark.slow), (0.5, "grouped")])
def test_a_mesh_changes_nothing(capacity, products):
    c = config(layers=1, experts=4, capacity=capacity, shared_ff=8, expert_products=products)
    params = models.init(c, jax.random.key(0))
    tokens, valid = jax.random.randint(jax.random.key(1), (8, 6), 0, 17), jnp.ones((8, 6), bool)

    def loss(p, tokens):
        logits = compiled.apply(c, p, tokens, valid_BxS=valid).logits
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1).mean()

    value, grads = jax.jit(jax.value_and_grad(loss))(params, tokens)
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    layout = sharding.parameter_shardings(models.parameter_table(c), mesh)
    assert layout["layers"]["gate"].spec[1] == "tensor" and layout["layers"]["gate"].spec[3] is None
    with sharding.on_mesh(mesh):
        placed = jax.device_put(params, layout)
        rows = jax.device_put(tokens, jax.NamedSharding(mesh, sharding.partition(("batch",), (8,), mesh)))
        found, found_grads = jax.jit(jax.value_and_grad(loss), out_shardings=(None, layout))(placed, rows)
    assert abs(float(found - value)) <= 1e-6 * float(value)
    flat = [np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(g)]) for g in (found_grads, grads)]
    assert normwise(*flat) <= 1e-5
