"""Answers with the solution in sight: the context, who is drawn again, and an exact policy gradient by enumeration."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import curricula, models, objectives, training
from jaxpost.training import reformulating
from jaxpost.training.reformulating import Reformulation
from jaxpost.training.second import Rows
from tests import compiled
from tests.training.conftest import NOISY, TASK

G, V = 2, 4


def test_the_solution_and_its_end_stand_before_the_prompt_without_a_gap():
    solution = jnp.asarray([[7, 8, TASK.eos, 0], [5, TASK.eos, 0, 0]])
    prompt = jnp.asarray([[0, 2, 3], [4, 0, 3]])  # a pad behind the first token is a token
    found = reformulating.in_sight(solution, prompt, TASK)
    assert found.tolist() == [[0, 0, 7, 8, TASK.eos, 2, 3], [0, 0, 5, TASK.eos, 4, 0, 3]]


@pytest.mark.parametrize("another", [False, True])
def test_failed_groups_say_their_first_rows_again(another):
    class Task:
        pad, ends = 0, 1

        @staticmethod
        def oracle(problem, key):
            return jnp.asarray([problem, 1])

    seen = []

    def draw(problems_M, context_MxP, key):
        seen.append(np.asarray(context_MxP))
        return models.Completions(jnp.full((3, 2), 9), jnp.full((3, 2), -2.0), jnp.ones((3, 2))), 0.1 * problems_M

    rows = Rows(jnp.repeat(jnp.arange(5, 8), G), jnp.full((6, 1), 3), models.Completions(
        jnp.full((6, 2), 4), jnp.full((6, 2), -1.0), jnp.ones((6, 2))), jnp.asarray([0.0, 0, 0, 1, 0, 0]))
    with jax.disable_jit():
        out = Reformulation(another=another).again(Task, rows, curricula.Plan(jnp.arange(3)), G, draw, jax.random.key(0))
    assert [row[:2] for row in seen[0].tolist()] == [[p, 1] for p in ((6, 7, 5) if another else (5, 6, 7))]
    np.testing.assert_allclose(out.rows.reward_N, [0.5, 0, 0, 1, 0.7, 0], rtol=1e-6)
    np.testing.assert_array_equal(out.rows.made.tokens_NxT[:, 0], [9, 4, 4, 4, 9, 4])
    np.testing.assert_array_equal(out.rows.made.logp_NxT[:, 0], [-2, -1, -1, -1, -2, -1])
    assert [float(x) for x in out.told["guided_groups"]] == [2, 3]
    np.testing.assert_allclose([float(x) for x in out.told["guided_reward"]], [1.2, 2], rtol=1e-6)


def test_without_clipping_guided_answers_give_the_policy_gradient_of_the_bare_prompt():
    """Every one-token answer once, weighted by its chance under guidance, against the gradient of the expected reward."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        bare, guided, reward = (jnp.asarray(rng.normal(size=V)) for _ in range(3))
        q = jax.nn.softmax(guided)
        objective = objectives.get("egsr", baseline="none", scale="none", clip_low=0.999, clip_high=1e6)
        batch = objectives.Batch(None, None, jnp.ones((V, 1)), reward_N=reward, behaviour_NxT=jnp.log(q)[:, None])
        ready = objective.prepare(batch, 1)

        def loss(logits):
            logp = jax.nn.log_softmax(logits)[:, None]
            each = [objective.loss(objectives.View(logp[y:y + 1]), ready.where(slice(y, y + 1)), {})[0] for y in range(V)]
            return sum(float(q[y]) * each[y] for y in range(V))

        expected = -jax.grad(lambda logits: (jax.nn.softmax(logits) * reward).sum())(bare)
        assert (jnp.abs(jax.nn.softmax(bare) / q - 1) > 0.05).any()
        np.testing.assert_allclose(jax.grad(loss)(bare), expected, atol=1e-14)


def test_rows_of_a_step_have_the_likelihood_that_they_were_drawn_with(feed):
    run = feed("egsr", task=dataclasses.replace(NOISY, verify=lambda problem, tokens_T: jnp.float32(0)))
    batch, metrics, _ = run.batch(run.member, run.state, None)
    problems, prompt, *_ = run.rollout(run.params, run.member.seed, run.state.step, {})
    assert float(metrics["guided_groups"][0]) == 4 and float(metrics["guided_reward"][1]) == 4
    solution = jax.jit(jax.vmap(lambda p: run.task.oracle(p, None)))(problems)
    context = reformulating.in_sight(solution, prompt, run.task)
    logits = [compiled.token_logits(run.model, run.params, x, batch.completion_NxT) for x in (context, prompt)]
    said = [np.take_along_axis(np.asarray(jax.nn.log_softmax(x)), np.asarray(batch.completion_NxT)[..., None], -1)[..., 0]
            for x in logits]
    first = (np.arange(16) % 4 == 0)[:, None]
    np.testing.assert_allclose(batch.behaviour_NxT * batch.mask_NxT, np.where(first, *said) * batch.mask_NxT, atol=2e-5)
    np.testing.assert_array_equal(batch.prompt_NxP, prompt)  # what is trained on is the bare prompt
    assert np.abs((said[0] - said[1]) * np.asarray(batch.mask_NxT))[::4].max() > 1e-3


@pytest.mark.parametrize(("name", "parts", "message"), [
    ("egsr", {}, "learns from answers that are drawn again behind the solution, and second is None; give a Reformulation"),
    ("grpo", {"second": Reformulation(rows=9)}, "rows=9 of groups of 4; nearest valid: 4"),
    ("ghpo", {"second": Reformulation()}, "give a SecondPass")])
def test_what_is_refused(feed, name, parts, message):
    with pytest.raises(ValueError, match=message):
        feed(name, make=lambda task, spec, prompts: training.Rollouts(task, prompts, spec, **parts))
