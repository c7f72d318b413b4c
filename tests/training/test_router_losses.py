"""The routers' losses against loops and the definition, what they do in the step, and what may not be combined with them."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models, objectives, sharding, tasks, training
from jaxpost.probes.gradients import ghost as gradient_ghost
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.training import adapters, masking, router_losses

TASK = tasks.get("addition", digits=1)
X, K = 4, 2


def model(**changes):
    return models.TransformerConfig(**{"vocab": tasks.vocab.SIZE, "width": 16, "layers": 2, "heads": 2, "kv_heads": 1,
                                       "head_dim": 8, "ff": 12, "experts": X, "experts_per_token": K, **changes})


def spec_of(c, objective="cross_entropy", **parts):
    return training.StepSpec(c, objectives.get(objective), (("clip_norm", 1e9), ("name", "sgd")), **parts)


SCALARS = training.Scalars(1.0, 0.0, False)
COEF = {"balance_coef": 0.3, "router_z_coef": 0.02}


def step(spec, params, batch):
    state = training.create(spec, params, {})
    return jax.jit(lambda s, b: training.train_step(spec, s, b, SCALARS))(state, batch)


@pytest.fixture(scope="module")
def batch():
    return training.demonstrations(TASK, "train", jnp.arange(8))


@pytest.fixture(scope="module")
def params():
    return models.init(model(), jax.random.key(0))


@pytest.fixture(scope="module")
def plain(params, batch):
    return step(spec_of(model()), params, batch)


@pytest.fixture(scope="module")
def weighed(params, batch):
    return step(spec_of(model(), **COEF), params, batch)


def loops(logits, counts, k):
    """(balance, z, largest load) in float64, a layer, row and token at a time."""
    L, B, S, experts = logits.shape
    balance, square, largest = [], [], []
    for layer in range(L):
        chosen, share, tokens = np.zeros(experts), np.zeros(experts), 0
        for b in range(B):
            for s in range(S):
                if counts[b, s]:
                    z = logits[layer, b, s].astype(np.float64)
                    tokens += 1
                    share += np.exp(z) / np.exp(z).sum()
                    chosen[sorted(range(experts), key=lambda e: (-z[e], e))[:k]] += 1
                    square.append(np.log(np.exp(z).sum()) ** 2)
        balance.append(experts * np.sum(chosen / tokens * share / tokens))
        largest.append(chosen.max() / tokens * experts / k)
    return np.mean(balance), np.mean(square), np.mean(largest)


def test_against_loops_over_real_tokens():
    rng = np.random.default_rng(0)
    logits, counts = rng.normal(size=(3, 4, 5, 6)).astype(np.float32), rng.random((4, 5)) < 0.6
    losses, metrics = router_losses.measure(2, {"logits": jnp.asarray(logits)}, jnp.asarray(counts))
    balance, z, largest = loops(logits, counts, 2)
    np.testing.assert_allclose([losses["router_balance"], losses["router_z"]], [balance, z], rtol=1e-6)
    mean = {name: float(total / count) for name, (total, count) in metrics.items()}
    found = [mean[f"router_{name}"] for name in ("balance", "z", "load_max")]
    np.testing.assert_allclose(found, [balance, z, largest], rtol=1e-6)
    assert float(metrics["router_z"][1]) == 3 * counts.sum() and "router_dropped" not in metrics


def test_uniform_and_collapsed_routers():
    counts = jnp.ones((2, 50), bool)
    even = jnp.zeros((1, 2, 50, X)).at[..., 0].add(jnp.where(jnp.arange(50) % 2 == 0, 1e-6, 0.0))
    lone = jnp.zeros((1, 2, 50, X)).at[..., 1].set(60.0)
    balance = [float(router_losses.measure(1, {"logits": z}, counts)[0]["router_balance"]) for z in (even, lone)]
    np.testing.assert_allclose(balance, [1.0, X], rtol=1e-5)


def test_what_is_not_counted_changes_nothing_and_nothing_counted_is_finite():
    rng = np.random.default_rng(1)
    logits, counts = jnp.asarray(rng.normal(size=(2, 3, 4, X)), jnp.float32), jnp.asarray(rng.random((3, 4)) < 0.5)
    other = jnp.where(counts[None, ..., None], logits, 7.0)
    a, b = (router_losses.measure(K, {"logits": z}, counts) for z in (logits, other))
    chex.assert_trees_all_equal(a, b)
    losses, metrics = router_losses.measure(K, {"logits": logits}, jnp.zeros((3, 4), bool))
    assert all(float(x) == 0 for x in losses.values()) and float(metrics["router_z"][1]) == 0


def test_dropped_choices_are_counted_over_real_tokens():
    counts = jnp.asarray([[True, True, False]])
    kept = jnp.asarray([[[[True, False], [True, True], [False, False]]]])
    _, metrics = router_losses.measure(K, {"logits": jnp.zeros((1, 1, 3, X)), "kept": kept}, counts)
    assert [float(x) for x in metrics["router_dropped"]] == [1, 4]


def test_the_step_follows_the_sum_of_both_gradients_and_reports_the_objective_alone(params, batch, plain, weighed):
    (a, seen), (b, metrics) = plain, weighed
    for name in ("loss", "router_balance", "router_z"):
        np.testing.assert_allclose(metrics[name][0], seen[name][0], rtol=1e-6)
    counts = models.real_tokens(batch.prompt_NxP, batch.mask_NxT, TASK.pad)

    def penalty(p):
        z = models.teacher_forced(model(), p, batch.prompt_NxP, batch.completion_NxT, TASK.pad).router["logits"]
        share = (jax.nn.softmax(z) * counts[None, ..., None]).sum((1, 2)) / counts.sum()
        chosen = jax.nn.one_hot(jnp.argsort(-z, axis=-1)[..., :K], X).sum(-2)
        load = (chosen * counts[None, ..., None]).sum((1, 2)) / counts.sum()
        square = (jax.nn.logsumexp(z, axis=-1) ** 2 * counts[None]).sum() / (z.shape[0] * counts.sum())
        return COEF["balance_coef"] * X * (load * share).sum(-1).mean() + COEF["router_z_coef"] * square

    extra = jax.jit(jax.grad(penalty))(params)
    found = jax.tree.map(lambda x, y: np.asarray(x, np.float64) - np.asarray(y, np.float64), a.params, b.params)
    flat = [np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(t)]) for t in (found, extra)]
    assert np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1]) < 1e-4  # differences of float32 parameters
    assert np.asarray(extra["layers"]["router"]).any()


def test_a_step_on_a_mesh_is_that_of_one_device(params, batch, weighed):
    spec, (state, metrics) = spec_of(model(), **COEF), weighed
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    with sharding.on_mesh(mesh):
        placed = training.create(spec, params, {})
        placed = jax.device_put(placed, sharding.like_parameters(placed, models.parameter_table(spec.model), mesh))
        moved, found = jax.jit(lambda s, b: training.train_step(spec, s, b, SCALARS))(placed, batch)
    for name in ("loss", "router_balance", "router_z"):
        np.testing.assert_allclose(found[name][0], metrics[name][0], rtol=2e-6)
    np.testing.assert_allclose(found["grad_norm"][0], metrics["grad_norm"][0], rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), moved.params, state.params)


def test_accumulation_without_the_losses_is_exact(params, batch, plain):
    (a, one), (b, four) = plain, step(spec_of(model(), microbatches=4), params, batch)
    np.testing.assert_allclose(four["loss"][0], one["loss"][0], rtol=1e-6)
    np.testing.assert_allclose(four["router_z"][0], one["router_z"][0], rtol=1e-6)
    assert float(four["router_z"][1]) == float(one["router_z"][1])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), a.params, b.params)


@pytest.mark.parametrize(("changes", "parts", "message"), [
    ({}, {"balance_coef": 0.1, "microbatches": 2}, "couples all rows"),
    ({}, {"router_z_coef": 0.1, "microbatches": 2}, "nearest valid: microbatches=1"),
    ({"capacity": 1.0}, {"microbatches": 2}, "microbatches=2 with model.capacity"),
    ({}, {"balance_coef": -0.1}, "negative"),
    ({"experts": 0}, {"balance_coef": 0.1}, "dense model"),
])
def test_what_cannot_be_combined_is_refused(changes, parts, message):
    with pytest.raises(ValueError, match=message):
        spec_of(model(**changes), **parts)


def test_objectives_of_several_terms_are_refused():
    several = next(objectives.get(name) for name in objectives.RECIPES if len(objectives.get(name).terms) > 1)
    with pytest.raises(ValueError, match="terms"):
        training.StepSpec(model(), several, (("name", "sgd"),), balance_coef=0.1)


def test_frozen_routers_keep_their_bits_and_all_else_moves(batch):
    c = model(shared_ff=6)
    spec = training.StepSpec(c, objectives.get("cross_entropy"), (("name", "adamw"), ("weight_decay", 0.1)), balance_coef=0.1)
    start = models.init(c, jax.random.key(0))
    state = training.create(spec, start, {}, masking.without(start, ("router",)))
    run = jax.jit(lambda s: training.train_step(spec, s, batch, training.Scalars(1e-2, 0.0, False))[0])
    after = run(run(state)).params
    for path, x in jax.tree_util.tree_leaves_with_path(after):
        before = start["layers"][path[-1].key] if len(path) > 1 else start[path[-1].key]
        assert np.array_equal(x, before) == (path[-1].key == "router"), path
    with pytest.raises(ValueError, match="'routers' is not known; choose from embed"):
        masking.without(start, ("routers",))


def test_masks_of_a_base_reach_every_expert():
    c = model(shared_ff=6)
    base = training.bf16_grid(models.init(c, jax.random.key(0)))
    found = masking.references(c, base, k=2, alpha=0.25)
    kept = masking.on_linear(base, masking.pattern("principal", found)).kept["layers"]
    assert kept["gate"].shape == (2, X, 16, 12) and not kept["router"].any()
    for name, mask in found.items():
        parts = name.split("/")
        ours = kept[parts[-1]][int(parts[1])]
        np.testing.assert_array_equal(ours[int(parts[3])] if len(parts) == 5 else ours, mask["principal"])
        assert mask["principal"].sum() == np.ceil(0.25 * mask["principal"].size)
    assert {"layers/1/experts/3/down", "layers/0/shared_up"} < set(found)


def test_adapters_refuse_stacks_of_experts_and_take_the_rest(params):
    with pytest.raises(ValueError, match="lora: module 'gate' is a stack of experts.*choose from .*q"):
        adapters.lora(params, ("gate",), 2, jax.random.key(0))
    with pytest.raises(ValueError, match="pissa: module 'down' is a stack of experts"):
        adapters.pissa(params, ("q", "down"), 2)
    assert set(adapters.lora(params, ("q", "router"), 2, jax.random.key(0)).frozen) == {"q", "router"}


def test_gradients_of_examples_are_mapped_and_ghosts_refused(params, batch):
    spec, batch = spec_of(model(), balance_coef=0.5), jax.tree.map(lambda x: x[:4], batch)

    def of_rows(p, rows, reader=models.PLAIN):
        return -(training.token_logp(spec, p, rows, reader) * rows.mask_NxT).sum(axis=1)

    def loss(p, row):
        return of_rows(p, jax.tree.map(lambda x: x[None], row))[0]

    with pytest.raises(ValueError, match="mixture of experts has none; take gradients.sums.per_example"):
        gradient_ghost.Ghost(of_rows).per_example(params, batch, 2)
    found = jax.jit(lambda p, b: gradient_sums.per_example(loss, p, b, 2, intervals=False, gsnr=False))(params, batch)
    grads = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(params, batch)
    squares = sum(np.asarray(g, np.float64).reshape(4, -1).__pow__(2).sum(1) for g in jax.tree.leaves(grads))
    np.testing.assert_allclose(np.asarray(found.square_mxT).sum(axis=1), squares, rtol=1e-5)


@pytest.mark.slow
def test_sampler_and_trainer_are_one_policy_in_a_step_of_reinforcement(params):
    spec = dataclasses.replace(spec_of(model(), "grpo", group=4), balance_coef=0.01)
    source = training.Rollouts(TASK, 2, spec)
    member = training.Member(jnp.uint32(0), SCALARS)
    state = training.create(spec, params, {})
    _, metrics = jax.jit(lambda s: training.one_step(source, spec, member, s, None))(state)
    gap, count = metrics["sampler_gap"]
    assert float(gap / count) < 1e-5  # dropless: sampler and trainer see the same policy
