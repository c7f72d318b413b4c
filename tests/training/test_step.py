"""The one step: exact accumulation, finite differences, inline probes that disturb nothing, storage dtypes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpost import objectives, training
from jaxpost.probes import inline
from jaxpost.training import optimizers
from jaxpost.training import step as step_module


def norm(tree):
    return float(jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(tree))))


def relative(a, b):
    return norm(jax.tree.map(lambda x, y: x.astype(jnp.float32) - y.astype(jnp.float32), a, b)) / norm(b)


@pytest.mark.parametrize("objective, kind", [("grpo", "rl"), ("rloo", "rl"), ("raft", "rl"), ("cross_entropy", "sft")])
def test_accumulation_is_exact(make, objective, kind):
    one = make(objective, kind)
    batch = one.source.batch(one.member, one.state, None)[0]
    whole, m1 = training.train_step(one.spec, one.state, batch, one.member.scalars)
    four = make(objective, kind, microbatches=4)
    parts, m4 = training.train_step(four.spec, four.state, batch, one.member.scalars)
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
        batch = run.source.batch(run.member, run.state, None)[0]
        one, four = (training.train_step(*in_float64(run, m), batch, run.member.scalars)[0].params for m in (1, 4))
        difference = norm(jax.tree.map(jnp.subtract, one, four))
        assert difference <= 1e-12 * norm(one), difference


def test_the_gradient_against_finite_differences_in_float64(make):
    with jax.enable_x64(True):
        run = make("cross_entropy", "sft")
        batch = run.source.batch(run.member, run.state, None)[0]
        spec, state = in_float64(run)

        def loss(p):
            total, count, _ = spec.objective.loss(objectives.View(training.token_logp(spec, p, batch)), batch, {})
            return total / count

        rng = np.random.default_rng(0)
        direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), state.params)
        step = 1e-6
        up, down = (loss(jax.tree.map(lambda p, d, s=s: p + s * step * d, state.params, direction)) for s in (1, -1))
        slope = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(jax.grad(loss)(state.params)), jax.tree.leaves(direction)))
        assert float((up - down) / (2 * step)) == pytest.approx(float(slope), rel=1e-6)


@pytest.mark.parametrize("kind, objective", [("rl", "grpo"), ("sft", "cross_entropy")])
@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_inline_probes_change_no_bit_in_50_steps(make, monkeypatch, kind, objective, storage):
    def final():
        run = make(objective, kind, storage=storage)
        program = jax.jit(lambda s: jax.lax.fori_loop(
            0, 50, lambda i, s: training.one_step(run.source, run.spec, run.member, s, None)[0], s))
        return program(run.state).params

    with_probes = final()
    monkeypatch.setattr(step_module.inline, "measure", lambda *a: {})
    without = final()
    jax.tree.map(np.testing.assert_array_equal, with_probes, without)


def test_inline_values_against_numpy():
    rng = np.random.default_rng(0)
    g, u, w = ({"a": rng.normal(size=(4, 5)).astype(np.float32)} for _ in range(3))
    after = {"a": w["a"] + np.where(rng.random((4, 5)) < 0.5, 0, 0.1).astype(np.float32)}
    got = inline.measure(*(jax.tree.map(jnp.asarray, x) for x in (g, u, w, after)))
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
    state, _ = training.one_step(run.source, run.spec, run.member, run.state, None)
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.bfloat16)}
    assert all(x.dtype != jnp.bfloat16 for x in jax.tree.leaves(state.opt_state))


def test_unknown_optimizer():
    with pytest.raises(ValueError, match="choose one of adamw, sgd"):
        optimizers.make("adam")
