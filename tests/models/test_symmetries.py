"""Function-preserving transforms: exact on the model in float64, exact in float32 to rounding, and undone exactly."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models
from jaxpost.models import symmetries

VARIANTS = {
    "gqa": {},
    "mha": {"kv_heads": 4},
    "one-kv-head": {"kv_heads": 1, "qk_norm": True},
    "qwen2": {"qkv_bias": True, "tied": True},
    "qwen3-bias": {"qkv_bias": True, "qk_norm": True},
    "qwen3-moe": {"qk_norm": True, "experts": 3, "shared_ff": 4},
}
WAYS = {"haar": {"rotation": "haar"}, "hadamard": {"rotation": "hadamard"}, "permute": {"permute": True},
        "both": {"rotation": "haar", "permute": True}}


def config(**changes):
    return models.TransformerConfig(**{"vocab": 17, "width": 24, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 8,
                                       "ff": 20, **changes})


def random_params(c, dtype=jnp.float32):
    """Parameters without special values: gains and biases are random too."""
    leaves, tree = jax.tree.flatten(models.init(c, jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten([x.astype(dtype) + 0.3 * jax.random.normal(k, x.shape, dtype) for x, k in zip(leaves, keys)])


def drawn(c, **way):
    return [symmetries.draw(c, layer, jax.random.key(layer), **way) for layer in (0, 2)]


def logits(c, params):
    return np.asarray(_logits(c, params))


@functools.partial(jax.jit, static_argnums=0)
def _logits(c, params):
    tokens = jax.random.randint(jax.random.key(2), (3, 9), 0, 17)
    valid = jnp.ones((3, 9), bool).at[0, :2].set(False)
    return models.apply(c, params, tokens, valid_BxS=valid).logits


def error(a, b):
    return np.linalg.norm((a - b).ravel()) / np.linalg.norm(b.ravel())


def test_a_round_of_more_than_two_heads_is_undone_and_not_gone_on_with():
    c = config(kv_heads=4)
    params, symmetry = random_params(c), drawn(c, permute=True)
    assert all((np.argsort(s.head_order_H) != s.head_order_H).any() for s in symmetry)
    back = symmetries.update_back(c, models.matrices(symmetries.transform(c, params, symmetry), c), symmetry)
    for name, w in models.matrices(params, c).items():
        np.testing.assert_array_equal(back[name], w, err_msg=name)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("variant", [
    name if name in ("gqa", "qwen3-moe") else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS])
def test_the_function_stays_and_the_weights_move(variant, way):
    c = config(**VARIANTS[variant])
    with jax.enable_x64(True):
        wide = dataclasses.replace(c, compute_dtype="float64")
        params = random_params(c, jnp.float64)
        moved = symmetries.transform(c, params, drawn(c, **WAYS[way]))
        assert error(logits(wide, moved), logits(wide, params)) < 1e-12
    single = random_params(c)
    moved = symmetries.transform(c, single, drawn(c, **WAYS[way]))
    assert {x.dtype for x in jax.tree.leaves(moved)} == {jnp.dtype(jnp.float32)}
    with jax.default_matmul_precision("highest"):
        assert error(logits(c, moved), logits(c, single)) < 1e-6
    for name, w in models.matrices(single, c).items():
        treated = symmetries.treatment(drawn(c, **WAYS[way]), name)
        same = np.array_equal(models.matrices(moved, c)[name], w)
        assert same == (treated == "same") or (c.kv_heads == 1 and treated == "permuted"), name


def test_a_wrong_transform_changes_the_function():
    c = config()
    params = random_params(c)
    layers = dict(symmetries.transform(c, params, drawn(c, rotation="haar"))["layers"])
    assert error(logits(c, {**params, "layers": layers | {"o": params["layers"]["o"]}}), logits(c, params)) > 1e-2
    layers = dict(symmetries.transform(c, params, drawn(c, permute=True))["layers"])
    assert error(logits(c, {**params, "layers": layers | {"q": params["layers"]["q"]}}), logits(c, params)) > 1e-2


def test_rotations_are_orthogonal_and_haar_is_uniform():
    c = config(head_dim=16)
    for rotation in symmetries.ROTATIONS:
        r = symmetries.draw(c, 0, jax.random.key(5), rotation=rotation).rotation_KxExE
        np.testing.assert_allclose(r @ r.swapaxes(1, 2), np.broadcast_to(np.eye(16), (2, 16, 16)), atol=1e-14)
        assert not np.allclose(r[0], r[1])
    many = np.concatenate([symmetries.draw(config(head_dim=2), 0, jax.random.key(i), rotation="haar").rotation_KxExE
                           for i in range(400)])
    angle = np.arctan2(many[:, 1, 0], many[:, 0, 0])  # of the first column: uniform on the circle
    assert np.abs(np.exp(1j * np.outer([1, 2, 3], angle)).mean(1)).max() < 4 / np.sqrt(len(many))
    assert 0.4 < (np.linalg.det(many) > 0).mean() < 0.6


@pytest.mark.parametrize("heads, kv_heads", [(4, 4), (4, 2), (8, 2), (6, 1)])
def test_a_permutation_moves_every_head_and_keeps_groups(heads, kv_heads):
    c = config(heads=heads, kv_heads=kv_heads)
    order = symmetries.draw(c, 1, jax.random.key(3), permute=True).head_order_H
    group = heads // kv_heads
    assert sorted(order) == list(range(heads))
    assert not (order == np.arange(heads)).any()
    assert (order.reshape(kv_heads, group) // group == order[::group, None] // group).all()


@pytest.mark.parametrize("way", WAYS)
def test_updates_come_back(way):
    c = config(qkv_bias=True)
    found = drawn(c, **WAYS[way])
    base = random_params(c)
    rng = np.random.default_rng(0)
    update = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32) * 1e-3, base)
    moved = models.matrices(symmetries.transform(c, base, found), c)
    after = models.matrices(symmetries.transform(c, jax.tree.map(jnp.add, base, update), found), c)
    plain0, plain1 = models.matrices(base, c), models.matrices(jax.tree.map(jnp.add, base, update), c)
    back = symmetries.weights_back(c, plain0, moved, after, found)
    turned = symmetries.update_back(c, {n: np.asarray(after[n], np.float64) - np.asarray(moved[n]) for n in after}, found)
    for name, w in plain1.items():
        if "rotated" in symmetries.treatment(found, name):
            assert error(back[name], np.asarray(w)) < 3e-7, name
            assert error(turned[name], np.asarray(w) - np.asarray(plain0[name])) < 3e-3, name  # float32 ULP of w over 1e-3
        else:
            np.testing.assert_array_equal(back[name], w)
    seeds = {name: np.stack([x, x]) for name, x in after.items()}
    np.testing.assert_array_equal(symmetries.weights_back(c, plain0, moved, seeds, found)["layers/0/v"][1],
                                  back["layers/0/v"])


def test_masks_follow_permuted_entries_and_refuse_rotated_ones():
    c = config()
    found = drawn(c, permute=True)
    base = random_params(c)
    names = models.matrices(base, c)
    masks = {name: np.asarray(w) > 0.2 for name, w in names.items()}
    moved = {name: np.asarray(w) > 0.2 for name, w in models.matrices(symmetries.transform(c, base, found), c).items()}
    back = symmetries.mask_back(c, moved, found)
    for name in masks:
        np.testing.assert_array_equal(back[name], masks[name])
    assert not np.array_equal(moved["layers/0/q"], masks["layers/0/q"])
    np.testing.assert_array_equal(moved["layers/1/q"], masks["layers/1/q"])
    with pytest.raises(ValueError, match="mask of 'layers/0/v' cannot be mapped back.*weights_back"):
        symmetries.mask_back(c, moved, drawn(c, rotation="haar"))
    symmetries.mask_back(c, {"layers/0/q": moved["layers/0/q"]}, drawn(c, rotation="haar", permute=True))


@pytest.mark.parametrize("changes, way, message", [
    ({}, {"layer": 3, "permute": True}, "layer 3 does not exist; the model has layers 0 to 2"),
    ({}, {"rotation": "har"}, "rotation='har' is unknown; choose one of haar, hadamard"),
    ({"head_dim": 6}, {"rotation": "hadamard"}, "power of two, found 6; nearest valid: 4"),
    ({"heads": 1, "kv_heads": 1}, {"permute": True}, "at least two heads"),
    ({}, {}, "nothing to do"),
])
def test_what_cannot_be_drawn_says_why(changes, way, message):
    with pytest.raises(ValueError, match=message):
        symmetries.draw(config(**changes), way.pop("layer", 0), jax.random.key(0), **way)


def test_one_transform_a_layer():
    c = config()
    twice = [symmetries.draw(c, 1, jax.random.key(0), **WAYS[way]) for way in ("permute", "haar")]
    with pytest.raises(ValueError, match=r"layers \[1, 1\]: one transform a layer"):
        symmetries.transform(c, random_params(c), twice)
