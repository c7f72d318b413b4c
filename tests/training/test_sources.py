"""Every objective of the table gets its rows, or a refusal that says what is missing; what any source fills is right."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models, objectives, tasks, training

KINDS = {"groups": training.Rollouts, "pairs": training.Preferences, "rows": training.Demonstrations}


@pytest.mark.parametrize("name", objectives.RECIPES)
def test_every_recipe_gets_the_same_number_of_rows_or_is_refused_by_need(feed, name):
    objective = objectives.RECIPES[name]
    labelled = "label" in objective.needs
    if name == "hicra":  # its roles are fed in test_roles.py
        with pytest.raises(ValueError, match="roles plan, and the answers of task 'addition' have none: .* are answer"):
            feed(name)
        return
    source = feed(name).source
    assert type(source) is (training.Preferences if labelled else KINDS[objective.batch])
    assert source.rows == (32 if "replay" in objective.needs else 16) and hash(source) == hash(dataclasses.replace(source))
    assert source.needs_reference == (objective.needs_reference or type(source) is training.Preferences or name == "poft")
    assert source.sampled == {training.Rollouts: 16 - 4 * ("demonstrations" in objective.needs), training.Preferences: 8,
                              training.Demonstrations: 0}[type(source)]
    assert source.lengths == (7, 4)


def test_refusals_name_the_need_and_who_gives_it(feed, wanting):
    with pytest.raises(ValueError, match=r"needs Batch.truncated_N, and Demonstrations does not give it \(Rollouts does\)"):
        feed(wanting("rows", "truncated"))
    with pytest.raises(ValueError, match=r"needs Batch.label_N, and Rollouts does not give it \(Preferences does\)"):
        feed(wanting("groups", "label"))
    with pytest.raises(ValueError, match="'dpo' trains on pairs, which Preferences makes and Rollouts does not"):
        feed("dpo", make=lambda task, spec, prompts: training.Rollouts(task, prompts, spec))
    with pytest.raises(ValueError, match="'kto' trains on unpaired rows with labels, which Preferences makes and Demonstr"):
        feed("kto", make=lambda task, spec, prompts: training.Demonstrations(((task, 4),), spec=spec))
    with pytest.raises(ValueError, match="3 \\* 3 = 9 rows are not a whole number of them; nearest valid: 8 or 10 rows"):
        feed("dpo", prompts=3, group=3)
    with pytest.raises(ValueError, match="pairs=1 with objective 'kto'; nearest valid: 2"):
        feed("kto", prompts=1, group=2)
    run = feed("ppo")
    headless = dataclasses.replace(run.spec, model=dataclasses.replace(run.model, value_head=False))
    with pytest.raises(ValueError, match="the model has value_head=False; set value_head=True"):
        training.source(run.task, headless, 4)


@pytest.mark.parametrize("name", ["dpo", "sft_kl", "kto"])
def test_a_missing_reference_is_said_before_anything_is_compiled(feed, name):
    run = feed(name)
    with pytest.raises(ValueError, match=f"'{name}' needs a reference policy, and none was passed"):
        training.one_step(run.source, run.spec, run.member, run.state, None)


def numpy_log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


@pytest.mark.parametrize("kind", [pytest.param("rows", marks=pytest.mark.slow), "groups", "pairs"])
def test_what_the_policies_say_before_the_update_against_numpy(feed, in_float64, wanting, kind):
    with jax.enable_x64(True):
        run = in_float64(feed(wanting(kind, "reference", "proximal", "entropy", "value"), temperature=0.7))
        head = jax.random.normal(jax.random.key(1), run.state.params["value"].shape, jnp.float64)
        state = run.state._replace(params={**run.state.params, "value": head})
        reference = jax.tree.map(lambda x: 0.5 * x, run.params)  # no value head
        batch = run.batch(run.member, state, reference)[0]
        logits = jax.jit(lambda p: models.token_logits(run.model, p, batch.prompt_NxP, batch.completion_NxT))
        close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
        for params, field in ((state.params, "proximal_NxT"), (reference, "reference_NxT")):
            logp = numpy_log_softmax(np.asarray(logits(params)) / 0.7)
            chosen = np.take_along_axis(logp, np.asarray(batch.completion_NxT)[..., None], -1)[..., 0]
            close(getattr(batch, field), chosen)
            if field == "proximal_NxT":
                close(batch.entropy_NxT, -(np.exp(logp) * logp).sum(-1))
            if field == "proximal_NxT" and kind == "groups":  # the sampler keeps float32 log-probabilities
                np.testing.assert_allclose(batch.behaviour_NxT, chosen * batch.mask_NxT, atol=2e-6)
        close(batch.value_NxT, logits({**state.params, "head": head})[..., 0])  # a head of one column: its logit is the value


@pytest.mark.parametrize("kind", ["rows", "groups", "pairs"])
def test_seeds_are_fresh_a_row_and_a_step_and_the_same_again(feed, wanting, kind):
    run = feed(wanting(kind, "seed"))
    draws = [run.batch(run.member, run.state._replace(step=jnp.int32(s)), run.params)[0].seed_N for s in (3, 3, 4)]
    assert draws[0].dtype == jnp.uint32
    np.testing.assert_array_equal(draws[0], draws[1])
    assert len(np.unique(np.concatenate([draws[0], draws[2]]))) == 32
    other = run.batch(run.member._replace(seed=jnp.uint32(6)), run.state._replace(step=jnp.int32(3)), run.params)[0].seed_N
    assert (np.asarray(other) != np.asarray(draws[0])).all()


@pytest.mark.slow  # of ppo: test_values.py
@pytest.mark.parametrize("name", ["luffy", "kto", "dapo", "dpo", "orpo", "one_token_rollout", "sft_kl"])
def test_a_step_of_every_kind_trains(feed, name):
    run = feed(name, minibatches=2)
    state, metrics = run.step(run.member, run.state, run.params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(metrics))
    moved = {n: float(jnp.abs(state.params[n] - run.state.params[n]).max()) for n in run.params if n != "layers"}
    assert moved["head"] > 0, moved
    assert int(state.step) == 1


def test_a_task_with_planning_tokens_feeds_what_weighs_them(feed):
    """So that nothing is left that needs data which no source has."""
    planned = [name for name, x in objectives.RECIPES.items() if "plan" in dict(getattr(x, "role_weights", ()))]
    for name in ("hicra", *planned):
        assert name in planned and feed(name, task=tasks.get("countdown", style="backtrack")).source.rows == 16


def test_aligned_models_of_poft_are_the_reference_policy(feed):
    run = feed("poft")
    other = jax.tree.map(lambda x: 0.5 * x, run.params)
    batch = run.batch(run.member, run.state, other)[0]
    logp = np.asarray(run.logp(other, batch), np.float64)
    expected = [row[keep > 0].mean() for row, keep in zip(logp, np.asarray(batch.mask_NxT), strict=True)]
    np.testing.assert_allclose(batch.outside_N, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="'poft' needs a reference policy, and none was passed"):
        training.one_step(run.source, run.spec, run.member, run.state, None)
