"""No part that nothing reads: whatever a row lets one change either changes what it computes or is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from jaxpost.objectives import advantages, aggregation, clipping, kl, ratios, selection, token_weights
from tests.objectives import given


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


# Values to try for every part; one that the row refuses is fine, one that it takes must change something.
TRIED = {"aggregation": aggregation.MODES, "aggregation_empty": aggregation.EMPTY,
         "baseline": (*advantages.BASELINES, "accepted", "positive", "outside"),
         "scale": advantages.SCALES, "whiten": advantages.WHITENINGS, "ratio": ratios.LEVELS, "clip": clipping.RULES,
         "kl_estimator": kl.ESTIMATORS, "kl_place": kl.PLACES, "kl_gradient": kl.GRADIENTS, "credit_unit": ("row", "token"),
         "sft_token_weight": token_weights.KINDS, "ddof": (0, 1), "end_token": (0, 1), "pass_k": (1, 3), "means": (8,),
         "lone_reward": advantages.LONE, "rejected": advantages.REJECTED, "guard_logp": selection.GUARD_LOGPS}
ROOM = {"d3s": {"keep_rows": 0.9, "keep_tokens": 0.9},  # otherwise hardly a token is left to show a difference
        "amft": {"meta_rate": 10.0},  # reaches both ends of its range
        "gradient_weighted_rewards": {"gradient_clip": 2.0},  # two terms of one norm have one influence
        "pass_at_k": {"pass_k": 2},  # of fewer than the group
        "spear": {"guard_share": 0.1, "guard_low": 0.01, "imitation_steps": 500},
        "adaptive_entropy": {"entropy_target": 5.0}}  # which the entropies given are below
ELSEWHERE = {"mixture": "training.passes, which mixes the inputs"}  # parts that something else reads than the loss
NUMBERS = (0.0, 0.05, 0.45, 0.9, 1.2, 2.6, 700)


def outcome(objective):
    """Everything that a row computes on two batches in which every part has something to do."""
    view, batch = given.rows(5, N=16, lengths=[6, 0, 3, 6, 2, 5, 6, 1] * 2)
    batch = batch._replace(reward_N=batch.reward_N.at[4:8].set(1.0))  # a group of equal rewards
    batch = batch._replace(reward_N=batch.reward_N.at[9:12].set(jnp.nan))  # one with a lone reward
    batch = batch._replace(reward_N=batch.reward_N.at[12:].set(jnp.asarray([0.5, 2, 0, 0.5])))  # and one with a best row,
    batch = batch._replace(age_N=jnp.asarray([0.0] * 12 + [2.0] * 4))  # which is replayed where rows are
    computed = []
    for stretch in (1.0, 4.0, -3.0):  # ratios inside, and beyond every bound on either side
        old, near = (jnp.minimum(view.logp_NxT + stretch * (x - view.logp_NxT - 0.3), 0.0)
                     for x in (batch.behaviour_NxT, batch.proximal_NxT))
        old = jnp.where(batch.demonstration_NxT > 0, 0.0, old)
        v, b = given.needed(objective, view, batch._replace(behaviour_NxT=old, proximal_NxT=near))
        late = jax.tree.map(lambda x: x + 298 if x.dtype == jnp.int32 else x, objective.observe(
            objective.init(), objective.prepare(b, given.GROUP, state=objective.init())))
        ready = objective.balance(objective.prepare(b, given.GROUP, state=late))
        computed += [jax.grad(lambda v, b=ready, s=late: objective.loss(v, b, s)[0].sum())(v), objective.loss(v, ready, late)]
        if len(objective.terms) > 1:
            computed += [objective.mix(late, jnp.asarray([[1.0, x], [x, 9.0]]), ready) for x in (0.5, 2.0)]
    return [np.asarray(x) for x in jax.tree.leaves(computed)], objective.needs


def same(a, b):
    return a[1] == b[1] and len(a[0]) == len(b[0]) and all(
        x.shape == y.shape and np.array_equal(x, y) for x, y in zip(a[0], b[0], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", objectives.RECIPES)
def test_a_part_changes_something_or_is_refused(name):
    base = given.recipe(name, **ROOM.get(name, {}))
    before, idle = outcome(base), []
    for field in set(objectives.recipes.overrides(base)) - set(ELSEWHERE):
        value = getattr(base, field)
        tried = TRIED.get(field) or (
            (not value,) if isinstance(value, bool) else () if isinstance(value, (str, tuple)) else NUMBERS)
        changed, taken = False, False
        for other in tried:
            if other == value:
                continue
            try:
                objective = dataclasses.replace(base, **{field: other})
            except ValueError:
                continue
            taken, changed = True, changed or not same(outcome(objective), before)
        idle += [field] if taken and not changed else []
    assert not idle, f"{name} takes these parts and ignores them: {idle}"
