"""Token roles from the task to the loss and the metrics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives, roles, tasks, training
from jaxpost.objectives import token_weights
from jaxpost.training import metrics as typed

PLAIN = dataclasses.replace(tasks.get("addition", digits=1),
                            verify=lambda problem, tokens_T: (tokens_T[0] % 2).astype(jnp.float32))


def by_place(tokens_T):
    """The first token is a plan, the second a thought."""
    place_T = jnp.arange(tokens_T.shape[0])
    return jnp.select([place_T == 0, place_T == 1], [roles.PLAN, roles.THINK], roles.ANSWER).astype(jnp.int32)


ROLED = dataclasses.replace(PLAIN, roles=("answer", "think", "plan"), role=by_place)
ANSWERED = dataclasses.replace(PLAIN, role=lambda tokens_T: jnp.zeros_like(tokens_T))
COLUMN = np.asarray([roles.PLAN, roles.THINK, roles.ANSWER, roles.ANSWER])


@pytest.mark.parametrize("name", [pytest.param("cross_entropy", marks=pytest.mark.slow), "grpo"])
def test_answers_alone_leave_every_bit_as_it_is(feed, name):
    ends = []
    for task in (PLAIN, ANSWERED):
        run = feed(name, task=task)
        ends.append(run.step(run.member, run.state, run.params))
    jax.tree.map(np.testing.assert_array_equal, ends[0][0].params, ends[1][0].params)
    assert {key for key in ends[1][1] if key not in ends[0][1]} == {
        f"{what}_{role}" for what in ("logp", "entropy") for role in roles.ROLES}
    jax.tree.map(np.testing.assert_array_equal, ends[0][1], {key: ends[1][1][key] for key in ends[0][1]})


@pytest.mark.parametrize("name, parts, weight", [
    ("hicra", {}, [1.0, 0.0, 0.0, 0.0]),
    ("selective_sft", {}, [0.0, 0.0, 1.0, 1.0]),
    ("weighted_sft", {"role_weights": {"think": 0.5, "plan": 2}}, [2.0, 0.5, 0.0, 0.0])])
def test_weights_and_metrics_follow_the_roles(feed, name, parts, weight):
    run = feed(objectives.get(name, **parts), task=ROLED)
    batch = run.batch(run.member, run.state, run.params)[0]
    np.testing.assert_array_equal(batch.token_weight_NxT, np.broadcast_to(np.float32(weight), batch.mask_NxT.shape))
    found = typed.compute(run.step(run.member, run.state, run.params)[1])
    logp_NxT, mask_NxT = (np.asarray(x, np.float64) for x in (run.logp(run.params, batch), batch.mask_NxT))
    if name == "selective_sft":
        mask_NxT = mask_NxT * np.asarray(weight)  # what is not selected is no token of the loss
    for code, role in enumerate(roles.ROLES):
        own_NxT = mask_NxT * (COLUMN == code)
        expected = (logp_NxT * own_NxT).sum() / own_NxT.sum() if own_NxT.any() else np.nan
        np.testing.assert_allclose(found[f"logp_{role}"], expected, rtol=1e-5)


def test_a_mixture_of_tasks_with_and_without_roles():
    short, long = ROLED, tasks.get("addition", digits=2)
    batch = jax.jit(training.Demonstrations(((short, 2), (long, 2))).batch)(
        training.Member(jnp.uint32(0), training.Scalars(1e-3, 0.0, False)), _at_step_0(), None)[0]
    np.testing.assert_array_equal(batch.role_NxT, [[*COLUMN, 0]] * 2 + [[0] * 5] * 2)


def _at_step_0():
    return training.TrainState(jnp.int32(0), {}, (), {}, {})


def test_refusals_name_the_roles_that_there_are(feed):
    with pytest.raises(ValueError, match="needs Batch.token_weight.*role_weights is empty; give it, e.g. {'answer': 1"):
        feed(objectives.get("weighted_sft", role_weights={}))
    with pytest.raises(ValueError, match="of the roles hint, .* 'addition' have none.*are answer, plan, think"):
        feed(objectives.get("selective_sft", role_weights={"hint": 1}), task=ROLED)
    with pytest.raises(ValueError, match="unknown token role 'thnk'; did you mean 'think'"):
        objectives.get("weighted_sft", role_weights={"thnk": 1})
    with pytest.raises(ValueError, match="weight -1 of the token role 'think'"):
        token_weights.pairs({"think": -1})
    with pytest.raises(ValueError, match="role_weights=.* has no effect with data_weight='none'"):
        objectives.get("dft", role_weights={"answer": 1.0})
