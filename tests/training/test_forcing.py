"""Forced tokens: what is given is kept, what is drawn is as before, log-probabilities are the trainer's; roles and masks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models, roles, tasks, training
from jaxpost.models import DRAW
from jaxpost.objectives import hybrid
from jaxpost.training import forcing
from tests import compiled


@pytest.mark.parametrize("early_stop", [False, True])
def test_the_sampler_keeps_what_is_forced_and_draws_the_rest(feed, early_stop):
    run = feed("grpo")
    prompt = jnp.ones((8, 5), jnp.int32) * 3
    forced = np.full((8, 6), DRAW)
    forced[0, :2], forced[1, 3], forced[2, 1], forced[3] = 5, 7, 1, 4  # 1 ends a row
    forced[2, 4] = 6  # behind the end: not read
    kept = [compiled.sample(run.model, run.params, prompt, jax.random.key(2), length=6, eos=1, pad=0, early_stop=early_stop,
                          forced_NxT=f) for f in (None, jnp.full((8, 6), DRAW), jnp.asarray(forced))]
    plain, none, made = kept
    assert plain.forced_NxT is None and not np.any(none.forced_NxT)
    for a, b in zip(plain[:3], none[:3], strict=True):
        np.testing.assert_array_equal(a, b)  # a buffer of draws changes nothing
    np.testing.assert_array_equal(made.tokens_NxT[4:], plain.tokens_NxT[4:])
    assert (np.asarray(made.tokens_NxT)[0, :2] == 5).all() and (np.asarray(made.tokens_NxT)[3] == 4).all()
    ends = np.asarray(made.mask_NxT)[2].sum()
    assert ends <= 2 and not np.asarray(made.forced_NxT)[2, 2:].any() and not np.asarray(made.tokens_NxT)[2, 2:].any()
    np.testing.assert_array_equal(made.forced_NxT, (forced != DRAW) * np.asarray(made.mask_NxT))
    logits = compiled.token_logits(run.model, run.params, prompt, made.tokens_NxT)
    logp = jnp.take_along_axis(jax.nn.log_softmax(logits), made.tokens_NxT[..., None], -1)[..., 0]
    np.testing.assert_allclose(made.logp_NxT, logp * made.mask_NxT, atol=2e-5)  # forced or drawn
    with pytest.raises(ValueError, match=r"shape \(8, 9\), and 8 rows of 6 tokens are sampled; pass \[8, 6\]"):
        compiled.sample(run.model, run.params, prompt, jax.random.key(2), length=6, eos=1,
                      forced_NxT=jnp.zeros((8, 9), jnp.int32))


def guided(rule, **parts):
    return lambda task, spec, prompts: training.Rollouts(task, prompts, spec, forcing=rule, **parts)


@pytest.mark.parametrize("name", ["prefix_rft", pytest.param("uft", marks=pytest.mark.slow)])
def test_answers_begin_with_the_demonstration_of_their_prompt(feed, name):
    rule = forcing.Prefix("fixed", 0.7, 0.7, rows=1 if name == "prefix_rft" else None)
    run = feed(name, make=guided(rule), temperature=0.8)
    batch, _, _ = run.batch(run.member, run.state, run.params)
    answer = np.asarray(jax.jit(jax.vmap(lambda p: run.task.oracle(p, None)))(
        run.rollout(run.params, run.member.seed, run.state.step, {})[0]))
    shown, n = np.asarray(batch.demonstration_NxT), (answer != 0).sum(axis=1)
    for row in range(16):
        count = int(np.floor(0.7 * (n[row] - 1) + 1e-6)) if row % 4 == 0 or name == "uft" else 0
        np.testing.assert_array_equal(shown[row], np.arange(4) < count)
        np.testing.assert_array_equal(np.asarray(batch.completion_NxT)[row, :count], answer[row, :count])
    assert shown.any()
    np.testing.assert_array_equal(batch.role_NxT, np.where(shown > 0, roles.PREFIX, roles.ANSWER))
    logp = run.logp(run.params, batch)
    np.testing.assert_allclose(batch.behaviour_NxT, logp * batch.mask_NxT, atol=2e-5)
    state, metrics = run.step(run.member, run.state, run.params)
    assert np.isfinite(float(metrics["loss"][0])) and float(metrics["logp_prefix"][1]) == shown.sum()
    assert np.any(np.asarray(state.params["head"]) != np.asarray(run.state.params["head"]))


def test_a_prefix_of_another_problem_is_the_next_one_s(feed):
    run = feed("grpo", make=guided(forcing.Prefix("fixed", 0.7, 0.7, role="hint")))
    problems = run.rollout(run.params, run.member.seed, run.state.step, {})[0]
    own, other = (np.asarray(jax.jit(lambda problems, another=another: dataclasses.replace(
        run.source.forcing, another=another).tokens(run.task, problems, jax.random.key(0), 0, run.spec.group))(problems))
        for another in (False, True))
    np.testing.assert_array_equal(other, np.roll(own, -run.spec.group, axis=0))
    assert (own != other).any()


def test_hints_and_interruptions_are_context(feed):
    hint, words = forcing.Prefix("fixed", 0.5, 0.5, role="hint"), forcing.Interrupt(1, (9, 8))
    for rule, code in ((hint, roles.HINT), (words, roles.INTERRUPT)):
        run = feed("grpo", make=guided(rule))
        batch, _, _ = run.batch(run.member, run.state, None)
        context = np.asarray(batch.role_NxT) == code
        assert context.any() and not (context & (np.asarray(batch.mask_NxT) > 0)).any()
        _, _, made, _ = run.rollout(run.params, run.member.seed, run.state.step, {})
        np.testing.assert_array_equal(run.source._answer(made, batch.reward_N).length_N, batch.mask_NxT.sum(axis=1))
        if code == roles.INTERRUPT:
            live = np.asarray(batch.completion_NxT)[:, 1] == 9
            assert live.any() and (np.asarray(batch.completion_NxT)[live, 2] == 8).all()
    assert np.isfinite(float(run.step(run.member, run.state, None)[1]["loss"][0]))


def test_what_is_context_of_a_loss_is_read_by_the_experts(feed):
    """With room for all, a mixture whose experts are bounded says of a hinted answer what it said while sampling it."""
    def mixture(task, spec, prompts):
        model = dataclasses.replace(spec.model, experts=4, experts_per_token=2, capacity=2.0)
        return training.Rollouts(task, prompts, dataclasses.replace(spec, model=model), forcing=forcing.Interrupt(1, (9, 8)))

    run = feed("grpo", make=mixture)
    params = models.init(run.source.spec.model, jax.random.key(1))
    state = training.create(run.source.spec, params, {})
    batch, _, _ = run.batch(run.member, state, None)
    behind = np.asarray(batch.mask_NxT)[:, 3] > 0
    assert behind.any() and not np.asarray(batch.mask_NxT)[behind, 1:3].any()
    logp = compiled.token_logp(run.source.spec, params, batch)
    np.testing.assert_allclose(batch.behaviour_NxT * batch.mask_NxT, logp * batch.mask_NxT, atol=2e-5)
    counts = models.real_tokens(batch.prompt_NxP, batch.room_NxT, run.task.pad)
    assert int(counts.sum()) == int((np.asarray(batch.prompt_NxP) != 0).sum() + np.asarray(batch.real_NxT)[:, :3].sum())


def test_schedules_of_prefixes(feed):
    rule = dataclasses.replace(forcing.GUIDANCE["uft"], steps=10)
    p = [float(rule.chance(t)) for t in (0, 5, 9, 10, 50)]
    np.testing.assert_allclose(p, [0.95, 0.5, 0.05 + 0.45 * (1 + np.cos(0.9 * np.pi)), 0, 0], atol=1e-6)
    key = jax.random.key(0)
    share = np.asarray(rule._share(key, 5, 4000))
    assert set(np.round(share * 5, 4)) <= set(range(6)) and share.mean() == pytest.approx(0.5, abs=0.02)
    assert share.std() == pytest.approx(np.sqrt(0.5 * 0.5 / 5), abs=0.02)
    uniform = forcing.Prefix("uniform", 0.4, 0.4, high=0.9)
    share = np.asarray(uniform._share(key, 0, 4000))
    assert share.min() >= 0.4 and share.max() <= 0.9 and share.mean() == pytest.approx(0.65, abs=0.02)
    falling = forcing.Prefix("uniform", 0.5, 0.0, steps=4, high=0.8)  # p ends at 0, where the draw is U[0, high]
    share = np.asarray(falling._share(key, 4, 4000))
    assert share.max() <= 0.8 and share.mean() == pytest.approx(0.4, abs=0.02)
    assert not np.any(dataclasses.replace(falling, stops=True)._share(key, 4, 8)) and tuple(forcing.GUIDANCE) == hybrid.GUIDANCE
    run = feed("uft")
    assert run.source.forcing == forcing.GUIDANCE["uft"]
    late = run.batch(run.member, run.state._replace(step=jnp.int32(300)), run.params)[0]
    assert not np.any(late.demonstration_NxT)


@pytest.mark.parametrize("name, rule, message", [
    ("grpo", forcing.Interrupt(3, (9, 8)), "ends at 5, and answers of task 'addition' have 4 tokens; nearest valid: at=2"),
    ("grpo", forcing.Interrupt(0, (9, -1)), r"hold -1; expected token ids of task 'addition', 0 to 50, that end no answer"),
    ("grpo", forcing.Interrupt(0, (tasks.vocab.EOS,)), "that end no answer, as"),
    ("prefix_rft", forcing.Prefix(), "compares with rows without a prefix, and all of a group of 4 begin with one"),
    ("grpo", forcing.Prefix(), "does not learn from forced prefixes"), ("uft", None, "learns from forced prefixes"),
    ("prefix_rft", forcing.Prefix(rows=5), "rows=5 of a prompt begin with a prefix, and 4 are sampled")])
def test_what_is_refused_before_compute(feed, name, rule, message):
    with pytest.raises(ValueError, match=message):
        feed(name, make=guided(rule))


def test_draws_and_roles_that_are_unknown():
    with pytest.raises(ValueError, match="slices=4 has no effect with draw='fixed'; leave it 5, or choose draw='binomial'"):
        forcing.Prefix(slices=4)
    with pytest.raises(ValueError, match="choose one of uniform, binomial, fixed"):
        forcing.Prefix("normal")
    with pytest.raises(ValueError, match="choose one of prefix, hint"):
        forcing.Prefix(role="answer")
