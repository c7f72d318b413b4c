"""Demonstrated rows in groups, rows cut short, and over-sampling of prompts: layouts and counts by known answers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import curricula, models, objectives, tasks, training
from jaxpost.models import Completions
from jaxpost.objectives import rewards
from jaxpost.objectives.rewards import Reward
from tests import compiled

EOS = tasks.vocab.EOS


def permuting(run):
    return run.member._replace(scalars=run.member.scalars._replace(permute_rewards=True))


def rolled(demonstrations):
    return lambda task, spec, prompts: training.Rollouts(task, prompts, spec, demonstrations=demonstrations)


@pytest.mark.parametrize("shown", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_last_rows_of_a_group_are_the_oracles_answers(feed, shown):
    run = feed("chord_phi", make=rolled(shown))
    batch, metrics, _ = run.batch(run.member, run.state, None)
    grouped = {name: np.asarray(x).reshape(4, 4, *x.shape[1:]) for name, x in batch._asdict().items() if x is not None}
    assert (grouped["prompt_NxP"] == grouped["prompt_NxP"][:, :1]).all()
    problems, *_ = run.rollout(run.state.params, run.member.seed, run.state.step, {})
    problems = jax.tree.map(lambda x: x[::4], problems)
    answer_BxT = np.asarray(jax.jit(jax.vmap(run.task.oracle))(problems, jax.random.split(jax.random.key(0), 4)))
    own = slice(4 - shown, 4)  # addition has one answer a problem
    np.testing.assert_array_equal(grouped["completion_NxT"][:, own], np.repeat(answer_BxT[:, None], shown, 1))
    np.testing.assert_array_equal(grouped["mask_NxT"][:, own], grouped["completion_NxT"][:, own] != tasks.vocab.PAD)
    np.testing.assert_array_equal(grouped["demonstration_NxT"][:, own], grouped["mask_NxT"][:, own])
    assert not grouped["demonstration_NxT"][:, :-shown].any() and not grouped["behaviour_NxT"][:, own].any()
    assert (grouped["behaviour_NxT"][:, :-shown] < 0).any(axis=-1).all()
    np.testing.assert_array_equal(grouped["reward_N"], grouped["completion_NxT"][..., 0] % 2)  # the NOISY verifier, on all rows
    total, count = metrics["reward"]
    assert (float(total), float(count)) == (grouped["reward_N"][:, :-shown].sum(), 4 * (4 - shown))


def test_demonstrations_leave_the_sampled_rows_what_they_are_in_smaller_groups(feed):
    """Sampling work is that of the sampled rows: the same tokens as groups of G - 1 without demonstrations."""
    shown, plain = feed("chord_phi"), feed("grpo", group=3)
    a, b = (run.batch(run.member, run.state, None)[0] for run in (shown, plain))
    sampled = np.asarray(a.completion_NxT).reshape(4, 4, -1)[:, :3].reshape(12, -1)
    np.testing.assert_array_equal(sampled, b.completion_NxT)


def test_the_sampler_gap_is_that_of_sampled_rows(feed):
    run = feed("chord_phi")
    total, count = run.step(run.member, run.state, None)[1]["sampler_gap"]
    assert float(total / count) < 1e-5 and float(count) <= 4 * 3 * 4


def test_truncated_rollouts_are_trained_on_from_a_ratio_of_one(feed):
    """The policy is not truncated: a ratio to the sampler would be the mass that it kept, and clipping would act on that."""
    run = feed("grpo", top_k=4)
    batch, *_ = run.batch(run.member, run.state, None)
    logp = run.logp(run.params, batch)
    live = np.asarray(batch.mask_NxT) > 0
    np.testing.assert_allclose(np.asarray(batch.proximal_NxT)[live], np.asarray(logp)[live], atol=1e-5)
    assert (np.asarray(batch.behaviour_NxT)[live] > np.asarray(logp)[live] + 0.05).mean() > 0.9  # of four tokens of many
    metrics = run.step(run.member, run.state, None)[1]
    assert float(metrics["clipped"][0]) == 0 and float(metrics["grad_norm"][0]) > 0
    with pytest.raises(ValueError, match="top_k=4, top_p=1.0 with demonstrated rows"):
        feed("chord_phi", top_k=4)


def test_the_permuted_control_shuffles_sampled_rows_only(feed):
    run = feed("chord_phi", prompts=6, group=8, make=rolled(2))
    batch = run.batch(run.member, run.state, None)[0]
    made = Completions(batch.completion_NxT, batch.behaviour_NxT, batch.mask_NxT)
    reward = np.random.default_rng(0).normal(size=48).astype(np.float32)
    rows = run.rows_of(batch.prompt_NxP, made, jnp.asarray(reward), permuting(run), run.state, None)
    before, after = reward.reshape(6, 8), np.asarray(rows.reward_N).reshape(6, 8)
    np.testing.assert_array_equal(before[:, 6:], after[:, 6:])
    np.testing.assert_array_equal(np.sort(before[:, :6]), np.sort(after[:, :6]))
    assert (before[:, :6] != after[:, :6]).any()


def test_the_permutation_is_another_one_in_every_group_step_and_seed(feed):
    run = feed("grpo", prompts=6, group=8)
    made = Completions(jnp.ones((48, 4), jnp.int32), -jnp.ones((48, 4)), jnp.ones((48, 4)))

    def order(step, seed):
        member, state = permuting(run)._replace(seed=jnp.uint32(seed)), run.state._replace(step=jnp.int32(step))
        rows = run.rows_of(jnp.ones((48, 7), jnp.int32), made, jnp.tile(jnp.arange(8.0), 6), member, state, None)
        return [tuple(x) for x in np.asarray(rows.reward_N).reshape(6, 8).tolist()]

    first = order(3, 1)
    assert order(3, 1) == first and len({*first, *order(4, 1), *order(3, 2)}) == 18


def test_rows_without_an_end_token_are_truncated(feed, wanting):
    run = feed(wanting("groups", "truncated"))
    ended = np.arange(16) % 3 == 0
    tokens = np.full((16, 4), 7, np.int32)
    tokens[ended, 1], tokens[ended, 2:] = EOS, 0
    mask = jnp.asarray((tokens != 0).astype(np.float32))
    made = Completions(jnp.asarray(tokens), -mask, mask)
    batch = run.rows_of(jnp.ones((16, 7), jnp.int32), made, jnp.zeros(16), run.member, run.state, None)
    np.testing.assert_array_equal(batch.truncated_N, ~ended)


def test_any_of_several_end_tokens_is_an_end(feed, wanting):
    run = feed(wanting("groups", "truncated"))
    source = dataclasses.replace(run.source, task=dataclasses.replace(run.source.task, other_ends=(6, 7)))
    tokens = np.tile(np.asarray([[3, EOS, 0, 0], [3, 6, 0, 0], [3, 3, 3, 7], [3, 3, 3, 3]], np.int32), (4, 1))
    mask = jnp.asarray((tokens != 0).astype(np.float32))
    made = Completions(jnp.asarray(tokens), -mask, mask)
    batch = jax.jit(source.rows_of)(jnp.ones((16, 7), jnp.int32), made, jnp.zeros(16), run.member, run.state, None)
    np.testing.assert_array_equal(batch.truncated_N, [0, 0, 0, 1] * 4)


def oversampled(times):
    return lambda task, spec, prompts: training.Rollouts(task, prompts, spec, oversample=times)


@pytest.mark.parametrize("reward_BxG, kept, counted", [
    ([[1, 1], [0, 1], [0, 0], [1, 0], [0, 0], [1, 0]], [1, 3], [1, 1]),  # more informative groups than needed: the first
    ([[1, 1], [0, 0], [0, 0], [1, 1], [0, 1], [0, 0]], [4, 0], [1, 0]),  # too few: filled up, not counted
    ([[1, 1], [0, 0], [0, 0], [1, 1], [0, 0], [0, 0]], [0, 1], [0, 0]),
])
def test_informative_groups_are_kept_in_the_order_drawn(feed, reward_BxG, kept, counted):
    run = feed("grpo", prompts=2, group=2, make=oversampled(3))
    assert run.source.rows == 4 and run.source.sampled == 12
    tokens = jnp.arange(12, dtype=jnp.int32)[:, None] + 5 + jnp.zeros((1, 4), jnp.int32)
    made = Completions(tokens, -jnp.ones((12, 4)), jnp.ones((12, 4)))
    rows = run.rows_of(jnp.ones((12, 7), jnp.int32), made, jnp.asarray(reward_BxG, jnp.float32).reshape(-1), run.member,
                              run.state, None)
    expected = [2 * b + g for b in kept for g in range(2)]
    np.testing.assert_array_equal(rows.completion_NxT[:, 0] - 5, expected)
    np.testing.assert_array_equal(rows.mask_NxT[:, 0], np.repeat(counted, 2))
    reward = np.where(np.repeat(counted, 2) == 1, np.asarray(reward_BxG, float).reshape(-1)[expected], np.nan)
    np.testing.assert_array_equal(rows.reward_N, reward)
    prepared = run.spec.objective.prepare(rows, 2)
    assert np.isfinite(prepared.advantage_NxT).all()
    assert float(run.spec.objective.balance(prepared).mask_NxT.sum()) == 8 * sum(counted)


def test_a_demonstration_does_not_make_a_group_informative(feed):
    """Three groups of two samples and a right demonstration: only the one whose samples differ is kept."""
    run = feed("chord_phi", prompts=1, group=3, make=oversampled(3))
    tokens = jnp.arange(9, dtype=jnp.int32)[:, None] + 5 + jnp.zeros((1, 4), jnp.int32)
    made = Completions(tokens, -jnp.ones((9, 4)), jnp.ones((9, 4)))
    reward_N = jnp.asarray([0, 0, 1, 0, 1, 1, 1, 1, 1.0])
    rows = run.rows_of(jnp.ones((9, 7), jnp.int32), made, reward_N, run.member, run.state, None)
    np.testing.assert_array_equal(rows.completion_NxT[:, 0] - 5, [3, 4, 5])
    np.testing.assert_array_equal(rows.mask_NxT[:, 0], [1, 1, 1])


def test_oversampling_counts_every_prompt_drawn(feed):
    run = feed("dapo", group=2, make=oversampled(3))
    batch, metrics, _ = run.batch(run.member, run.state, None)
    told, drawn = map(float, metrics["informative"])
    assert drawn == 12 and float(metrics["reward"][1]) == 24
    assert float((batch.mask_NxT[:, 0] > 0).sum()) == 2 * min(told, 4)
    state, seen = run.step(run.member, run.state, None)
    assert np.isfinite(float(seen["loss"][0])) and "informative" in seen
    shuffled = run.batch(permuting(run), run.state, None)[0]
    np.testing.assert_array_equal(shuffled.completion_NxT, batch.completion_NxT)  # what is kept does not depend on the control


def test_without_oversampling_nothing_is_selected(feed):
    run = feed("grpo")
    batch, metrics, _ = run.batch(run.member, run.state, None)
    assert "informative" not in metrics and (batch.mask_NxT[:, 0] == 1).all()


def test_counts_out_of_range_are_refused(feed):
    for make, objective, message in (
            (rolled(4), "luffy", "demonstrations=4 in groups of 4 with objective 'luffy'.*valid: 1 to group - 1 = 3"),
            (rolled(0), "luffy", "which needs them"), (rolled(1), "grpo", "'grpo', which does not need them; valid: 0"),
            (oversampled(0), "grpo", "oversample=0 must be at least 1")):
        with pytest.raises(ValueError, match=message):
            feed(objective, make=make)
    with pytest.raises(ValueError, match="set group to at least 2"):
        feed("luffy", group=1)
    with pytest.raises(ValueError, match="pass_k=4 of objective 'pass_at_k' in groups of 2; nearest valid: pass_k=2"):
        feed("pass_at_k", group=2)
    assert dataclasses.replace(feed("luffy").source, prompts=2).demonstrations == 1


def test_the_greedy_baseline_is_the_reward_of_the_argmax_decode(feed):
    """One forward pass over everything so far a token, instead of the cached sampler at a low temperature."""
    run = feed("remax")
    batch, *_ = run.batch(run.member, run.state, None)
    problems, prompt_NxP, *_ = run.rollout(run.state.params, run.member.seed, run.state.step, {})
    first = jax.tree.map(lambda x: x[::4], problems)
    prompt, N, T = prompt_NxP[::4], 4, run.task.completion_len
    tokens, done = np.zeros((N, T), np.int32), np.zeros(N, bool)
    for t in range(T):
        logits = compiled.token_logits(run.model, run.state.params, prompt, jnp.asarray(tokens))[:, t]
        tokens[:, t] = np.where(done, tasks.vocab.PAD, np.argmax(logits, axis=-1))
        done |= tokens[:, t] == EOS
    expected = jax.jit(jax.vmap(run.task.verify))(first, jnp.asarray(tokens))
    np.testing.assert_array_equal(batch.outside_N, np.repeat(expected, 4))


@pytest.mark.parametrize("whose, refused", [("old", False), ("current", True)])
def test_a_choice_over_the_rows_of_an_update_is_not_accumulated(whose, refused):
    model = models.TransformerConfig(vocab=tasks.vocab.SIZE, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, ff=16)
    objective = objectives.get("clip_cov", guard_logp=whose)
    if refused:
        with pytest.raises(ValueError, match="microbatches=2 with objective 'clip_cov', which couples all rows of an update"):
            training.StepSpec(model, objective, (("name", "adamw"),), group=4, microbatches=2)
    else:
        training.StepSpec(model, objective, (("name", "adamw"),), group=4, microbatches=2)


def test_a_composed_reward_is_trained_on_and_seen_term_by_term(feed):
    """The sum and the terms are those of the rows' own tokens; the curriculum sees the verifier's score."""
    terms = (Reward("correct", 2.0), Reward("finished", 0.5), Reward("soft_overlong", 1.0, 0.0, horizon=10, length=3, cache=2))
    run = feed("grpo", make=lambda task, spec, prompts: training.Rollouts(task, prompts, spec, reward=terms))
    batch, metrics, _ = run.batch(run.member, run.state._replace(step=jnp.int32(5)), None)  # the last weight is at 1 / 2
    tokens_NxT = np.asarray(batch.completion_NxT)
    correct_N, finished_N = tokens_NxT[:, 0] % 2, (tokens_NxT == EOS).any(axis=1)  # the NOISY verifier
    length_N = np.where(finished_N, (tokens_NxT == EOS).argmax(axis=1) + 1, tokens_NxT.shape[1])
    overlong_N = np.clip((1 - length_N) / 2, -1, 0)
    np.testing.assert_allclose(batch.reward_N, 2 * correct_N + 0.5 * finished_N + 0.5 * overlong_N, atol=1e-6)
    for name, value_N in (("reward_correct", correct_N), ("reward_finished", finished_N), ("reward_soft_overlong", overlong_N)):
        np.testing.assert_allclose(float(metrics[name][0]), value_N.sum(), atol=1e-5)
    np.testing.assert_allclose(float(metrics["reward"][0]), np.asarray(batch.reward_N).sum(), atol=1e-5)


def test_a_term_of_ones_own_reads_the_tokens(monkeypatch):
    monkeypatch.setattr(rewards, "PARTS", dict(rewards.PARTS))
    rewards.register("first_is_seven", lambda answer, term: (answer.tokens_NxT[:, 0] == 7).astype(jnp.float32))
    answer = rewards.Answer(jnp.zeros(2), jnp.ones(2), jnp.ones(2), jnp.asarray([[7, 1], [1, 7]]))
    total_N, seen = rewards.compose((Reward("correct"), Reward("first_is_seven", 0.25)), answer, 0)
    assert total_N.tolist() == [0.25, 0.0] and seen["first_is_seven"].tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="registered twice"):
        rewards.register("first_is_seven", None)


def test_a_pool_is_drawn_from_and_nothing_else():
    def drawn(pool):
        key = jax.random.key(0)
        plan = curricula.Uniform(pool=pool).sample({}, key, curricula.blank(key, 400), curricula.Context(0))[1]
        return np.asarray(plan.index_B)

    index_B = drawn(5)
    assert set(index_B) == set(range(5)) and index_B.dtype == np.uint32
    assert np.bincount(index_B).min() > 50  # 80 expected, standard deviation 8
    np.testing.assert_array_equal(index_B, jax.random.randint(jax.random.key(0), (400,), 0, 5))
    np.testing.assert_array_equal(drawn(0), jax.random.bits(jax.random.key(0), (400,), "uint32"))  # hardly one twice
    with pytest.raises(ValueError, match="pool=-1 is negative"):
        curricula.Uniform(pool=-1)
