"""Hybrids against float64 numpy: whose tokens enter which term, shares under any split, the schedule of mu."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from tests.objectives import given


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def arrays(view, batch):
    mask, shown = np.asarray(batch.mask_NxT), np.asarray(batch.demonstration_NxT)
    return mask * (1 - shown), mask * shown, np.asarray(view.logp_NxT), np.asarray(batch.behaviour_NxT)


@pytest.mark.parametrize("reshape, constant, f", [
    ("fraction", 0.1, lambda p: p / (p + 0.1)), ("fraction", 0.3, lambda p: p / (p + 0.3)), ("power", 0.5, np.sqrt),
    ("none", None, lambda p: p), ("logp", None, np.log), ("p_logp", None, lambda p: p * np.log(p))])
def test_luffy_against_numpy(reshape, constant, f):
    objective, view, batch = given.ready("luffy", reshape=reshape, reshape_constant=constant, entropy_coef=0.0)
    on, off, logp, behaviour = arrays(view, batch)
    r = np.asarray(batch.reward_N).reshape(-1, given.GROUP)
    A = (r - r.mean(1, keepdims=True)).reshape(-1, 1)
    x = -A * np.exp(logp - behaviour) * on - A * f(np.exp(logp)) * off
    total, count, _ = objective.loss(view, batch, {})
    assert float(total / count) == pytest.approx(x.sum() / given.T, rel=1e-12)


def test_the_slope_of_a_demonstrated_token_is_c_p_over_p_plus_c_squared():
    objective, view, batch = given.ready("luffy", entropy_coef=0.0)
    _, off, logp, _ = arrays(view, batch)
    p = np.exp(logp)
    grads = np.asarray(given.differentiated(objective, view, batch)[2].logp_NxT)
    expected = -np.asarray(batch.advantage_NxT) * 0.1 * p / (p + 0.1) ** 2
    np.testing.assert_allclose(grads[off > 0], expected[off > 0], atol=1e-13)
    assert np.any(grads[off > 0])


@pytest.mark.parametrize("name, weight", [
    ("chord_phi", lambda p: p * (1 - p)), ("chord_mu", lambda p: 1.0), ("rl_sft", lambda p: 1.0),
    ("chord_phi_cutoff", lambda p: p * (1 - p))])
def test_weighted_sums_against_numpy(name, weight):
    """Group statistics of the sampled rows alone; each term a mean over its own tokens."""
    constant = {"sft_weight_end": None, "warmup": 0, "decay": 0, "sft_weight": 0.3}
    objective, view, batch = given.ready(name, seed=2, **constant, scale="group", clip_low=0.2, clip_high=0.2)
    on, off, logp, behaviour = arrays(view, batch)
    reward = np.asarray(batch.reward_N).reshape(-1, given.GROUP)[:, :-1]
    z = (reward - reward.mean(1, keepdims=True)) / (reward.std(1, ddof=1, keepdims=True) + 1e-4)
    A = np.concatenate([z, np.zeros((len(z), 1))], axis=1).reshape(-1, 1)
    ratio = np.exp(logp - behaviour)
    rl = (-np.minimum(ratio * A, np.clip(ratio, 0.8, 1.2) * A) * on).sum() / on.sum()
    sft = (-np.minimum(logp, np.log(objective.sft_cutoff or 1.0)) * weight(np.exp(logp)) * off).sum() / off.sum()
    total, count, aux = objective.loss(view, batch, {})
    assert float(total / count) == pytest.approx((0.7 if objective.complement else 1.0) * rl + 0.3 * sft, rel=1e-12)
    assert float(count) == on.sum() and float(aux["sft"][1]) == off.sum()
    if objective.sft_cutoff is not None:
        low = given.ready(name, seed=2, sft_cutoff=0.2, **constant)[0]
        grads = np.asarray(given.differentiated(low, view, batch)[2].logp_NxT)[off > 0]
        sure = np.exp(logp)[off > 0] > 0.2
        assert sure.any() and not grads[sure].any() and grads[~sure].all()


@pytest.mark.parametrize("aggregation", ["sequence", "sequence_sum"])
@pytest.mark.parametrize("name", ["chord_mu", "chord_phi", "rl_sft", "amft", "sasr"])
def test_demonstrations_are_no_empty_sampled_rows(name, aggregation):
    """With "counted" a row that sampled nothing counts, not one that was demonstrated; nor sampled rows in the SFT term."""
    lengths = np.asarray([3, 2, 5, 4, 1, 6, 2, 3])  # rows 3 and 7 are demonstrated
    for empty in ((), (1,), (0, 5)):
        at = lengths.copy()
        at[list(empty)] = 0
        losses = {}
        for rule in ("default", "counted"):
            objective = given.recipe(name, aggregation=aggregation, aggregation_empty=rule)
            view, batch = given.needed(objective, *given.rows(seed=3, lengths=at))
            batch = objective.balance(objective.prepare(batch, given.GROUP, state=objective.init()))
            losses[rule] = objective.loss(view, batch, objective.init())
        rl, sft = 6, 2
        (total, count, _), (more, counted, _) = losses["default"], losses["counted"]
        if objective.terms == ("rl", "sft"):
            np.testing.assert_allclose(more, total, rtol=1e-12)
            np.testing.assert_array_equal(count, [rl - len(empty), sft])
            np.testing.assert_array_equal(counted, [rl, sft])
        else:  # the SFT term is on the count of the RL term
            assert (float(count), float(counted)) == (rl - len(empty), rl)
            mu = float(objective.weight(objective.init()))
            nll = {"none": 1.0, "p(1-p)": np.exp(view.logp_NxT) * (1 - np.exp(view.logp_NxT))}[objective.sft_token_weight]
            shown = np.asarray(batch.demonstration_NxT * batch.mask_NxT)
            own = mu * (-np.asarray(view.logp_NxT) * nll * shown).sum() / shown.sum()
            assert float(more / counted) - own == pytest.approx((float(total / count) - own) * (rl - len(empty)) / rl, rel=1e-9)


def test_the_reward_of_an_empty_sampled_row_is_one_of_its_groups():
    objective = given.recipe("rl_sft")
    _, batch = given.needed(objective, *given.rows(seed=3, lengths=[3, 0, 5, 4, 1, 6, 2, 3]))
    batch = batch._replace(reward_N=jnp.asarray([1.0, 0.0, 0.5, 9.0, 1, 0, 0, 9.0]))
    A = objective.prepare(batch, given.GROUP).advantage_NxT[:, 0]
    np.testing.assert_allclose(A, [0.5, -0.5, 0, 0, 2 / 3, -1 / 3, -1 / 3, 0], atol=1e-12)


def test_the_weight_rises_then_falls_along_a_cosine():
    objective = objectives.get("chord_mu", sft_weight=0.8, sft_weight_end=0.2, warmup=4, decay=10)
    state, seen = objective.init(), []
    for _ in range(20):
        seen.append(float(objective.weight(state)))
        state = objective.observe(state, None)
    np.testing.assert_allclose(seen[:5], [0, 0.2, 0.4, 0.6, 0.8], atol=1e-12)
    expected = [0.2 + 0.3 * (1 + np.cos(np.pi * i / 10)) for i in range(11)]
    np.testing.assert_allclose(seen[4:15], expected, atol=1e-12)
    np.testing.assert_allclose(seen[15:], 0.2, atol=1e-12)


def test_a_demonstrated_row_does_not_move_the_group():
    objective = given.recipe("chord_phi")
    _, batch = given.rows()
    other = batch._replace(reward_N=batch.reward_N.at[given.GROUP - 1].set(100.0))
    a, b = (objective.prepare(x, given.GROUP).advantage_NxT for x in (batch, other))
    np.testing.assert_array_equal(a, b)
    mixed = given.recipe("luffy")
    a, b = (mixed.prepare(x, given.GROUP).advantage_NxT for x in (batch, other))
    assert np.any(np.asarray(a) != np.asarray(b))


@pytest.mark.parametrize("name, parts, message", [
    ("luffy", {"reshape": "sqrt"}, "choose one of none, fraction, power, logp"),
    ("luffy", {"reshape": "none"}, "the others take None"), ("chord_phi", {"sft_cutoff": 1.0}, "between 0 and 1"),
    ("luffy", {"reshape_constant": 0.0}, "must be greater than 0"),
    ("chord_phi", {"sft_weight": 1.5}, "set complement=False"),
    ("chord_phi", {"sft_weight_end": 0.1}, "a schedule needs"),
    ("chord_phi", {"aggregation": "constant", "aggregation_length": 4}, "choose one of token"),
])
def test_what_is_refused(name, parts, message):
    with pytest.raises(ValueError, match=message):
        objectives.get(name, **parts)


def test_no_demonstration_in_the_batch_leaves_the_rl_term():
    objective, view, batch = given.ready("chord_phi")
    none = given.prepared(objective, batch._replace(demonstration_NxT=0 * batch.demonstration_NxT))
    total, count, _ = objective.loss(view, none, {})
    plain = objectives.get("grpo", aggregation="token")
    expected = plain.loss(view, none, {})
    assert float(total) == pytest.approx(0.9 * float(expected[0]), rel=1e-12) and float(count) == float(expected[1])
    assert jnp.isfinite(total)


@pytest.mark.parametrize("name, weight", [("chord_mu", None), ("chord_phi", 0.1), ("rl_sft", 1.0), ("srft", None)])
def test_an_update_that_sampled_nothing_keeps_its_demonstrations(name, weight):
    """Its loss is the SFT term alone, over demonstrated tokens; its two halves add up."""
    constant = {"sft_weight_end": None, "warmup": 0, "decay": 0, "sft_weight": 0.3} if name == "chord_mu" else {}
    objective = given.recipe(name, **constant)
    view, batch = given.needed(objective, *given.rows())
    shown = batch._replace(mask_NxT=batch.mask_NxT * batch.demonstration_NxT)
    ready = given.prepared(objective, shown)
    keep, logp = np.asarray(shown.mask_NxT), np.asarray(view.logp_NxT)
    if name == "srft":
        H = (np.asarray(batch.entropy_NxT) * keep).sum() / keep.sum()
        x = 0.5 * np.exp(-H) * -logp - np.asarray(objective.prepare(batch, given.GROUP).advantage_NxT) * np.exp(logp)
    else:
        p = np.exp(logp)
        x = (weight or 0.3) * -logp * (p * (1 - p) if objective.sft_token_weight == "p(1-p)" else 1.0)
    total, count, _ = objective.loss(view, ready, objective.init())
    assert float(count) == keep.sum() and float(total / count) == pytest.approx((x * keep).sum() / keep.sum(), rel=1e-12)
    halves = [objective.loss(jax.tree.map(lambda a, s=s: a[s], view), ready.where(s), objective.init())
              for s in (slice(0, 4), slice(4, 8))]
    np.testing.assert_allclose([sum(h[i] for h in halves) for i in range(2)], [total, count], rtol=1e-12)


def test_srft_against_numpy():
    objective, view, batch = given.ready("srft", seed=1)
    raw = given.rows(1)[1]
    on, off, logp, _ = arrays(view, batch)
    entropy, reward = np.asarray(raw.entropy_NxT), np.asarray(raw.reward_N)
    H_on, H_off = (entropy * on).sum() / on.sum(), (entropy * off).sum() / off.sum()
    r = reward.reshape(-1, given.GROUP)
    A = ((r - r.mean(1, keepdims=True)) / (r.std(1, ddof=1, keepdims=True) + 1e-4)).reshape(-1, 1)
    shown = ((0.5 * np.exp(-H_off) * -logp - A * np.exp(logp)) * off).sum() / off.sum()
    right = (reward == 1)[:, None]
    own = (np.where(right, 0.1 * np.exp(H_on) * -logp, logp) * on).sum() / on.sum()
    total, count, _ = objective.loss(view, batch, {})
    assert float(total / count) == pytest.approx(shown + own, rel=1e-12)


def test_srft_leaves_rows_without_a_reward_alone():
    objective = given.recipe("srft")
    view, batch = given.needed(objective, *given.rows(1))
    gone = given.prepared(objective, batch._replace(reward_N=batch.reward_N.at[1].set(jnp.nan)))
    assert not np.any(given.differentiated(objective, view, gone)[2].logp_NxT[1])


def test_the_sampler_weight_leaves_demonstrations_alone():
    capped, view, batch = given.ready("luffy", sampler_cap=1.5, entropy_coef=0.0)
    plain, _, same = given.ready("luffy", entropy_coef=0.0)
    shown = np.asarray(batch.demonstration_NxT) > 0
    got, expected = (given.differentiated(o, view, batch)[2].logp_NxT for o in (capped, plain))
    np.testing.assert_allclose(np.asarray(got)[shown], np.asarray(expected)[shown], rtol=1e-12)


def test_only_sampled_tokens_say_how_far_a_row_is_off_policy_and_what_is_clipped():
    """A row of three demonstrated tokens (b - l = 0) and one sampled one that is 1 nat off: its mean is 1, not 1/4."""
    objective = objectives.get("uft", off_policy_limit=0.5, kl_place="none", kl_coef=0.0)
    logp = jnp.full((2, 4), -2.0)
    shown = jnp.asarray([[1.0, 1, 1, 0]] * 2)
    batch = objectives.Batch(None, None, jnp.ones((2, 4)), behaviour_NxT=logp + (1 - shown), demonstration_NxT=shown,
                             advantage_NxT=jnp.asarray([[-1.0] * 4, [1.0] * 4]))
    view = objectives.View(logp, entropy_NxT=jnp.asarray([[9.0, 9, 9, 1]] * 2))
    np.testing.assert_array_equal(objective.off_policy(view, batch), [[True] * 4, [False] * 4])
    _, aux = objective.token_loss(view, batch, None)
    assert float(aux["entropy"][0]) == 2 and float(aux["entropy"][1]) == float(aux["clipped"][1]) == 2
