"""The second pass: which groups are drawn again and with how much help, what is kept, what the loss sees; refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import curricula, models, roles, training
from jaxpost.training import split
from jaxpost.training.second import SecondPass
from tests.training.conftest import NOISY

T, G = 4, 2


class _Task:
    """Answers are 5 tokens of the problem's number, then the end (1)."""

    ends = 1

    @staticmethod
    def oracle(problem, key):
        return jnp.asarray([problem, problem, problem, 1], jnp.int32)


def passes(rule, reward_N, ok):
    """The rule on 4 groups; a redrawn row is right where `ok(problem, hinted tokens)`; returns what was drawn too."""
    problems = jnp.repeat(jnp.arange(5, 9), G)
    made = models.Completions(jnp.full((8, T), 2), jnp.zeros((8, T)), jnp.ones((8, T)))
    drawn = []

    def draw(rows_M, forced_MxT, key):
        hinted = (forced_MxT != models.DRAW).sum(axis=1)
        tokens = jnp.where(forced_MxT == models.DRAW, 3, forced_MxT)
        jax.debug.callback(lambda r, h: drawn.append((np.asarray(r), np.asarray(h))), rows_M, hinted)
        return models.Completions(tokens, -jnp.ones(tokens.shape), jnp.ones(tokens.shape),
                                  (forced_MxT != models.DRAW).astype(jnp.float32)), ok(problems[rows_M], hinted)

    out = jax.jit(lambda r: rule(_Task, problems, made, r, G, draw, jax.random.key(0)))(jnp.asarray(reward_N, jnp.float32))
    jax.effects_barrier()
    return *out, drawn


def test_failing_groups_get_more_and_more_of_the_solution():
    """Group 6 needs one token, group 7 three; group 5 is right at first, group 8 in one row."""
    need = jnp.asarray([0, 1, 9, 0])
    made, reward, share, drawn = passes(SecondPass(shares=(0.4, 0.7, 0.9)), [1, 1, 0, 0, 0, 0, 1, 0],
                                        lambda p, hinted: (hinted >= need[p - 5]).astype(jnp.float32))
    np.testing.assert_allclose(share, [0, 0.4, 0.9, 0])
    np.testing.assert_array_equal(reward, [1, 1, 1, 1, 0, 0, 1, 0])
    np.testing.assert_array_equal(np.asarray(made.tokens_NxT)[:, 0], [2, 2, 6, 6, 7, 7, 2, 2])
    np.testing.assert_array_equal(np.asarray(made.forced_NxT).sum(axis=1), [0, 0, 1, 1, 2, 2, 0, 0])
    assert len(drawn) == 3 and all((r[:2] // 2 == (1, 1)).all() for r, _ in drawn[:1])


def test_hints_of_another_problem_are_those_of_the_next_group():
    made, *_ = passes(SecondPass(shares=(0.4,), another=True), [0, 0, 1, 0, 1, 0, 0, 0], lambda p, hinted: jnp.ones(p.shape))
    np.testing.assert_array_equal(np.asarray(made.tokens_NxT)[:, 0], [6, 6, 2, 2, 2, 2, 5, 5])  # the last one: of the first


def test_a_round_without_a_failing_group_draws_nothing_and_a_capacity_leaves_the_rest():
    made, reward, share, drawn = passes(SecondPass(), [1, 0] * 4, lambda p, h: jnp.ones(p.shape))
    assert not drawn and not np.any(share) and (np.asarray(made.tokens_NxT) == 2).all()
    made, reward, share, drawn = passes(SecondPass(capacity=1, shares=(0.5,)), [0] * 8, lambda p, h: jnp.ones(p.shape))
    np.testing.assert_allclose(share, [0.5, 0, 0, 0])
    np.testing.assert_array_equal(reward, [1, 1] + [0] * 6)
    assert len(drawn) == 1 and drawn[0][0].tolist() == [0, 1]


class Watching(curricula.Uniform):
    """Keeps the lengths that it sees."""

    def observe(self, state, feedback, weights):
        return {"length_BxG": feedback.length_BxG}, weights


def test_hinted_groups_train_on_what_they_drew(feed):
    run = feed("ghpo", task=dataclasses.replace(NOISY, verify=lambda problem, tokens_T: jnp.float32(0)),
               make=lambda task, spec, prompts: training.Rollouts(task, prompts, spec, Watching(), second=SecondPass()))
    batch, metrics, seen = run.batch(run.member, run.state, None)
    problems, _, first, _ = run.rollout(run.params, run.member.seed, run.state.step, {})
    np.testing.assert_array_equal(seen["length_BxG"].reshape(-1), first.mask_NxT.sum(axis=1))  # of the first pass
    assert float(metrics["hinted_groups"][0]) == 4 and float(metrics["hint_share"][0]) == 3.0
    hint = np.asarray(batch.role_NxT) == roles.HINT
    assert hint.any() and not (hint & (np.asarray(batch.mask_NxT) > 0)).any()
    answer = np.asarray(jax.jit(jax.vmap(lambda p: run.task.oracle(p, None)))(problems))
    np.testing.assert_array_equal(np.asarray(batch.completion_NxT)[hint], answer[hint])
    logp = run.logp(run.params, batch)
    np.testing.assert_allclose(np.asarray(batch.behaviour_NxT) * np.asarray(batch.mask_NxT), logp * batch.mask_NxT, atol=2e-5)
    state, measured = run.step(run.member, run.state, None)
    assert np.isfinite(float(measured["loss"][0])) and float(measured["first_reward"][0]) == 0


@pytest.mark.parametrize("name, parts, message", [
    ("ghpo", {}, "second is None; give a SecondPass"), ("grpo", {"second": SecondPass(capacity=9)}, "draws 4 groups; nearest"),
    ("luffy", {"second": SecondPass()}, "set second to None")])
def test_what_is_refused_before_compute(feed, name, parts, message):
    with pytest.raises(ValueError, match=message):
        feed(name, make=lambda task, spec, prompts: training.Rollouts(task, prompts, spec, **parts))


def test_shares_and_the_split_loop(feed):
    with pytest.raises(ValueError, match="must grow within"):
        SecondPass(shares=(0.5, 0.25))
    with pytest.raises(ValueError, match="task 'addition', which is verified on the host, and groups are drawn again"):
        feed("ghpo", task=dataclasses.replace(NOISY, verify_host=lambda problem, text: 0.0))
    run = feed("ghpo")
    with pytest.raises(ValueError, match="a second pass draws again within a step"):
        split.programs(run.task, run.spec, run.source)
