"""The split loop against the fused one, on one device and on a mesh; padding and end tokens that are the tokenizer's."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models, objectives, sharding, tasks, training
from jaxpost.tasks import text
from jaxpost.training import split
from tests import compiled

STEPS = 3
WITH_KL = objectives.get("grpo", kl_place="loss", kl_estimator="k3", kl_coef=0.1)


def on_host(task):
    """The device verifier, one row at a time, on the host."""
    def verify(problems_N, tokens_NxT):
        return np.asarray([float(task.verify(jax.tree.map(lambda x, i=i: x[i], problems_N), tokens))
                           for i, tokens in enumerate(tokens_NxT)], np.float32)

    return verify


def identical(a, b):
    chex.assert_trees_all_equal(jax.device_get(a), jax.device_get(b))


@pytest.mark.parametrize("objective, refresh", [
    (WITH_KL, 2), pytest.param("grpo", 0, marks=pytest.mark.slow), pytest.param("remax", 0, marks=pytest.mark.slow)])
def test_fused_and_split_give_the_same_bits(feed, objective, refresh):
    """Those of a reference that is refreshed too."""
    run = feed(objective, reference_refresh=refresh)
    programs = split.programs(run.task, run.spec, run.source)
    fused, apart = run.state, split.start(run.spec, run.params, {})
    for _ in range(STEPS):
        fused, told = run.step(run.member, fused, None)
        apart, seen = split.rl_step(programs, run.member, apart, None, None, on_host(run.task))
        identical(told, seen)
    identical(fused, apart)
    assert not np.array_equal(apart.params["head"], run.params["head"]), "nothing was learned"
    assert not refresh or not np.array_equal(apart.reference["head"], run.params["head"])


@pytest.fixture
def fed_task():
    """A task without generator: rows are given. Tokens 40 and 41 pad and end; 0 is a token like any other."""
    task = tasks.Task("given", 1, 4, 3, {}, None, lambda row: row.prompt_P, lambda row, key: row.answer_T,
                      lambda row, tokens_T: (tokens_T[0] % 2).astype(jnp.float32), lambda split: 0.0, pad=40, eos=41)
    prompt = np.asarray([[40, 40, 0, 7], [40, 3, 40, 5], [1, 2, 3, 0], [40, 9, 0, 40]], np.int32)
    answer = np.asarray([[5, 41, 40], [0, 6, 41], [41, 40, 40], [40, 41, 40]], np.int32)
    return task, text.Row(prompt, answer, np.arange(4, dtype=np.int32))


def arm(task, objective, group=1, **parts):
    model = models.TransformerConfig(vocab=48, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, ff=16)
    spec = training.StepSpec(model, objectives.get(objective), (("name", "adamw"),), group=group, pad=task.pad, **parts)
    return model, spec, models.init(model, jax.random.key(0))


def test_padding_is_the_tasks_and_a_real_token_0_is_read(fed_task):
    task, rows = fed_task
    model, spec, params = arm(task, "cross_entropy")
    batch = split.demonstrated(task, rows)
    np.testing.assert_array_equal(batch.mask_NxT, [[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0]])
    logp = np.asarray(compiled.token_logp(spec, params, batch))
    for i, lead in enumerate([2, 1, 0, 1]):  # the row alone, without its padding: positions are relative
        tokens = np.concatenate([rows.prompt_P[i, lead:], rows.answer_T[i]])[None]
        out = compiled.apply(model, params, jnp.asarray(tokens[:, :-1]), valid_BxS=jnp.ones((1, tokens.shape[1] - 1), bool))
        wanted = np.take_along_axis(np.asarray(jax.nn.log_softmax(out.logits[0])), tokens[0, 1:, None], -1)[-3:, 0]
        np.testing.assert_allclose(logp[i], wanted, rtol=2e-5)
    other = np.asarray(compiled.token_logp(dataclasses.replace(spec, pad=0), params, batch))
    assert np.abs(other - logp).max(axis=1)[:2].min() > 1e-4, "with padding 0 the first two rows read something else"


def test_the_sampler_says_what_the_trainer_says_under_a_tokenizers_padding(fed_task):
    task, rows = fed_task
    model, spec, params = arm(task, "grpo", group=2)
    source = training.Rollouts(task, 2, spec)
    _, made = jax.jit(source.answers)(params, jnp.uint32(3), jnp.int32(0), rows)
    member = training.Member(jnp.uint32(3), training.Scalars(1e-3))
    batch = jax.jit(source.rows_of)(rows.prompt_P, made, jnp.zeros(4), member, training.create(spec, params, {}), None)
    logp = compiled.token_logp(spec, params, batch) * batch.mask_NxT
    np.testing.assert_allclose(logp, made.logp_NxT, atol=2e-5)


def test_rollouts_refuse_another_padding_than_the_tasks(fed_task):
    task, _ = fed_task
    _, spec, _ = arm(task, "grpo", group=2)
    with pytest.raises(ValueError, match="pad=0 of the step is not that of task 'given'; set it to 40"):
        training.Rollouts(task, 2, dataclasses.replace(spec, pad=0))


def test_supervised_steps_learn_the_answers(fed_task):
    task, rows = fed_task
    _, spec, params = arm(task, "cross_entropy")
    programs = split.programs(task, spec)
    state, member = split.start(spec, params, {}), training.Member(jnp.uint32(0), training.Scalars(3e-2))
    losses = []
    for _ in range(30):
        state, told = split.supervised_step(programs, member, state, None, rows)
        losses.append(float(told["loss"][0] / told["loss"][1]))
    assert told["loss_tokens"] == 8 and losses[-1] < 0.2 < 2 < losses[0]


def test_what_is_said_in_microbatches_is_what_is_said_at_once(feed):
    one, four = (feed(WITH_KL, microbatches=m) for m in (1, 4))
    batches = [run.batch(run.member, run.state, run.params)[0] for run in (one, four)]
    np.testing.assert_array_equal(batches[0].completion_NxT, batches[1].completion_NxT)
    np.testing.assert_allclose(batches[0].reference_NxT, batches[1].reference_NxT, rtol=1e-5, atol=1e-6)
    assert batches[0].reference_NxT.any()


@pytest.mark.parametrize("sizes", [
    pytest.param({"data": 4}, marks=pytest.mark.slow), {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_on_a_mesh_states_stay_sharded_and_steps_agree(fed_task, sizes):
    task, rows = fed_task
    _, spec, params = arm(task, "grpo", group=2)
    mesh = sharding.make_mesh(sizes, jax.devices()[:np.prod(list(sizes.values()))])
    member = training.Member(jnp.uint32(3), training.Scalars(1e-3))
    found = {}
    for place in (None, mesh):
        run = split.programs(task, spec, training.Rollouts(task, 2, spec), place)
        layout = sharding.parameter_shardings(models.parameter_table(spec.model), mesh)
        state = split.start(spec, params if place is None else jax.device_put(params, layout), {}, place)
        for _ in range(2):
            state, told = split.rl_step(run, member, state, None, rows, on_host(task))
        found[place] = state, told
    (one, told), (many, seen) = found[None], found[mesh]
    assert float(told["loss_tokens"]) == float(seen["loss_tokens"])
    for x, y in zip(jax.tree.leaves(one.params), jax.tree.leaves(many.params)):
        np.testing.assert_allclose(x, y, atol=2e-5)  # Adam divides by |g|: reassociation in g moves 1e-3 steps by this much
    jax.tree.map(lambda x, at: None if x.sharding.is_equivalent_to(at, x.ndim) else pytest.fail(f"{x.shape} at {x.sharding}"),
                 many, split.state_shardings(spec, many, mesh))


def test_rows_make_the_round_trip_to_a_mesh_and_back():
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    rows = np.arange(24).reshape(8, 3)
    np.testing.assert_array_equal(split.local(8, mesh), np.arange(8))
    placed = split.put(rows, mesh)
    assert len({str(s.index) for s in placed.addressable_shards}) == 4
    np.testing.assert_array_equal(split.own(placed), rows)
    np.testing.assert_array_equal(split.own(split.put(rows, None)), rows)
