"""The one step: exact accumulation, finite differences, inline probes that disturb nothing, storage dtypes."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpost import objectives, training
from jaxpost.checkpoint import Checkpoints
from jaxpost.probes.gradients import inline
from jaxpost.probes.updates import ever_changed
from jaxpost.training import optimizers
from jaxpost.training import step as step_module


def norm(tree):
    return float(jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(tree))))


def relative(a, b):
    return norm(jax.tree.map(lambda x, y: x.astype(jnp.float32) - y.astype(jnp.float32), a, b)) / norm(b)


@pytest.mark.parametrize("objective, kind", [
    ("grpo", "rl"), *(pytest.param(*x, marks=pytest.mark.slow) for x in (  # of cross_entropy: below, in float64
        ("cross_entropy", "sft"), ("rloo", "rl"), ("raft", "rl")))])
def test_accumulation_is_exact(make, objective, kind):
    one = make(objective, kind)
    batch = one.batch(one.member, one.state, None)[0]
    whole, m1 = one.update(one.state, batch)
    four = make(objective, kind, microbatches=4)
    parts, m4 = four.update(four.state, batch)
    assert float(m4["loss"][1]) == float(m1["loss"][1])
    np.testing.assert_allclose(m4["loss"][0], m1["loss"][0], rtol=1e-6, atol=1e-6 * float(m1["loss"][1]))
    np.testing.assert_allclose(m4["grad_norm"], m1["grad_norm"], rtol=1e-5)


def in_float64(run, microbatches=1):
    model = dataclasses.replace(run.model, compute_dtype="float64")
    spec = dataclasses.replace(run.spec, model=model, microbatches=microbatches, storage_dtype="float64")
    return spec, training.create(spec, run.params, {})


def test_accumulation_is_exact_in_float64(make):
    with jax.enable_x64(True):
        run = make("cross_entropy", "sft")
        batch = run.batch(run.member, run.state, None)[0]
        step = jax.jit(training.train_step, static_argnums=0)
        one, four = (step(*in_float64(run, m), batch, run.member.scalars)[0].params for m in (1, 4))
        difference = norm(jax.tree.map(jnp.subtract, one, four))
        assert difference <= 1e-12 * norm(one), difference


def test_the_gradient_against_finite_differences_in_float64(make):
    with jax.enable_x64(True):
        run = make("cross_entropy", "sft")
        batch = run.batch(run.member, run.state, None)[0]
        spec, state = in_float64(run)

        @jax.jit
        def loss(p):
            total, count, _ = spec.objective.loss(objectives.View(training.token_logp(spec, p, batch)), batch, {})
            return total / count

        rng = np.random.default_rng(0)
        direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), state.params)
        step = 1e-6
        up, down = (loss(jax.tree.map(lambda p, d, s=s: p + s * step * d, state.params, direction)) for s in (1, -1))
        slope = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(jax.grad(loss)(state.params)), jax.tree.leaves(direction)))
        assert float((up - down) / (2 * step)) == pytest.approx(float(slope), rel=1e-6)


@pytest.mark.parametrize("objective, storage, microbatches", [
    ("grpo", "bfloat16", 2), *(pytest.param(*x, marks=pytest.mark.slow) for x in (
        ("cross_entropy", "float32", 1), ("grpo", "float32", 1), ("cross_entropy", "bfloat16", 2)))])
def test_inline_probes_change_no_bit_in_50_steps(feed, monkeypatch, users_emitters, objective, storage, microbatches):
    def final():
        run = feed(objective, storage_dtype=storage, microbatches=microbatches)
        program = jax.jit(lambda s: jax.lax.fori_loop(
            0, 50, lambda i, s: training.one_step(run.source, run.spec, run.member, s, None)[0], s))
        return program(run.state).params

    with_probes = final()
    monkeypatch.setattr(step_module.inline, "measure", lambda *a: {})
    monkeypatch.setattr(step_module.inline, "chunk_sums", lambda *a: {})
    monkeypatch.setattr(step_module, "advantage_covariance", lambda *a: (jnp.zeros(()), jnp.ones(())))
    monkeypatch.setattr(step_module, "effective_rows", lambda batch: jnp.zeros(()))
    monkeypatch.setattr(step_module.ever_changed, "changes", lambda before, after: {})
    monkeypatch.setattr(step_module.ever_changed, "mark", lambda state, changes: state)
    without = final()
    chex.assert_trees_all_equal(with_probes, without)


def test_chunk_sums_are_those_of_the_chunks_gradients(make):
    run = make("cross_entropy", "sft", microbatches=4)
    rows, _, _ = run.batch(run.member, run.state, None)
    prepared = run.spec.objective.balance(run.spec.objective.prepare(rows, 1, 0.0, {}))

    @jax.jit
    def gradient(part):
        return jax.grad(lambda p: run.spec.objective.loss(step_module.view(run.spec, p, part), part, {}, 0.0)[0])(run.params)

    grads = [gradient(jax.tree.map(lambda x, j=j: x[4 * j:4 * (j + 1)], prepared)) for j in range(4)]
    parts = [[np.asarray(x, np.float64) for x in per_tensor_entries(g)] for g in grads]
    metrics = run.step(run.member, run.state, None)[1]
    found = {name: np.asarray(metrics[name][0]) for name in ("chunk_s1_T", "chunk_s2_T", "chunks", "chunk_rows")}
    assert (found["chunks"], found["chunk_rows"]) == (4, 4)
    np.testing.assert_allclose(found["chunk_s1_T"], [np.sum(sum(g) ** 2) for g in zip(*parts, strict=True)], rtol=1e-5)
    np.testing.assert_allclose(found["chunk_s2_T"], [sum(np.sum(x**2) for x in g) for g in zip(*parts, strict=True)], rtol=1e-5)
    single = make("cross_entropy", "sft")
    metrics = jax.eval_shape(lambda s: training.one_step(single.source, single.spec, single.member, s, None)[1], single.state)
    assert "chunk_s1_T" not in metrics and "grad_norm" in metrics


def per_tensor_entries(grads):
    """Entries of every tensor, stacked leaves layer by layer, in tree order."""
    found = []
    for path, x in jax.tree_util.tree_leaves_with_path(grads):
        found += list(x) if path[0].key == "layers" else [x]
    return found


def test_the_mask_holds_every_change_of_the_bf16_cast_and_survives_a_restore(make, tmp_path):
    run = make("cross_entropy", "sft", prompts=1)
    program = jax.jit(lambda s: training.one_step(run.source, run.spec, run.member, s, None)[0])
    cast = [np.asarray(x.astype(jnp.bfloat16), np.float32) for x in jax.tree.leaves(run.params)]
    state, differed, stepped, before = run.state, [np.zeros(x.shape, bool) for x in cast], None, cast
    stepped = [np.zeros(x.shape, bool) for x in cast]
    for i in range(6):
        state = program(state)
        after = [np.asarray(x.astype(jnp.bfloat16), np.float32) for x in jax.tree.leaves(state.params)]
        differed = [d | (x != y) for d, x, y in zip(differed, cast, after, strict=True)]
        stepped = [d | (x != y) for d, x, y in zip(stepped, before, after, strict=True)]
        before = after
        if i == 2:
            with Checkpoints(tmp_path) as saves:
                saves.save(3, state, {})
                saves.wait()
                state = saves.restore(3, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state))
    masks = jax.tree.leaves(state.probe_state["ever_changed"]["mask"])
    for mask, a, b in zip(masks, differed, stepped, strict=True):
        assert mask.dtype == jnp.uint8 and mask.size == int(np.ceil(a.shape[-1] / 8)) * (a.size // a.shape[-1])
        np.testing.assert_array_equal(ever_changed.unpack(mask, a.shape[-1]), a)
        np.testing.assert_array_equal(a, b)
    assert 0 < sum(a.sum() for a in differed) < sum(a.size for a in differed)
    net = sum((x != y).sum() for x, y in zip(cast, before, strict=True))
    assert net < sum(a.sum() for a in differed), "nothing was cancelled: the run shows nothing"


def test_a_state_without_probe_state_starts_it_where_it_is(make):
    run = make("cross_entropy", "sft")
    program = training.segment_program(run.source, run.spec, 4)
    members = training.stack([run.member])
    whole, _ = training.run_segment(program, training.stack([run.state]), members, 4, None)
    half, _ = training.run_segment(program, training.stack([run.state]), members, 2, None)
    late, _ = training.run_segment(program, half._replace(probe_state=None), members, 2, None)
    chex.assert_trees_all_equal(whole.params, late.params)
    assert np.asarray(late.probe_state["ever_changed"]["since"]).tolist() == [2]
    assert np.asarray(whole.probe_state["ever_changed"]["since"]).tolist() == [0]


def test_inline_values_against_numpy():
    rng = np.random.default_rng(0)
    g, u, w = ({"a": rng.normal(size=(4, 5)).astype(np.float32)} for _ in range(3))
    after = {"a": w["a"] + np.where(rng.random((4, 5)) < 0.5, 0, 0.1).astype(np.float32)}
    moved = ever_changed.how_many(ever_changed.changes(*(jax.tree.map(jnp.asarray, x) for x in (w, after))))
    got = inline.measure(*(jax.tree.map(jnp.asarray, x) for x in (g, u)), moved)
    assert float(got["descent_cosine"]) == pytest.approx(
        -(g["a"] * u["a"]).sum() / np.linalg.norm(g["a"]) / np.linalg.norm(u["a"]), rel=1e-5)
    assert float(got["step_sparsity"]) == pytest.approx((after["a"] == w["a"]).mean(), rel=1e-6)


def test_adamw_is_optax_adamw(make):
    run = make()
    grads = jax.tree.map(lambda x: jnp.cos(x) * 0.01, run.params)
    reference = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-4, 0.9, 0.999, weight_decay=0.1))
    expected = optax.apply_updates(run.params, reference.update(grads, reference.init(run.params), run.params)[0])
    ours = optimizers.make("adamw", weight_decay=0.1)
    direction, _ = ours.update(grads, ours.init(run.params), run.params)
    got, _ = optimizers.apply_direction(run.params, direction, 3e-4)
    assert relative(got, expected) < 1e-7


def test_bf16_masters_keep_float32_moments(make):
    run = make(storage="bfloat16")
    state, _ = run.step(run.member, run.state, None)
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.bfloat16)}
    assert all(x.dtype != jnp.bfloat16 for x in jax.tree.leaves(state.opt_state))


def test_unknown_optimizer():
    with pytest.raises(ValueError, match="did you mean 'adamw'"):
        optimizers.make("adam")
