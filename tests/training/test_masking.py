"""Training under a mask: frozen entries keep their bits, the rest is what an optimizer of the kept entries would do."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpost import models, training
from jaxpost.checkpoint import Checkpoints
from jaxpost.probes import weights
from jaxpost.training import masking, optimizers

CONFIG = models.TransformerConfig(vocab=11, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ff=12)


@pytest.fixture(scope="module")
def base():
    return training.bf16_grid(models.init(CONFIG, jax.random.key(0)))


@pytest.fixture(scope="module")
def found(base):
    return masking.references(CONFIG, base, k=4, alpha=0.3)


def bits(tree):
    return jax.tree.map(lambda x: np.asarray(x).view(np.uint16 if x.dtype == jnp.bfloat16 else np.uint32), tree)


@pytest.mark.parametrize("optimizer, storage", [
    ("adamw", "bfloat16"), *(pytest.param(*x, marks=pytest.mark.slow) for x in (
        ("adamw", "float32"), ("sgd", "bfloat16"), ("sgd", "float32")))])
def test_frozen_entries_keep_their_bits_and_kept_ones_move(make, optimizer, storage):
    run = make("cross_entropy", "sft", optimizer=optimizer, storage=storage)
    spec = dataclasses.replace(run.spec, optimizer=(("name", optimizer), *((("weight_decay", 0.1),) if optimizer == "adamw"
                                                                           else ())))
    rng = np.random.default_rng(0)
    mask = masking.Mask(jax.tree.map(lambda x: rng.random(x.shape) < 0.4, run.params))
    params = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(-0.0), run.params)  # a sign that arithmetic would lose
    state = training.create(spec, params, {}, mask)
    first = bits(state.params)
    program = jax.jit(lambda s: jax.lax.fori_loop(
        0, 5, lambda i, s: training.one_step(run.source, spec, run.member, s, None)[0], s))
    after = program(state)
    moved = 0
    for keep, x0, x1 in zip(*map(jax.tree.leaves, (mask.kept, first, bits(after.params)))):
        np.testing.assert_array_equal(x0[~keep], x1[~keep])
        moved += (x0[keep] != x1[keep]).sum()
    assert moved > (0.5 if storage == "float32" else 0.01) * mask.size()
    for leaf in (x for x in jax.tree.leaves(after.opt_state) if x.ndim):
        keep = [k for k in jax.tree.leaves(mask.kept) if k.shape == leaf.shape]
        assert any((np.asarray(leaf)[~k] == 0).all() for k in keep)  # no moment, no momentum of a frozen entry


def test_the_update_is_that_of_the_kept_entries_alone():
    """Clipping, Adam and decoupled decay of the vector of kept entries, by optax on that vector."""
    rng = np.random.default_rng(1)
    params = {"a": jnp.asarray(rng.normal(size=(5, 4)), jnp.float32), "b": jnp.asarray(rng.normal(size=7), jnp.float32)}
    mask = masking.Mask({"a": rng.random((5, 4)) < 0.5, "b": rng.random(7) < 0.5})
    ours = optimizers.make("adamw", weight_decay=0.1, clip_norm=0.5)
    theirs = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(3e-2, weight_decay=0.1))

    def short(tree):
        return jnp.concatenate([tree[n][np.asarray(mask.kept[n])] for n in ("a", "b")])

    state, vector = ours.init(params), short(params)
    expected = theirs.init(vector)
    for t in range(4):
        grads = {n: jnp.asarray(np.random.default_rng(t).normal(size=x.shape) * 3, jnp.float32) for n, x in params.items()}
        params, updates, state, same = optimizers.advance(ours, mask, params, grads, state, jnp.float32(3e-2))
        direction, expected = theirs.update(short(grads), expected, vector)
        vector = optax.apply_updates(vector, direction)
        np.testing.assert_allclose(short(params), vector, rtol=2e-6, atol=1e-7)
        np.testing.assert_allclose(short(updates), direction, rtol=2e-5, atol=1e-8)
        assert same is mask


def test_a_mask_of_everything_is_no_mask(base):
    whole = masking.Mask(jax.tree.map(lambda x: np.ones(x.shape, bool), base))
    grads = jax.tree.map(lambda x: 3.0 * jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape), base)
    transform = optimizers.make("adamw", weight_decay=0.1)
    step = jax.jit(lambda mask: optimizers.advance(transform, mask, base, grads, transform.init(base), jnp.float32(1e-2))[:3])
    for plain, masked in zip(*map(jax.tree.leaves, (step(None), step(whole))), strict=True):  # two programs, fused differently
        assert np.linalg.norm(np.ravel(plain - masked)) <= 1e-6 * np.linalg.norm(np.ravel(plain))


def test_masks_are_an_argument_and_members_have_their_own(make):
    run = make("cross_entropy", "sft")
    masks = [masking.Mask(jax.tree.map(lambda x, s=s: np.random.default_rng(s).random(x.shape) < 0.5, run.params))
             for s in (0, 1)]
    states = training.stack([training.create(run.spec, run.params, {}, mask) for mask in masks])
    program = training.segment_program(run.source, run.spec, 4)
    members = training.stack([run.member, run.member])
    after, _ = training.run_segment(program, states, members, 3, None)
    for i, mask in enumerate(masks):
        changed = jax.tree.map(lambda a, b, i=i: np.asarray(a[i] != b), after.params, run.params)
        assert all(not (c & ~k).any() for c, k in zip(*map(jax.tree.leaves, (changed, mask.kept))))
    compiled = program._cache_size()  # other tests of the process may have used it with other shapes
    states = training.stack([training.create(run.spec, run.params, {}, mask) for mask in reversed(masks)])
    training.run_segment(program, states, members, 2, None)
    assert program._cache_size() <= compiled


def test_a_masked_state_survives_a_checkpoint(make, tmp_path):
    run = make()
    mask = masking.Mask(jax.tree.map(lambda x: np.random.default_rng(3).random(x.shape) < 0.5, run.params))
    state = training.create(run.spec, run.params, {}, mask)
    with Checkpoints(tmp_path) as saves:
        saves.save(1, state, {})
        saves.wait()
        back = saves.restore(1, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state))
    chex.assert_trees_all_equal(back, state)


def test_references_are_the_weight_probes_own_masks(base, found):
    matrices = {n: w for n, w in models.matrices(base, CONFIG).items() if n.split("/")[-1] in masking.LINEAR}
    assert set(found) == set(matrices)
    for name, w in matrices.items():
        w = np.asarray(w, np.float64)
        count = int(np.ceil(round(0.3 * w.size, 6)))
        u, s, vt = np.linalg.svd(w, full_matrices=False)
        score = np.abs((u[:, :4] * s[:4]) @ vt[:4])
        low, principal = found[name]["low"], found[name]["principal"]
        assert low.sum() == principal.sum() == count
        assert np.abs(w[low]).max() <= np.abs(w[~low]).min()
        assert score[principal].min() >= score[~principal].max() - 1e-6
    for kind in ("k", "down"):  # tall, and wide: measured transposed
        name = f"layers/0/{kind}"
        refs = weights.prepare(weights.Panel(ks=(4,), alphas=(0.3,), null_norms=(1e-3,), null_draws=1),
                               {name: matrices[name]}, jax.random.key(0))
        ref = next(iter(refs.values()))
        for mine, theirs in ((found[name]["low"], ref["low"][0, 0]), (found[name]["principal"], ref["principal"][0, 0, 0])):
            np.testing.assert_array_equal(mine.T if kind == "down" else mine, theirs)


def test_patterns_and_random_masks_of_their_density(base, found):
    made = {name: masking.pattern(name, found) for name in masking.PATTERNS}
    for name, masks in found.items():
        low, principal = masks["low"], masks["principal"]
        np.testing.assert_array_equal(made["complement"][name], ~principal)
        np.testing.assert_array_equal(made["safe"][name], low | ~principal)
        np.testing.assert_array_equal(made["low_magnitude"][name], low)
        assert made["dense"][name].all() and (made["principal"][name] == principal).all()
    drawn = [masking.random_like(made["safe"], jax.random.key(s)) for s in (0, 1)]
    for name, mask in made["safe"].items():
        assert drawn[0][name].sum() == drawn[1][name].sum() == mask.sum()
        assert (drawn[0][name] != drawn[1][name]).any()
    whole = masking.on_linear(base, made["safe"])
    assert whole.size() == sum(int(m.sum()) for m in made["safe"].values())
    assert not whole.kept["embed"].any() and not whole.kept["layers"]["mlp_norm"].any()
    assert masking.on_linear(base, made["safe"], outside=True).kept["embed"].all()
    np.testing.assert_array_equal(whole.kept["layers"]["down"][1], made["safe"]["layers/1/down"])


def test_what_cannot_be_built_says_why(base, found):
    with pytest.raises(ValueError, match="mask 'safest' is unknown; choose one of dense, principal"):
        masking.pattern("safest", found)
    with pytest.raises(ValueError, match="k=12 is above the smallest matrix; at most 7"):
        masking.references(CONFIG, base, k=12, alpha=0.3)
    with pytest.raises(ValueError, match="build the mask from these parameters"):
        masking.Mask({"a": np.ones((2, 2), bool)}).start({"a": jnp.ones((2, 3))})
