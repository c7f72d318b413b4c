"""LoRA and PiSSA: exact starts, gradients of the factors by finite differences, effective weights of low rank."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import training
from jaxpost.checkpoint import Checkpoints
from jaxpost.training import adapters, optimizers

KINDS = ("q", "down", "head")


@pytest.fixture
def run(make):
    return make("cross_entropy", "sft")


def made(params, which, rank=3, kinds=KINDS, **parts):
    if which == "pissa":
        return adapters.pissa(params, kinds, rank)
    return adapters.lora(params, kinds, rank, jax.random.key(1), **parts)


def take(params, kind):
    return np.asarray(params["layers"].get(kind, params.get(kind)), np.float64)


def test_lora_starts_at_the_base_bit_for_bit(run):
    for init in adapters.INITS:
        adapter = made(run.params, "lora", init=init, alpha=6.0)
        state = training.create(run.spec, run.params, {}, adapter)
        chex.assert_trees_all_equal(state.params, run.params)
        assert adapters.start_error(run.params, adapter) == 0.0 and float(adapter.scale) == 2.0


def test_pissa_starts_at_the_base_to_rounding_and_trains_its_leading_triplets(run):
    adapter = made(run.params, "pissa")
    assert 0 < adapters.start_error(run.params, adapter) < 1e-7
    for kind in KINDS:
        whole, rest = take(run.params, kind), np.asarray(adapter.frozen[kind], np.float64)
        for w, left in zip(np.atleast_3d(whole) if whole.ndim == 3 else whole[None], rest if rest.ndim == 3 else rest[None]):
            s0, s1 = np.linalg.svd(w, compute_uv=False), np.linalg.svd(left, compute_uv=False)
            np.testing.assert_allclose(s1[:len(s0) - 3], s0[3:], rtol=1e-5, atol=1e-6)
            assert s1[len(s0) - 3:].max() < 1e-5
    a, b = (np.asarray(adapter.factors["head"][n], np.float64) for n in ("a", "b"))
    s = np.linalg.svd(take(run.params, "head"), compute_uv=False)[:3]
    np.testing.assert_allclose(a.T @ a, np.diag(s), atol=1e-5)  # U sqrt(S), and sqrt(S) V'
    np.testing.assert_allclose(b @ b.T, np.diag(s), atol=1e-5)


def test_the_initial_law_of_a():
    params = {"layers": {"q": jnp.ones((4, 100, 80))}}
    for init, variance in (("kaiming", 1 / 300), ("gaussian", 1 / 100)):
        a = np.asarray(made(params, "lora", 16, ("q",), init=init).factors["q"]["a"])
        assert a.var() == pytest.approx(variance, rel=0.05) and abs(a.mean()) < 2e-3
        if init == "kaiming":
            assert np.abs(a).max() <= 0.1
    assert float(made(params, "lora", 16, ("q",)).scale) == 1.0


@pytest.mark.parametrize("which", ["lora", pytest.param("pissa", marks=pytest.mark.slow)])
def test_the_pulled_back_gradient_against_finite_differences(in_float64, make, which):
    with jax.enable_x64(True):
        run = in_float64(make("cross_entropy", "sft"))
        params = jax.tree.map(lambda x: x.astype(jnp.float64), run.params)
        adapter = made(params, which)
        rng = np.random.default_rng(0)
        if which == "lora":  # away from B = 0, where A has no gradient
            adapter = adapter._replace(factors=jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)) * 0.05,
                                                            adapter.factors))
        batch = run.batch(run.member, run.state, None)[0]

        @jax.jit
        def loss(effective):
            return (-run.logp(effective, batch) * batch.mask_NxT).sum() / batch.mask_NxT.sum()

        start = adapter.start(params)
        transform = optimizers.make("sgd", momentum=0.0, clip_norm=1e9)
        rate, state = 1.0, transform.init(adapter.factors)
        after = optimizers.advance(transform, adapter, start, jax.grad(loss)(start), state, rate)[3]
        gradient = jax.tree.map(jnp.subtract, adapter.factors, after.factors)
        direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), adapter.factors)
        h = 1e-5
        up, down = (loss(adapter._replace(factors=jax.tree.map(lambda f, d, s=s: f + s * h * d, adapter.factors, direction))
                         .start(params)) for s in (1, -1))
        slope = sum(float(jnp.vdot(g, d)) for g, d in zip(*map(jax.tree.leaves, (gradient, direction))))
        assert float((up - down) / (2 * h)) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("which, storage", [
    ("pissa", "float32"), ("lora", "bfloat16"),
    pytest.param("pissa", "bfloat16", marks=pytest.mark.slow), pytest.param("lora", "float32", marks=pytest.mark.slow)])
def test_training_moves_the_effective_weights_by_low_rank_and_nothing_else(make, which, storage):
    run = make("cross_entropy", "sft", storage=storage)
    adapter = made(run.params, which)
    state = training.create(run.spec, run.params, {}, adapter)
    program = jax.jit(lambda s: jax.lax.fori_loop(
        0, 6, lambda i, s: training.one_step(run.source, run.spec, run.member, s, None)[0], s))
    after = program(state)
    chex.assert_trees_all_equal(after.trainable.frozen, adapter.frozen)
    chex.assert_trees_all_equal(after.params, after.trainable.start(after.params))
    for kind in (*after.params["layers"], "embed", "head", "final_norm"):
        before, now = take(state.params, kind), take(after.params, kind)
        assert (before != now).any() == (kind in KINDS), kind
    if storage == "float32":
        for update in (take(after.params, "down") - take(state.params, "down")):
            s = np.linalg.svd(update, compute_uv=False)
            assert s[2 * 3:].max() < 1e-5 * s[0]  # A B - A0 B0 has rank at most 2 r
    moments = {x.shape for x in jax.tree.leaves(after.opt_state) if x.ndim}
    assert moments == {x.shape for x in jax.tree.leaves(adapter.factors)}


def test_the_reported_update_is_the_effective_one(run):
    adapter = made(run.params, "lora")
    state = training.create(run.spec, run.params, {}, adapter)
    batch = run.batch(run.member, state, None)[0]
    after, metrics = run.update(state, batch)
    again, _ = run.update(after, batch)
    moved = [np.asarray(b, np.float64) - np.asarray(a, np.float64) for a, b in
             zip(*map(jax.tree.leaves, (state.params, after.params)))]
    assert float(metrics["update_norm"][0]) == pytest.approx(np.sqrt(sum((m**2).sum() for m in moved)), rel=1e-3)
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(*map(jax.tree.leaves, (again.params, after.params))))


def test_sizes_and_checkpoints(run, tmp_path):
    for which in ("lora", "pissa"):
        adapter = made(run.params, which)
        m_n = [run.params["layers"]["q"].shape, run.params["layers"]["down"].shape, (1, *run.params["head"].shape)]
        assert adapter.size() == sum(3 * L * (m + n) for L, m, n in m_n)
    state = training.create(run.spec, run.params, {}, adapter)
    with Checkpoints(tmp_path) as saves:
        saves.save(1, state, {})
        saves.wait()
        back = saves.restore(1, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state))
    chex.assert_trees_all_equal(back, state)


@pytest.mark.parametrize("which", ["lora", "pissa"])
@pytest.mark.parametrize("kinds, rank, message", [
    (("q", "k"), 17, "rank=17 is not between 1 and 16, the largest that every matrix of q, k has"),
    (("q",), 0, "rank=0 is not between 1 and 32"),
    (("queries",), 2, "module 'queries' is no matrix of this model; choose from .*embed.*gate"),
    (("mlp_norm",), 2, "module 'mlp_norm' is no matrix"),
    ((), 2, "no module is named"),
])
def test_what_cannot_be_adapted_says_why(run, which, kinds, rank, message):
    with pytest.raises(ValueError, match=message):
        made(run.params, which, rank, kinds)
    with pytest.raises(ValueError, match="init='he' is unknown; choose one of kaiming, gaussian"):
        made(run.params, "lora", init="he")
    with pytest.raises(ValueError, match="alpha=0.0 must be greater than 0, for example 2"):
        adapters.lora(run.params, ("q",), 2, jax.random.key(0), alpha=0.0)
