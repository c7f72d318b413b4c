"""Invariants of every row of the table: splitting, padding, order, empty masks, its needs; what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models, objectives, training
from jaxpost.objectives import aggregation
from tests.objectives import given

# Every row of the table; by default those that together have every class and every choice of the parts in COVERED.
COVERED = ("aggregation", "batch", "ratio", "clip", "baseline", "scale", "whiten", "kl_place", "kl_estimator", "credit_unit")


def marked(names):
    """The names, those that the others cover marked slow."""
    choices = {name: {type(objectives.RECIPES[name])} | {(part, value) for part in COVERED if isinstance(
        value := getattr(objectives.RECIPES[name], part, None), str)} for name in names}
    left, kept = set().union(*choices.values()), set()
    while left:
        best = max(choices, key=lambda name: len(choices[name] & left))
        left -= choices[best]
        kept.add(best)
    return [name if name in kept else pytest.param(name, marks=pytest.mark.slow) for name in names]


every_row = pytest.mark.parametrize("name", marked(list(objectives.RECIPES)))
one_row_of_fifteen = pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if i % 15 else ())
                                                      for i, name in enumerate(objectives.RECIPES)])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def close(a, b, rtol=1e-12):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol), a, b)


@every_row
def test_microbatches_add_up(name):
    """Sum, count and gradient of 4 parts of unlike lengths; pairs stay whole. What couples an update is refused by the step."""
    objective, view, batch = given.ready(name)
    if objective.couples_update:
        model = models.TransformerConfig(vocab=8, width=8, layers=1, heads=1, kv_heads=1, head_dim=8, ff=8)
        with pytest.raises(ValueError, match="microbatches=2 with objective .* couples all rows"):
            training.StepSpec(model, objective, (("name", "adamw"),), microbatches=2)
        return
    whole = given.differentiated(objective, view, batch)
    parts = [given.differentiated(objective, jax.tree.map(lambda x, i=i: x[i:i + 2], view), batch.where(slice(i, i + 2)))
             for i in range(0, 8, 2)]
    assert sum(p[1] for p in parts) == pytest.approx(whole[1], rel=1e-12)
    assert sum(p[0] for p in parts) == pytest.approx(whole[0], rel=1e-12, abs=1e-12)
    close(jax.tree.map(lambda *x: jnp.concatenate(x), *(p[2] for p in parts)), whole[2])


@every_row
def test_padding_changes_nothing_whatever_it_holds(name):
    objective = given.recipe(name)
    view, batch = given.needed(objective, *given.rows())

    def widen(tree):
        def one(x):
            fill = {"f": jnp.nan, "i": 0, "u": 0}[x.dtype.kind]
            return jnp.pad(x, ((0, 0), (0, 3), *((0, 0),) * (x.ndim - 2)), constant_values=fill)

        return tree._replace(**{name: one(x) for name, x in tree._asdict().items() if "NxT" in name and x is not None})

    wide = widen(batch)._replace(mask_NxT=jnp.pad(batch.mask_NxT, ((0, 0), (0, 3))))
    ready = [given.prepared(objective, b) for b in (batch, wide)]
    s, count, grads = given.differentiated(objective, view, ready[0])
    padded = given.differentiated(objective, widen(view), ready[1])
    assert padded[0] == pytest.approx(s, rel=1e-12, abs=1e-12) and padded[1] == pytest.approx(count, rel=1e-12)
    close(jax.tree.map(lambda x: x[:, :given.T], padded[2]), grads)
    assert all(not np.any(x[:, given.T:]) for x in jax.tree.leaves(padded[2]))


@every_row
def test_the_order_of_the_units_does_not_matter(name):
    """Whole groups (and so pairs) in another order: the same sum and count."""
    objective = given.recipe(name)
    view, batch = given.needed(objective, *given.rows())
    order = np.r_[4:8, 0:4]
    ready = [given.prepared(objective, b) for b in (batch, batch.where(order))]
    one = given.differentiated(objective, view, ready[0])
    other = given.differentiated(objective, jax.tree.map(lambda x: x[order], view), ready[1])
    assert other[0] == pytest.approx(one[0], rel=1e-12, abs=1e-12) and other[1] == pytest.approx(one[1], rel=1e-12)


@every_row
def test_an_empty_mask_is_zero_finite_and_without_gradient(name):
    objective = given.recipe(name)
    view, batch = given.needed(objective, *given.rows())
    nothing = batch._replace(mask_NxT=jnp.zeros_like(batch.mask_NxT))
    ready = given.prepared(objective, nothing)
    s, count, grads = given.differentiated(objective, view, ready)
    assert s == 0.0 and np.isfinite(count)
    assert count == 0 or objective.aggregation.startswith("constant")
    assert all(not np.any(x) for x in jax.tree.leaves(grads))


@every_row
def test_an_empty_group_adds_nothing(name):
    """Rows of a second, fully masked group: the first group's sum and gradient; they count only for constant modes."""
    objective = given.recipe(name)
    view, batch = given.needed(objective, *given.rows())
    half = batch._replace(mask_NxT=batch.mask_NxT.at[4:].set(0))
    s, count, grads = given.differentiated(objective, view, given.prepared(objective, half))
    assert np.isfinite([s, count]).all()
    assert all(np.isfinite(x).all() and not np.any(x[4:]) for x in jax.tree.leaves(grads))


@every_row
def test_jit_and_float32_agree_with_float64(name):
    objective, view, batch = given.ready(name)
    expected = objective.loss(view, batch, objective.init())[:2]
    jitted = jax.jit(lambda v, b: objective.loss(v, b, objective.init())[:2])(view, batch)
    close(jitted, expected)
    narrow = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, tree)  # noqa: E731
    total, count = objective.loss(narrow(view), narrow(batch), narrow(objective.init()))[:2]
    assert total.dtype == jnp.float32
    np.testing.assert_allclose([total, count], np.asarray(expected), rtol=2e-5, atol=2e-5)


@one_row_of_fifteen
def test_half_precision_in_is_summed_in_float32(name):
    """More than 256 tokens and rows in bfloat16, against the same numbers in float64.

    In float32 where a rule draws tokens by random numbers, which are others in float64.
    """
    draws = name in ("clip_cov", "spear")
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype.kind == "f" else x, given.rows(N=264))
    objective = given.recipe(name)
    with jax.enable_x64(not draws):
        exact = jax.tree.map(lambda x: x.astype(float) if x.dtype == jnp.bfloat16 else x, half)
        view, batch = given.needed(objective, *exact)
        s, count, _ = objective.loss(view, given.prepared(objective, batch), objective.init())
    with jax.enable_x64(False):
        view, batch = given.needed(objective, *half)
        batch, state = given.prepared(objective, batch), objective.init()
        half_s, half_count, _ = objective.loss(view, batch, state)
        gradients = jax.grad(lambda v: objective.loss(v, batch, state)[0].sum())(view)
    assert half_s.dtype == half_count.dtype == jnp.float32
    np.testing.assert_allclose(half_count, count, rtol=2e-6)
    np.testing.assert_allclose(half_s, s, rtol=2e-5, atol=2e-5 * np.abs(count).max())
    assert {x.dtype for x in jax.tree.leaves(gradients)} == {jnp.dtype(jnp.bfloat16)}


@every_row
def test_a_missing_need_is_named_before_the_first_step(name):
    objective = given.recipe(name)
    _, batch = given.needed(objective, *given.rows())
    for need in objective.needs:
        for word in objectives.NEEDS[need].split(" and "):
            place, _, field = word.partition(":")[0].partition(".")
            if place == "Batch":
                with pytest.raises(ValueError, match=f"needs {place}.{field}"):
                    objective.prepare(batch._replace(**{field: None}), given.GROUP, state=objective.init())


@pytest.mark.parametrize("name", marked([n for n, o in objectives.RECIPES.items() if o.batch == "groups"]))
def test_a_missing_reward_takes_no_part(name):
    """A NaN reward: finite everywhere, and its own value cannot matter."""
    objective = given.recipe(name)
    view, batch = given.needed(objective, *given.rows())
    gone = batch._replace(reward_N=batch.reward_N.at[2].set(jnp.nan))
    s, count, grads = given.differentiated(objective, view, given.prepared(objective, gone))
    assert np.isfinite([s, count]).all() and all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


def test_rows_that_do_not_fit_the_group_are_refused():
    _, batch = given.rows(N=6)
    with pytest.raises(ValueError, match="6 rows are not a whole number of groups of 4; nearest valid: 4 rows"):
        objectives.get("grpo").prepare(batch, 4)


def test_probabilities_and_infinite_rewards_are_refused():
    view, batch = given.rows()
    objective = objectives.get("grpo", kl_place="loss")
    for field in ("behaviour_NxT", "reference_NxT"):
        wrong = batch._replace(**{field: jnp.exp(getattr(batch, field))})
        with pytest.raises(ValueError, match=f"{field} holds .* look like probabilities; pass their logarithm"):
            objective.prepare(wrong, given.GROUP)
    with pytest.raises(ValueError, match="infinite entries"):
        objective.prepare(batch._replace(reward_N=batch.reward_N.at[0].set(jnp.inf)), given.GROUP)
    with pytest.raises(ValueError, match="View.logp_NxT holds"):
        objective.loss(view._replace(logp_NxT=jnp.exp(view.logp_NxT)), objective.prepare(batch, given.GROUP), {})


def test_a_mask_that_is_not_floating_point_is_refused():
    _, batch = given.rows()
    for dtype in (jnp.int32, bool):
        with pytest.raises(ValueError, match="a mask is floating point"):
            objectives.get("grpo").prepare(batch._replace(mask_NxT=batch.mask_NxT.astype(dtype)), given.GROUP)


@pytest.mark.parametrize("name", ["reinforce_pp", "reinforce_pp_baseline", "grpo", "ppo"])
def test_a_missing_reward_has_no_advantage_and_moves_no_other(name):
    objective = given.recipe(name)
    _, batch = given.needed(objective, *given.rows(2))
    gone = batch._replace(reward_N=batch.reward_N.at[2].set(jnp.nan))
    A = np.asarray(objective.prepare(gone, given.GROUP).advantage_NxT)
    assert not A[2].any() and np.isfinite(A).all() and A[3].any()
    if objective.whiten == "token":
        live = A[np.asarray(gone.mask_NxT * (np.arange(8) != 2)[:, None]) > 0]
        assert live.mean() == pytest.approx(0, abs=1e-12) and live.std(ddof=1) == pytest.approx(1, rel=1e-6)


def test_whitening_leaves_demonstrations_out_where_the_group_does():
    objective = given.recipe("chord_phi", whiten="token")
    _, batch = given.needed(objective, *given.rows())
    A = np.asarray(objective.prepare(batch, given.GROUP).advantage_NxT)
    live = A[np.asarray(batch.mask_NxT * (1 - batch.demonstration_NxT)) > 0]
    assert live.std(ddof=1) == pytest.approx(1, rel=1e-6) and not A[np.asarray(batch.demonstration_NxT) > 0].any()


def test_long_rows_stay_finite_with_a_product_ratio():
    ones = jnp.ones((2, 100))
    objective = objectives.get("rloo")
    batch = objective.prepare(objectives.Batch(None, None, ones, jnp.asarray([1.0, 0.0]), -1.0 * ones), 2)
    for logp in (-0.1, -2.0):
        s, count, grads = given.differentiated(objective, objectives.View(logp * ones), batch)
        assert np.isfinite(s) and np.isfinite(grads.logp_NxT).all() and count == 2


def test_aggregation_rejects_what_it_cannot_mean():
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="choose one of token"):
        aggregation.aggregate(x, x, "tokens")
    with pytest.raises(ValueError, match="need a length"):
        aggregation.aggregate(x, x, "constant")


def test_the_total_constant_is_shared_by_the_parts():
    x, mask = jnp.ones((6, 3)), jnp.ones((6, 3))
    parts = [aggregation.aggregate(x[i:j], mask[i:j], "constant_total", 5, rows=6) for i, j in ((0, 1), (1, 6))]
    np.testing.assert_allclose(np.sum(parts, axis=0), (18.0, 5.0))


@pytest.mark.parametrize("empty", aggregation.EMPTY)
@pytest.mark.parametrize("mode", aggregation.MODES)
def test_sums_and_counts_are_those_of_a_loop_over_rows(mode, empty):
    """Rows with holes, rows without a token, one that is absent; off the mask nothing is a number."""
    mask = np.array([[1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], float)
    absent = np.array([0, 0, 0, 0, 0, 1.0])
    x = np.where(mask > 0, np.random.default_rng(6).normal(size=mask.shape), np.nan)
    length = 5 if mode.startswith("constant") else None
    total, count = 0.0, 5.0 if mode == "constant_total" else 0.0
    for row, kept, gone in zip(x, mask > 0, absent, strict=True):
        own = [value for value, keep in zip(row, kept, strict=True) if keep]
        total += sum(own) / len(own) if own and mode == "sequence" else sum(own)
        if mode == "token":
            count += len(own)
        elif mode != "constant_total":
            asked = empty == "counted" or (empty == "default" and mode == "constant")
            count += (length or 1) * (len(own) > 0 or (asked and not gone))
    found = aggregation.aggregate(jnp.asarray(x), jnp.asarray(mask), mode, length, empty=empty, absent_N=jnp.asarray(absent))
    np.testing.assert_allclose(found, (total, count), rtol=1e-12)


@pytest.mark.parametrize("name, parts, message", [
    ("grpo", {"kl_coef": 0.1}, "has no effect"),
    ("grpo", {"ratio": "tokens"}, "choose one of none, token"),
    ("cispo", {"clip": "capped_weight", "clip_cap": 0.28}, "needs one of the two: clip_cap is the bound of the ratio itself"),
    ("cispo", {"clip": "capped_weight", "clip_high": None}, "needs one of the two"),
    ("cispo", {"clip": "capped_weight", "clip_cap": 0.0, "clip_high": None}, "must be greater than 0; .*use clip_high"),
    ("cispo", {"clip_cap": 1.28}, "only 'capped_weight' takes a cap"),
    ("cispo", {"ratio": "none", "clip_high": None}, "weights by a ratio and needs one"),
    ("grpo", {"kl_clamp": 10.0}, "has no effect without a KL"), ("remax", {"lone_reward": "reward"}, "compares with no other"),
    ("raft_pp", {"kl_log_ratio_clamp": -1.0}, "must be greater than 0"),
    ("grpo", {"aggregation": "token", "aggregation_empty": "counted"}, "does not count rows"),
    ("grpo", {"clip_low": -0.2}, "must be greater than 0"),
    ("grpo", {"clip_high": 0.0}, "must be greater than 0"),
    ("grpo", {"ratio_cap": 1.0}, "must be greater than 1"),
    ("raft", {"kl_place": "reward"}, "put the KL in the loss"),
    ("reinforce_rej", {"whiten": "token"}, "choose whiten='none'"),
    ("ppo", {"informative_only": True, "whiten": "none"}, "with a critic"),
    ("dr_grpo", {"aggregation_length": 0}, "must be greater than 0"),
    ("grpo", {"clip_low": 1.2}, "no ratio is that low"),
    ("grpo", {"ratio": "none"}, "clip_low=0.2 has no effect with ratio='none'"),
    ("grpo", {"dual_clip": 1.0}, "must be greater than 1"),
    ("grpo", {"kl_place": "reward", "kl_estimator": "full"}, "in the reward use 'k1'"),
    ("grpo", {"kl_gradient": "straight_through_k2"}, "choose 'loss' or 'reward'"),
    ("dr_grpo", {"ddof": 0}, "choose a scale"),
    ("grpo", {"aggregation": "constant"}, "need a length"),
    ("grpo", {"gamma": 0.9}, "choose credit_unit='token'"),
    ("dapo", {"overlong_cache": 0}, "must lie in 1"),
    ("grpo", {"sampler_rule": "mask"}, "without sampler_cap or sampler_floor"),
    ("grpo", {"sampler_floor": 1.5}, "must lie between 0 and 1"), ("grpo", {"off_policy_limit": 0.0}, "greater than 0"),
    ("grpo", {"rejected": "left_out"}, "no row is rejected"), ("opo", {"informative_only": True}, "equal rewards advantage 0"),
    ("ppo", {"baseline": "mean"}, "the critic is the baseline"),
    ("ppo", {"lam": 1.5}, "must lie in"),
])
def test_parts_that_contradict_each_other_are_refused_when_built(name, parts, message):
    with pytest.raises(ValueError, match=message):
        objectives.get(name, **parts)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'grpo'"):
        objectives.get("grpoo")
    with pytest.raises(ValueError, match="did you mean 'clip_high'"):
        objectives.get("grpo", cliphigh=0.28)
    with pytest.raises(ValueError, match="has no part 'gamma'.*valid: aggregation"):
        objectives.get("cross_entropy", gamma=1.0)


def test_an_override_moves_only_its_part():
    base, changed = objectives.get("grpo"), objectives.get("grpo", clip_high=0.28)
    assert {k for k in vars(base) if getattr(base, k) != getattr(changed, k)} == {"clip_high"}


def test_every_row_names_its_paper():
    assert all(row["paper"] and row["family"] in ("sft", "preference", "rl", "hybrid") for row in objectives.table())


@pytest.mark.parametrize("name, parts, expected", [
    ("grpo", {"clip_low": "0.2"}, "a finite number or None; nearest valid: 0.2"),
    ("grpo", {"sampler_cap": [2.0]}, "a finite number or None"), ("grpo", {"kl_coef": float("nan")}, "a finite number"),
    ("grpo", {"clip_low": float("inf")}, "a finite number or None"),
    ("dpo", {"beta": True}, "a finite number; nearest valid: 1.0"),
    ("grpo", {"overlong_limit": 2.5}, "a whole number or None; nearest valid: 2"),
    ("grpo", {"mask_truncated": 2}, "True or False"),
    ("ift", {"detach_weights": "yes"}, "True or False; nearest valid: True"),
    ("weighted_sft", {"role_weights": 1}, "a list or a table")])
def test_a_value_of_another_kind_is_refused_by_its_part(name, parts, expected):
    (key, value), = parts.items()
    with pytest.raises(ValueError) as refused:
        objectives.get(name, **parts)
    assert str(refused.value) == f"objective '{name}': {key}={value!r}, expected {expected}"


def test_every_row_is_of_the_kinds_that_it_declares():
    for name, row in objectives.RECIPES.items():
        objectives.get(name, **{part: getattr(row, part) for part in objectives.recipes.overrides(row)})
