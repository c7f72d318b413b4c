"""What a source tells a curriculum and does for it: prompt states, limits, KL weights, tokens, hints and logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import curricula, models, objectives, tasks, training
from jaxpost.models import DRAW
from jaxpost.training.forcing import Prefix


def rolled(*rules, **options):
    return lambda task, spec, prompts: training.Rollouts(task, prompts, spec, curriculum=curricula.chain(*rules), **options)


WITH_KL = objectives.get("grpo", kl_place="loss", kl_coef=0.1)


def test_states_limits_kl_weights_and_tokens(feed):
    """One chain of four rules, one batch."""
    pcl, limit = curricula.get("pcl", width=16, candidates=2), curricula.get("staged_length", tokens=(3,), steps=1)
    chain = (pcl, limit, curricula.get("clpo"), curricula.get("d3s_tokens", steps=4))
    run = feed(WITH_KL, make=rolled(*chain))
    state = training.create(run.spec, run.params, run.source.curriculum.init(jax.random.key(0)))

    @jax.jit
    def parts(member, state, reference):
        problems_N, prompt_NxP, made, planned = run.source.rollout(state.params, member.seed, state.step,
                                                                   state.curriculum_state)
        reward_N = run.source.verify(problems_N, made)
        whole = models.teacher_forced(run.model, state.params, prompt_NxP[::4], made.tokens_NxT[::4], 0, logits=False)
        batch = run.source.verified(member, state, reference, prompt_NxP, made, planned, reward_N)[0]
        return made, planned.plan.knobs["prompt_state"], whole.taps["hidden"][:, 0], reward_N, batch

    made, found, hidden_BxD, reward_N, batch = parts(run.member, state, jax.tree.map(lambda x: 1.5 * x, run.params))
    np.testing.assert_allclose(found, np.c_[hidden_BxD, np.ones(4)], atol=1e-5)
    length = np.asarray(made.mask_NxT).sum(axis=1)
    reward = np.where(length > 3, 0.0, reward_N)
    p = np.repeat(reward.reshape(4, 4).mean(axis=1), 4)
    assert (length > 3).any() and (length <= 3).any()
    kept = (p > 0) & (p < 1) if ((p > 0) & (p < 1)).any() else np.ones(16, bool)
    np.testing.assert_array_equal(batch.reward_N, np.where(kept, reward, np.nan))
    np.testing.assert_array_equal(batch.kl_weight_N, np.where(p <= 0.3, 0.5, 1.0))
    mask = np.asarray(batch.mask_NxT)
    assert not mask[:, 3:].any() and not mask[~kept].any() and 0 < mask.sum() <= np.minimum(length, 3)[kept].sum()

    train = jax.jit(lambda batch, coef: training.train_step(run.spec, state, batch,
                                                            run.member.scalars._replace(kl_coef=coef))[1]["loss"][0])
    plain = batch._replace(kl_weight_N=jnp.ones(16))
    base, once, twice = (float(train(plain, coef)) for coef in (0.0, 0.1, 0.2))
    assert abs(once - base) > 1e-4
    np.testing.assert_allclose(float(train(batch._replace(kl_weight_N=jnp.full(16, 2.0)), 0.1)), twice, rtol=1e-5)


def test_each_row_begins_with_its_own_share_of_the_demonstration():
    task = tasks.get("addition", digits=1)
    problems_N = tasks.problems(task, "train", jnp.repeat(jnp.arange(3, dtype=jnp.uint32), 2), None)
    hint, key = Prefix("fixed", 0.5, 0.5, role="hint"), jax.random.key(0)
    given = jax.jit(lambda share: hint.tokens(task, problems_N, key, 0, 2, share))
    by_share = {s: np.asarray(given(jnp.full(3, s))) for s in (0.0, 0.5, 1.0)}
    share_BxS = np.array([[0.5, 1.0], [0.0, 0.5], [1.0, 0.0]])
    found = np.asarray(given(jnp.asarray(share_BxS)))
    np.testing.assert_array_equal(found, [by_share[s][i] for i, s in enumerate(share_BxS.reshape(-1))])
    each = np.asarray(given(jnp.asarray(share_BxS[:, 0])))
    np.testing.assert_array_equal(each, [by_share[s][i] for i, s in enumerate(np.repeat(share_BxS[:, 0], 2))])
    assert (by_share[0.0] == DRAW).all() and ((by_share[1.0] != DRAW).sum(axis=1) > (by_share[0.5] != DRAW).sum(axis=1)).all()


@pytest.mark.slow
def test_utility_is_of_the_logits_of_counted_tokens(make):
    run = make("cross_entropy", "sft")
    rule = curricula.get("uds", keep=1, among=4, alpha=0.0, rows=2, columns=4)
    source = training.Demonstrations(run.source.mixture, rule, run.spec)
    state = training.create(run.spec, run.params, rule.init(jax.random.key(0)))

    @jax.jit
    def parts(member, state):
        plain = run.source.batch(member, state._replace(curriculum_state={}), None)[0]
        logits = models.token_logits(run.model, state.params, plain.prompt_NxP, plain.completion_NxT, 0)
        return *source.batch(member, state, None)[:2], plain, logits

    batch, metrics, plain, logits = parts(run.member, state)
    utility = np.linalg.norm(logits * np.asarray(plain.mask_NxT)[..., None], "nuc", axis=(1, 2)).reshape(-1, 4)
    np.testing.assert_array_equal(np.asarray(batch.mask_NxT).any(axis=1).reshape(-1, 4),
                                  utility == utility.max(axis=1, keepdims=True))
    assert [float(x) for x in metrics["trained_rows"]] == [4, 16]


@pytest.mark.parametrize("rule, settings, objective, options, message", [
    ("clpo", {}, "grpo", {}, "needs a policy-gradient objective with a KL term in its loss"),
    ("scaffold", {"steps": 9}, "grpo", {}, "needs rollouts whose answers begin with a hint"),
    ("d3s_tokens", {"steps": 9}, "grpo", {"oversample": 2}, "with oversample=2; set it to 1"),
    ("uds", {}, "grpo", {}, "logits on demonstrations, and Rollouts does not give it \\(Demonstrations does\\)"),
    ("reasoning_quota", {"pool": 8}, "grpo", {}, "needs a term triangular_length, band_length or refusal"),
    ("pcl", {"width": 9}, "grpo", {}, "states of prompts have 16 numbers; set width to 16")])
def test_what_a_run_does_not_give_is_refused_before_it(feed, rule, settings, objective, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        feed(objective, make=rolled(curricula.get(rule, **settings), **options))
    assert "\n" not in str(caught.value)
