"""One function on 1 and on 8 devices: losses, gradients, sampled tokens; rules and refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxpost import aot, models, objectives, sharding, tasks, training

MODEL = models.TransformerConfig(vocab=48, width=64, layers=2, heads=4, kv_heads=2, head_dim=16, ff=64)
TASK = tasks.get("addition", digits=1)
LAYOUTS = [{"data": 8}, {"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}]


def spec(**parts):
    return training.StepSpec(MODEL, objectives.get("grpo", **parts), (("name", "adamw"),), group=4)


def place(tree, mesh, model=MODEL):
    return jax.device_put(tree, sharding.like_parameters(tree, models.parameter_table(model), mesh))


every_axis = pytest.mark.parametrize("sizes", [*(pytest.param(x, marks=pytest.mark.slow) for x in LAYOUTS[:-1]), LAYOUTS[-1]],
                                     ids=str)


@every_axis
def test_loss_and_gradient_agree_with_one_device(sizes):
    s = spec()
    params = models.init(MODEL, jax.random.key(0))
    member = training.Member(jnp.uint32(1), training.Scalars(1e-3))
    state = training.create(s, params, {})

    @jax.jit
    def prepared_rows():
        batch = training.Rollouts(TASK, 4, s).batch(member, state, None)[0]
        return s.objective.prepare(batch._replace(behaviour_NxT=batch.behaviour_NxT - 0.1), s.group)

    prepared = prepared_rows()

    def loss(p, rows):
        total, count, _ = s.objective.loss(objectives.View(training.token_logp(s, p, rows)), rows, {})
        return total / count

    one_loss, one_grad = jax.jit(jax.value_and_grad(loss))(params, prepared)
    mesh = sharding.make_mesh(sizes)
    rows = jax.device_put(prepared, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
    with sharding.on_mesh(mesh):
        many_loss, many_grad = jax.jit(jax.value_and_grad(loss))(place(params, mesh), rows)
    assert abs(float(many_loss) - float(one_loss)) <= 1e-6 * max(abs(float(one_loss)), 1.0)
    difference, size = (np.sqrt(sum(float((np.asarray(x) ** 2).sum()) for x in jax.tree.leaves(t)))
                        for t in (jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), one_grad, many_grad), one_grad))
    assert difference <= 1e-5 * size, (difference, size)


@pytest.mark.slow  # with a critic and a reference: below
@pytest.mark.parametrize("sizes", LAYOUTS, ids=str)
def test_the_fused_step_runs_on_a_mesh_and_samples_the_same_tokens(sizes):
    s = spec()
    source = training.Rollouts(TASK, 4, s)
    member = training.Member(jnp.uint32(1), training.Scalars(1e-3))
    state = training.create(s, models.init(MODEL, jax.random.key(0)), {})
    one = jax.jit(lambda st: source.batch(member, st, None)[0])(state)
    mesh = sharding.make_mesh(sizes)
    with sharding.on_mesh(mesh):
        placed = place(state, mesh)
        many = jax.jit(lambda st: source.batch(member, st, None)[0])(placed)
        after, metrics = jax.jit(lambda st: training.one_step(source, s, member, st, None))(placed)
    same = np.asarray(one.completion_NxT) == np.asarray(many.completion_NxT)
    assert same.all(), "a token differs: allowed only where its Gumbel margin is below 1e-4"
    assert np.isfinite(float(metrics["grad_norm"][0])) and int(after.step) == 1


@pytest.mark.parametrize("name", ["ppo", pytest.param("kto", marks=pytest.mark.slow)])
def test_a_critic_and_preferences_make_the_same_rows_on_a_mesh_and_train(name):
    model = dataclasses.replace(MODEL, value_head=name == "ppo")
    s = training.StepSpec(model, objectives.get(name), (("name", "adamw"),), group=4, minibatches=2)
    source = training.source(TASK, s, 8)
    member = training.Member(jnp.uint32(1), training.Scalars(1e-3, 0.5))
    base = models.init(MODEL, jax.random.key(0))
    state = training.create(s, jax.tree.map(lambda x: 1.1 * x, base), {})
    one = jax.jit(lambda st: source.batch(member, st, base)[0])(state)
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})

    def both(st, reference):
        return source.batch(member, st, reference)[0], training.one_step(source, s, member, st, reference)

    with sharding.on_mesh(mesh):
        many, (after, metrics) = jax.jit(both)(place(state, mesh, model), place(base, mesh))
    np.testing.assert_array_equal(one.completion_NxT, many.completion_NxT)
    for field, x in one._asdict().items():
        if x is not None:
            np.testing.assert_allclose(x, getattr(many, field), rtol=0, atol=1e-4, err_msg=field)
    assert np.isfinite(float(metrics["grad_norm"][0])) and int(after.step) == 1
    assert name != "ppo" or np.asarray(after.params["value"]).any()


@pytest.mark.parametrize("name", ["ppo", "orpo"])
def test_abstract_programs_take_a_reference_without_a_value_head(name):
    model = dataclasses.replace(MODEL, value_head=name == "ppo")
    s = training.StepSpec(model, objectives.get(name), (("name", "adamw"),), group=4)
    source = training.source(TASK, s, 8)
    for mesh, build in ((sharding.make_mesh({"data": 2, "fsdp": 4}), aot.step_program),
                        (sharding.make_mesh({"ensemble": 8}), lambda *a: aot.ensemble_program(*a, members=8))):
        with sharding.on_mesh(mesh):
            program, arguments = build(source, s, mesh)
            program.trace(*arguments)
        assert set(arguments[-1]) == {"embed", "final_norm", "head", "layers"}


def test_a_mixture_is_laid_out_by_whole_experts_in_abstract_programs():
    model = dataclasses.replace(MODEL, experts=4, shared_ff=32)
    s = training.StepSpec(model, objectives.get("grpo"), (("name", "adamw"),), group=4, balance_coef=0.01)
    source, mesh = training.source(TASK, s, 8), sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    with sharding.on_mesh(mesh):
        program, (_, state, _) = aot.step_program(source, s, mesh)
        program.trace(*aot.step_program(source, s, mesh)[1])
    specs = {name: x.sharding.spec for name, x in state.params["layers"].items()}
    assert specs["gate"] == PartitionSpec(None, "tensor", "fsdp", None)
    assert specs["down"] == PartitionSpec(None, "tensor", None, "fsdp")
    assert specs["router"] == PartitionSpec(None, "fsdp", None)
    assert specs["shared_gate"] == PartitionSpec(None, "fsdp", "tensor")
    odd = models.parameter_table(dataclasses.replace(MODEL, experts=3))  # experts that the axis does not divide are cut inside
    assert sharding.parameter_shardings(odd, mesh)["layers"]["gate"].spec == PartitionSpec(None, None, "fsdp", "tensor")


def test_flops_of_a_mixture_count_every_expert():
    dense = dataclasses.replace(MODEL, ff=4 * MODEL.ff + 32)
    mixed = dataclasses.replace(MODEL, experts=4, shared_ff=32)
    router = 2 * MODEL.layers * MODEL.width * 4
    assert aot.forward_flops(mixed, 10, 10, 10) == aot.forward_flops(dense, 10, 10, 10) + 10 * router


def test_flops_count_what_is_sampled_filled_and_updated():
    def flops(name, make=training.source, **parts):
        s = training.StepSpec(MODEL, objectives.get(name), (("name", "adamw"),), group=4, **parts)
        return aot.step_flops(make(TASK, s, 8), s)

    P, T = TASK.prompt_len, TASK.completion_len
    one = aot.forward_flops(MODEL, 32 * (P + T - 1), P + T - 1, 32 * T)  # a forward pass over the 32 rows
    sampled = aot.forward_flops(MODEL, 32 * (P + T), P + T, 32 * (T + 1))
    assert flops("cross_entropy") == 3 * one
    assert flops("grpo") == 3 * one + sampled
    assert flops("grpo", minibatches=2, epochs=3) == 9 * one + sampled
    assert flops("grpo", lambda t, s, n: training.Rollouts(t, n, s, oversample=3)) == 3 * one + 3 * sampled
    assert flops("sft_kl", epochs=2) == 8 * one
    assert flops("chord_phi") == 3 * one + sampled * 3 // 4
    assert flops("orpo") == 3 * one + sampled // 2
    assert flops("kto") == 6 * one + sampled // 2
    assert flops("poft") == 4 * one and flops("optimal_token_baseline") == 4 * one + sampled
    assert flops("remax") == 3 * one + sampled * 5 // 4  # and a greedy answer a group
    assert flops("ghpo") == 3 * one + 4 * sampled
    asked = aot.forward_flops(MODEL, 32 * (P - 1), P - 1, 32 * (P - 1))
    assert flops("orpo_prompt_nll") == 3 * one + 3 * asked + sampled // 2


def test_programs_of_several_cpu_devices_are_compiled_anew(request):
    """One that is read from the cache has no order of its collectives, and its devices wait for each other."""
    events = []
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    request.addfinalizer(jax.monitoring.clear_event_listeners)
    mesh = sharding.make_mesh({"data": 8})
    for _ in range(2):
        split = jax.jit(lambda x: x * 3, out_shardings=NamedSharding(mesh, PartitionSpec("data")))
        np.testing.assert_array_equal(split(np.arange(8.0)), 3 * np.arange(8.0))
        jax.clear_caches()
    assert "/jax/compilation_cache/cache_hits" not in events


def test_rules_are_ordered_and_strict():
    mesh = sharding.make_mesh({"fsdp": 4, "tensor": 2})
    assert sharding.partition(("embed", "heads"), (64, 64), mesh) == PartitionSpec("fsdp", "tensor")
    assert sharding.partition(("embed", "heads"), (63, 64), mesh) == PartitionSpec(None, "tensor")
    assert sharding.partition(("vocab", "mlp"), (64, 64), mesh) == PartitionSpec("tensor", None)
    with pytest.raises(ValueError, match="no sharding rule"):
        sharding.partition(("hidden",), (4,), mesh)


def test_refusals_name_the_fix():
    with pytest.raises(ValueError, match="needs 3 devices, found 8"):
        sharding.make_mesh({"data": 3})
    with pytest.raises(ValueError, match="unknown; the axes are"):
        sharding.make_mesh({"model": 8})
    with pytest.raises(ValueError, match="nearest valid: 8 or 16"):
        sharding.check_divisible(12, sharding.make_mesh({"data": 8}), "batch")
    with pytest.raises(ValueError, match="nearest valid: 8 or 16"):
        sharding.check_divisible(12, sharding.make_mesh({"data": 2, "fsdp": 4}), "batch")
    sharding.check_divisible(16, sharding.make_mesh({"data": 2, "fsdp": 4}), "batch")


def test_constrain_is_the_identity_without_a_mesh():
    x = jnp.ones((4, 2))
    assert sharding.constrain(x, ("batch",)) is x


def test_a_state_follows_the_rules_and_packed_bits_by_their_own_shape():
    model = dataclasses.replace(MODEL, ff=72)  # a byte holds 8 bits: 9 bytes a row, which tensor=2 does not divide
    table, mesh = models.parameter_table(model), sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    s = training.StepSpec(model, objectives.get("grpo"), (("name", "adamw"),), group=4)
    state = jax.eval_shape(lambda: training.create(s, models.init(model, jax.random.key(0)), {}))
    found = sharding.like_parameters(state, table, mesh)
    assert found.params == sharding.parameter_shardings(table, mesh)
    masks = found.probe_state["ever_changed"]["mask"]
    spec = {"params": found.params["layers"], "mask": masks["layers"]}
    assert {k: v["gate"].spec for k, v in spec.items()} == {"params": PartitionSpec(None, "fsdp", "tensor"),
                                                           "mask": PartitionSpec(None, "fsdp", None)}
    assert spec["mask"]["q"].spec == PartitionSpec(None, "fsdp", "tensor")  # 8 bytes a row
    assert found.step.spec == PartitionSpec()
    jax.tree.map(lambda x, at: at.shard_shape(x.shape), state, found)


@pytest.mark.parametrize(("shape", "declared"), [((2, 32, 64), (2, 64, 64)), ((64, 64), (2, 64, 64))])
def test_a_tree_built_like_the_parameters_of_another_model_is_refused(shape, declared):
    table, mesh = models.parameter_table(MODEL), sharding.make_mesh({"fsdp": 8})
    tree = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, jnp.float32), table, is_leaf=lambda p: hasattr(p, "axes"))
    tree["layers"]["q"] = jax.ShapeDtypeStruct(shape, jnp.float32)
    with pytest.raises(ValueError) as error:
        sharding.like_parameters(tree, table, mesh)
    assert f"['layers']['q'] is {shape}" in str(error.value) and f"{declared} is declared" in str(error.value)


@pytest.mark.parametrize("whole", [True, False])
def test_constants_are_computed_while_a_member_of_a_mixed_mesh_is_traced(whole):
    mesh = sharding.make_mesh({"ensemble": 2, "data": 2}, jax.devices()[:4])

    def member(x):
        return x + sharding.constants(lambda: jnp.arange(3) >> 1).sum()

    with sharding.on_mesh(mesh):
        out = jax.jit(sharding.map_members(member, mesh, whole=whole))(jnp.zeros((2, 3)))
    np.testing.assert_array_equal(out, np.ones((2, 3)))


@pytest.mark.parametrize("count", [1, 3])
def test_members_that_do_not_fill_the_devices_are_those_of_one_device(count):
    """The base of a study is one, whatever the mesh."""
    members = jax.random.normal(jax.random.key(0), (count, 4)), jnp.arange(count)
    mesh = sharding.make_mesh({"ensemble": 2}, jax.devices()[:2])

    def one(member, scale):
        return jnp.sin(member[0] * scale) + member[1]

    with sharding.on_mesh(mesh):
        together = jax.jit(sharding.map_members(one, mesh))(members, 3.0)
    np.testing.assert_array_equal(together, jax.jit(sharding.map_members(one))(members, 3.0))
