"""Policy gradients against enumeration, finite differences and float64 numpy: clips, ratios, advantages, credit, identities."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import objectives
from jaxpost.objectives import advantages, clipping, kl, ratios, rewards
from tests.objectives import given


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


# ---- the clip table: both signs, every region, loss and slope -----------------------------------------------------------

def surrogate(ratio, sign, low, high):
    bound = np.clip(ratio, 1 - low, 1 + high)
    held = bound * sign < ratio * sign
    return -min(ratio * sign, bound * sign), 0.0 if held else -sign


def dual(ratio, sign, low, high, c):
    loss, slope = surrogate(ratio, sign, low, high)
    return (c, 0.0) if sign < 0 and loss > c else (loss, slope)


def weight(ratio, sign, low, high):
    """-sg(clip(r)) A l at o = 0, l = log r: its slope in l."""
    bound = np.clip(ratio, 1 - low, 1 + high)
    return -bound * sign * np.log(ratio), -bound * sign / ratio


def gate(ratio, sign, tau):
    s = 1 / (1 + np.exp(-tau * (ratio - 1)))
    return -4 / tau * s * sign, -4 * s * (1 - s) * sign


def vespo(ratio, sign, k, rate):
    phi = np.exp(rate + k * np.log(ratio) - rate * ratio)
    return -phi * sign * np.log(ratio), -phi * sign / ratio


CLIPS = {  # name: (row and parts, (ratio, sign) -> (loss, d loss / d ratio))
    "symmetric": (("grpo", {}), lambda r, s: surrogate(r, s, 0.2, 0.2)),
    "asymmetric": (("dapo", {}), lambda r, s: surrogate(r, s, 0.2, 0.28)),
    "sequence": (("gspo", {}), lambda r, s: surrogate(r, s, 3e-4, 4e-4)),
    "sequence-token": (("gspo_token", {}), lambda r, s: surrogate(r, s, 3e-4, 4e-4)),
    "sequence-product": (("rloo", {}), lambda r, s: surrogate(r, s, 0.2, 0.2)),
    "dual": (("grpo", {"dual_clip": 1.5}), lambda r, s: dual(r, s, 0.2, 0.2, 1.5)),
    "ratio-cap": (("grpo", {"ratio_cap": 1.5}), lambda r, s: dual(r, s, 0.2, 0.2, 1.5)),
    "weight": (("cispo", {}), lambda r, s: weight(r, s, np.inf, 0.28)),
    "weight-floor": (("cispo", {"clip_low": 0.2}), lambda r, s: weight(r, s, 0.2, 0.28)),
    "capped-weight": (("cispo", {"clip": "capped_weight", "clip_cap": 1.4, "clip_high": None}),
                      lambda r, s: weight(r, s, np.inf, 0.4)),
    "gate": (("sapo", {}), lambda r, s: gate(r, s, 1.0 if s > 0 else 1.05)),
    "gamma-weight": (("vespo", {}), lambda r, s: vespo(r, s, *((2, 3) if s > 0 else (3, 2)))),
}


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("ratio", [0.3, 0.7999, 0.9999, 1.0, 1.00001, 1.2799, 1.45, 2.0])
@pytest.mark.parametrize("case", CLIPS)
def test_the_clip_table(case, ratio, sign):
    """One token a row: every level is the token's own ratio."""
    (name, parts), expected = CLIPS[case]
    objective = given.recipe(name, **parts)
    one = jnp.ones((1, 1))
    batch = objectives.Batch(None, None, one, behaviour_NxT=0 * one, advantage_NxT=sign * one)
    got = jax.value_and_grad(lambda r: objective.loss(objectives.View(jnp.log(r) * one), batch, {})[0])(ratio)
    np.testing.assert_allclose([float(x) for x in got], expected(ratio, sign), atol=1e-12)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("ratio, bounds", [(1.2, {"low": 0.2, "high": 0.2}), (0.8, {"low": 0.2, "high": 0.2}),
                                           (1.5, {"ratio_cap": 1.5})])
def test_a_ratio_at_a_bound_is_not_held(ratio, bounds, sign):
    """Its slope is that inside, as in PyTorch; a minimum of equal numbers followed by a clip would leave 3/4 or 1/2 of it."""
    def loss(r):
        return clipping.clipped(r, jnp.log(r), jnp.asarray(sign), **bounds)

    (x, held), slope = jax.value_and_grad(loss, has_aux=True)(ratio)
    assert (float(x), bool(held), float(slope)) == (-sign * ratio, False, -sign)


def test_what_is_held_in_bounds_keeps_its_slope_up_to_them():
    slopes = jax.vmap(jax.grad(lambda x: clipping.within(x, -0.5, 0.5)))(jnp.array([-0.6, -0.5, 0.0, 0.5, 0.6]))
    np.testing.assert_array_equal(slopes, [0, 1, 1, 1, 0])
    assert float(jax.grad(lambda x: kl.estimate(x, 0.0, "k1", clamp=0.5))(0.5)) == 1
    assert float(jax.grad(lambda x: kl.estimate(x, 0.0, "k1", log_ratio_clamp=0.5))(-0.5)) == 1
    one = jnp.ones((1, 1))
    slope = jax.grad(lambda x: ratios.ratio(x * one, 0 * one, one, "token", 0.5)[0, 0])(0.5)
    assert float(slope) == pytest.approx(np.exp(0.5), rel=1e-12)


# ---- identities by enumeration ----------------------------------------------------------------------------------------------

ON_POLICY = ["grpo", "dr_grpo", "dapo", "gspo", "gspo_token", "cispo", "luspo", "sapo", "vespo", "reinforce_pp", "rloo", "ppo"]


@pytest.mark.parametrize("name", ON_POLICY)
def test_on_policy_gradients_coincide_up_to_aggregation(name):
    """At r = 1: d loss / d l = -A m / (what the aggregation divides a token by), and -A n for a row's product ratio."""
    view, batch = given.rows(3)
    batch = batch._replace(behaviour_NxT=view.logp_NxT, proximal_NxT=None, truncated_N=0 * batch.truncated_N)
    own = {"ppo": {"value_coef": 0.0}, "reinforce_pp": {"gamma": 0.9}}.get(name, {})
    objective = given.recipe(name, kl_place="none", kl_estimator="k3", kl_coef=0.0, **own)
    batch = given.prepared(objective, batch)
    _, count, grads = given.differentiated(objective, view, batch)
    mask, A = np.asarray(batch.mask_NxT), np.asarray(batch.advantage_NxT)
    tokens = mask.sum(1, keepdims=True)
    share = {"sequence": 1 / tokens}.get(objective.aggregation, 1.0) * mask
    if objective.ratio == "sequence_product":  # the ratio of a row is its tokens' product: each token moves all terms
        share = mask
    np.testing.assert_allclose(grads.logp_NxT / count, -A * share / count, atol=1e-13)


def enumerated_gradient(name, theta, reward, group, **parts):
    """E[d loss / d theta] over every group of single-token samples of softmax(theta), on policy."""
    logp, p = jax.nn.log_softmax(theta), np.asarray(jax.nn.softmax(theta))
    objective = given.recipe(name, **parts)
    total = 0.0
    for actions in itertools.product(range(len(p)), repeat=group):
        index = jnp.asarray(actions)
        one = jnp.ones((group, 1))
        batch = objectives.Batch(None, None, one, reward_N=reward[index], behaviour_NxT=logp[index][:, None])
        batch = objective.prepare(batch, group)

        def loss(t, index=index, batch=batch):
            s, count, _ = objective.loss(objectives.View(jax.nn.log_softmax(t)[index][:, None]), batch, {})
            return s / count

        total = total + np.prod(p[list(actions)]) * jax.grad(loss)(theta)
    return total


@pytest.mark.parametrize("name, parts, factor", [
    ("rloo", {}, 1.0),  # unbiased
    ("reinforce", {"baseline": "none"}, 1.0),
    ("reinforce", {}, 2 / 3),  # the sample's own reward in the group mean shrinks the gradient by (G - 1) / G
    ("dr_grpo", {"aggregation_length": 1}, 2 / 3)])
def test_the_expected_gradient_by_enumeration(name, parts, factor):
    theta, reward = jnp.asarray([0.3, -0.5, 1.1]), jnp.asarray([1.0, 0.2, -0.4])
    exact = -jax.grad(lambda t: jax.nn.softmax(t) @ reward)(theta)
    np.testing.assert_allclose(enumerated_gradient(name, theta, reward, 3, **parts), factor * exact, atol=1e-14)


def test_kl_terms_with_other_gradients_by_enumeration():
    """Straight-through k2 on policy, and ratio-weighted k3 off policy, both have the gradient of KL(pi||ref) in expectation."""
    rng = np.random.default_rng(1)
    theta, ref, old = (jnp.asarray(x) for x in rng.normal(size=(3, 5)))
    ref, old = jax.nn.log_softmax(ref), jax.nn.log_softmax(old)
    exact = jax.grad(lambda t: jnp.sum(jax.nn.softmax(t) * (jax.nn.log_softmax(t) - ref)))(theta)

    def expected(weights, term):
        return weights @ jax.jacobian(lambda t: term(jax.nn.log_softmax(t)))(theta)

    through = expected(jax.nn.softmax(theta), lambda l: kl.penalty(l, ref, "k3", "straight_through_k2"))  # noqa: E741
    np.testing.assert_allclose(through, exact, atol=1e-14)
    weighted = expected(jnp.exp(old), lambda l: kl.penalty(l, ref, "k3", "ratio_weighted", jnp.exp(l - old)))  # noqa: E741
    np.testing.assert_allclose(weighted, exact, atol=1e-14)
    value = kl.penalty(jax.nn.log_softmax(theta), ref, "k3", "straight_through_k2")
    np.testing.assert_allclose(value, kl.estimate(jax.nn.log_softmax(theta), ref, "k3"), atol=1e-15)


def test_the_full_kl_in_the_loss_is_the_exact_divergence():
    objective, view, batch = given.ready("grpo", kl_place="loss", kl_estimator="full", kl_coef=1.0)
    aux = objective.loss(view, batch, {})[2]
    p, q = (np.asarray(jax.nn.softmax(x)) for x in (view.logits_NxTxV, view.reference_NxTxV))
    expected = ((p * np.log(p / q)).sum(-1) * batch.mask_NxT).sum()
    assert float(aux["kl"][0]) == pytest.approx(float(expected), rel=1e-12)


# ---- advantages --------------------------------------------------------------------------------------------------------------

def test_missing_rewards_are_left_out_of_every_mean():
    r = np.asarray([[1.0, np.nan, 0.0, 4.0], [np.nan, np.nan, 2.0, np.nan], [np.nan] * 4])
    got = np.asarray(advantages.advantage(jnp.asarray(r), baseline="mean", scale="group"))
    left = np.asarray([1.0, 0.0, 4.0])
    z = (left - left.mean()) / (left.std(ddof=1) + 1e-4)
    np.testing.assert_allclose(got, [[z[0], 0, z[1], z[2]], [0] * 4, [0] * 4], atol=1e-12)
    got = np.asarray(advantages.advantage(jnp.asarray(r), baseline="leave_one_out"))[0]
    np.testing.assert_allclose(got, [1 - 2, 0, 0 - 2.5, 4 - 0.5], atol=1e-12)


@pytest.mark.parametrize("recipe", ["grpo", "dr_grpo", "rloo", "gspo", "dapo", "cispo"])
def test_a_lone_reward_has_nothing_to_be_compared_with(recipe):
    """Default 0 (TRL); "reward" is the reward itself, not scaled (verl)."""
    _, batch = given.needed(given.recipe(recipe), *given.rows(lengths=[3] * 8))
    batch = batch._replace(reward_N=jnp.asarray([0.3, 1.0, 0.0, 1.0, np.nan, 0.7, np.nan, np.nan]))
    lengths = {"overlong_limit": None, "overlong_cache": 0} if recipe == "dapo" else {}
    zero = given.recipe(recipe, **lengths).prepare(batch, 4).advantage_NxT[:, 0]
    raw = given.recipe(recipe, lone_reward="reward", **lengths).prepare(batch, 4).advantage_NxT[:, 0]
    np.testing.assert_array_equal(zero[4:], [0, 0, 0, 0])
    np.testing.assert_allclose(raw[4:], [0, 0.7, 0, 0], atol=1e-15)
    np.testing.assert_array_equal(zero[:4], raw[:4])
    assert np.all(np.asarray(zero[:4]) != 0)
    with pytest.raises(ValueError, match="with one sample a prompt gives every row advantage 0; .*lone_reward='reward'"):
        given.recipe(recipe, **lengths).prepare(batch, 1)
    assert given.recipe(recipe, lone_reward="reward", **lengths).prepare(batch, 1).advantage_NxT[0, 0] == pytest.approx(0.3)


def test_whitening_over_rows_takes_empty_ones_where_asked_and_never_a_lone_reward():
    A = np.asarray([1.0, 2.0, 4.0, 7.0])
    mask = np.asarray([[1, 1], [0, 0], [0, 1], [1, 0]], float)
    wide = jnp.tile(jnp.asarray(A)[:, None], (1, 2))
    filled, every = A[[0, 2, 3]], A
    for counted, among in ((None, filled), (jnp.ones(4), every), (jnp.asarray([1, 1, 0, 1.0]), A[[0, 1, 3]])):
        got = advantages.whiten(wide, jnp.asarray(mask), "row", 1e-4, counted)
        np.testing.assert_allclose(got, ((A - among.mean()) / (among.std(ddof=1) + 1e-4))[:, None] * mask, atol=1e-12)
    reward = jnp.asarray([1.0, 0.0, 0.5, 0.2, 0.9, np.nan, np.nan, np.nan])
    for parts in ({}, {"aggregation_empty": "counted"}):
        for unit in ("row", "token"):
            if unit == "token" and parts:
                continue
            objective = given.recipe("rloo", whiten=unit, **parts)
            _, batch = given.needed(objective, *given.rows(lengths=[3] * 8))
            alone = objective.prepare(batch._replace(reward_N=reward), 4).advantage_NxT
            without = objective.prepare(batch._replace(reward_N=reward.at[4].set(np.nan)), 4).advantage_NxT
            np.testing.assert_array_equal(alone, without)


def test_scopes_of_mean_and_scale():
    r = np.random.default_rng(0).normal(size=(3, 4))
    for baseline, mean in (("mean", r.mean(1, keepdims=True)), ("batch_mean", r.mean()), ("none", 0.0)):
        for scale, std in (("none", 1.0), ("group", r.std(1, ddof=1, keepdims=True) + 1e-4), ("batch", r.std(ddof=1) + 1e-4)):
            got = advantages.advantage(jnp.asarray(r), baseline=baseline, scale=scale)
            np.testing.assert_allclose(got, (r - mean) / std, atol=1e-12)


def gae(reward, value, mask, gamma, lam):
    """Over the counted tokens of each row alone, as a list."""
    out = np.zeros_like(reward)
    for n in range(len(reward)):
        at = np.flatnonzero(mask[n])
        for i in range(len(at)):
            power = 1.0
            for j in range(i, len(at)):
                after = value[n, at[j + 1]] if j + 1 < len(at) else 0.0
                out[n, at[i]] += power * (reward[n, at[j]] + gamma * after - value[n, at[j]])
                power *= gamma * lam
    return out


def test_generalised_advantages_and_returns_bridge_what_is_masked():
    rng = np.random.default_rng(5)
    reward, value = rng.normal(size=(2, 6, 7))
    mask = (rng.uniform(size=(6, 7)) < 0.6).astype(float)
    mask[0], mask[1] = 0, 1
    for gamma, lam in ((1.0, 0.95), (0.9, 0.5), (0.99, 1.0), (0.9, 0.0)):
        got = advantages.generalised(*map(jnp.asarray, (reward, value, mask)), gamma, lam)
        np.testing.assert_allclose(got, gae(reward, value, mask, gamma, lam), atol=1e-12)
        back = advantages.returns(jnp.asarray(reward), jnp.asarray(mask), gamma)
        np.testing.assert_allclose(back, gae(reward, 0 * value, mask, gamma, 1.0), atol=1e-12)


def test_whitening_units():
    rng = np.random.default_rng(6)
    mask = np.asarray([[1, 1, 1], [1, 0, 0], [0, 0, 0], [0, 1, 1]], float)
    a_N = rng.normal(size=4)
    a = np.repeat(a_N[:, None], 3, 1)
    tokens = a[mask > 0]
    got = advantages.whiten(jnp.asarray(a), jnp.asarray(mask), "token")
    np.testing.assert_allclose(got, (a - tokens.mean()) / np.sqrt(tokens.var(ddof=1) + 1e-8) * mask, atol=1e-12)
    full = a_N[[0, 1, 3]]
    got = advantages.whiten(jnp.asarray(a), jnp.asarray(mask), "row", 1e-4)
    np.testing.assert_allclose(got, (a - full.mean()) / (full.std(ddof=1) + 1e-4) * mask, atol=1e-12)


def test_the_score_sits_on_the_last_counted_token():
    mask = jnp.asarray([[1., 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1]])
    got = advantages.on_last_token(jnp.asarray([0.7, 2, 3, 4]), mask)
    np.testing.assert_allclose(got, [[0, .7, 0], [0, 2, 0], [0, 0, 0], [0, 0, 4]])


# ---- rows whose advantage is their own -------------------------------------------------------------------------------------

def test_reinforce_pp_is_a_whitened_discounted_return_with_a_token_penalty():
    objective = given.recipe("reinforce_pp", kl_coef=0.3, gamma=0.9)
    _, batch = given.rows(4)
    got = objective.prepare(batch, given.GROUP).advantage_NxT
    mask, behaviour, reference = (np.asarray(x) for x in (batch.mask_NxT, batch.behaviour_NxT, batch.reference_NxT))
    G = np.zeros_like(mask)
    for n in range(len(mask)):
        carry = 0.0
        for t in range(int(mask[n].sum()) - 1, -1, -1):
            final = t == int(mask[n].sum()) - 1
            carry = float(batch.reward_N[n]) * final - 0.3 * (behaviour[n, t] - reference[n, t]) + 0.9 * carry
            G[n, t] = carry
    live = G[mask > 0]
    np.testing.assert_allclose(got, (G - live.mean()) / np.sqrt(live.var(ddof=1) + 1e-8) * mask, atol=1e-12)


def test_accepted_positive_and_informative_samples():
    ones = jnp.ones((8, 2))
    reward = jnp.asarray([1., 0, 0, 1, 1, 1, 1, 1])
    batch = objectives.Batch(None, None, ones, reward, -ones, reference_NxT=-ones)
    ready = lambda name, **parts: given.recipe(name, **parts).prepare(batch, 4)  # noqa: E731
    first = lambda name, **parts: np.asarray(ready(name, **parts).advantage_NxT[:, 0])  # noqa: E731
    np.testing.assert_allclose(first("raft", rejected="counted"), [2, 0, 0, 2, 1, 1, 1, 1])
    np.testing.assert_allclose(first("raft"), reward)
    np.testing.assert_allclose(ready("raft").mask_NxT[:, 0], reward)  # a rejected row is not in the mean
    np.testing.assert_allclose(ready("raft_pp", rejected="left_out").mask_NxT[:, 0], reward)
    np.testing.assert_allclose(first("raft_pp"), [1, 0, 0, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(first("reinforce_rej"), [1, -1, -1, 1, 0, 0, 0, 0])


def test_raft_is_the_likelihood_of_the_accepted_rows_alone():
    objective, view, batch = given.ready("raft")
    total, count, _ = objective.loss(view, batch, {})
    keep = np.asarray(given.rows()[1].mask_NxT) * (np.asarray(batch.reward_N) >= 1)[:, None]
    grads = np.asarray(given.differentiated(objective, view, batch)[2].logp_NxT)
    np.testing.assert_allclose(grads / float(count), -keep / keep.sum(), atol=1e-14)
    counted = given.ready("raft", rejected="counted")[0]
    assert "rows with A = 0 do not count" in "".join(objective.formula()) and counted.formula() != objective.formula()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_k3_is_constant_and_without_gradient_far_below_the_reference(dtype):
    d = jnp.asarray([-70.0, -88.5, -200.0, 3.0], dtype)
    value, slope = jax.vmap(jax.value_and_grad(lambda x: kl.estimate(x, jnp.zeros_like(x), "k3")))(d)
    assert value.dtype == dtype and np.isfinite(value).all()
    np.testing.assert_allclose(value, np.expm1([70.0, 80, 80, -3]) + [-70.0, -80, -80, 3], rtol=1e-6)
    np.testing.assert_allclose(slope, [1 - np.exp(70.0), 0, 0, 1 - np.exp(-3)], rtol=1e-6)


def test_dapo_penalises_long_rows_and_drops_truncated_ones():
    length = np.asarray([10, 16, 18, 20, 25])
    np.testing.assert_allclose(rewards.soft_overlong(jnp.asarray(length), 20, 4), [0, 0, -0.5, -1, -1])
    objective = objectives.get("dapo", overlong_limit=4, overlong_cache=2)
    mask = jnp.asarray([[1., 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    batch = objectives.Batch(None, None, mask, jnp.asarray([1., 1, 0, 0]), -mask, truncated_N=jnp.asarray([0., 0, 0, 1]))
    ready = objective.prepare(batch, 4)
    score = np.asarray([1 - 1, 1, 0 - 0.5, 0 - 1])  # the truncated row is out of the loss, not out of its group
    z = (score - score.mean()) / (score.std(ddof=1) + 1e-4)
    np.testing.assert_allclose(ready.advantage_NxT[:, 0], z, atol=1e-12)
    assert not np.any(ready.mask_NxT[3]) and float(ready.mask_NxT.sum()) == 9


def test_the_sampler_weight_is_truncated_and_constant():
    objective, view, batch = given.ready("grpo", sampler_cap=1.1)
    plain, _, same = given.ready("grpo")
    same = same._replace(proximal_NxT=batch.proximal_NxT)
    w = np.minimum(np.exp(batch.proximal_NxT - batch.behaviour_NxT), 1.1)
    got, base = (given.differentiated(o, view, b)[2].logp_NxT for o, b in ((objective, batch), (plain, same)))
    np.testing.assert_allclose(got, base * np.where(batch.mask_NxT > 0, w, 1.0), atol=1e-13)
    assert (np.exp(batch.proximal_NxT - batch.behaviour_NxT) > 1.1).any()


@pytest.mark.parametrize("level", ratios.SAMPLER_LEVELS)
@pytest.mark.parametrize("rule", ratios.SAMPLER_RULES)
@pytest.mark.parametrize("low, high", [(None, 1.2), (0.8, None), (0.8, 1.2)])
def test_corrections_for_the_sampler_against_loops(level, rule, low, high):
    objective, view, batch = given.ready("grpo", aggregation="token", sampler_level=level, sampler_rule=rule, sampler_floor=low,
                                         sampler_cap=high)
    raw = given.rows()[1]
    plain = given.recipe("grpo", aggregation="token")
    base = np.asarray(given.differentiated(plain, view, given.prepared(plain, raw))[2].logp_NxT)
    d, mask = np.asarray(raw.proximal_NxT - raw.behaviour_NxT), np.asarray(raw.mask_NxT)
    weight = np.zeros(d.shape)
    for n, t in zip(*np.nonzero(mask)):
        own = d[n][mask[n] > 0]
        w = np.exp({"token": d[n, t], "sequence": own.sum(), "geometric": own.mean()}[level])
        inside = (low or 0) <= w <= (high or np.inf)
        weight[n, t] = {"truncate": np.clip(w, low, high), "mask": w * inside, "reject": inside}[rule]
    total, count, grads = given.differentiated(objective, view, batch)
    np.testing.assert_allclose(np.where(mask > 0, grads.logp_NxT, 0), base * weight, atol=1e-13)
    assert count == ((weight > 0).sum() if rule == "reject" else mask.sum())
    assert (weight[mask > 0] != 1).any()


def test_rows_off_policy_carry_no_loss_where_the_advantage_is_negative():
    objective, view, batch = given.ready("deepseek_v3_2", N=16, off_policy_limit=0.05, kl_coef=0.0)
    plain = given.recipe("deepseek_v3_2", off_policy_limit=None, kl_coef=0.0)
    base = np.asarray(given.differentiated(plain, view, batch)[2].logp_NxT)
    got = np.asarray(given.differentiated(objective, view, batch)[2].logp_NxT)
    seen = set()
    for n in range(16):
        keep = np.asarray(batch.mask_NxT[n]) > 0
        away = np.asarray(batch.behaviour_NxT - view.logp_NxT)[n][keep].mean() > 0.05
        A = float(batch.advantage_NxT[n, 0])
        seen.add((A < 0, bool(away)))
        np.testing.assert_allclose(got[n], 0 * base[n] if away and A < 0 else base[n], atol=1e-14)
    assert len(seen) == 4


def test_a_log_ratio_clamp_holds_only_what_is_beyond_it():
    objective, view, batch = given.ready("grpo", log_ratio_clamp=0.1, clip_low=None, clip_high=None)
    grads = given.differentiated(objective, view, batch)[2].logp_NxT
    beyond = np.abs(view.logp_NxT - batch.behaviour_NxT) > 0.1
    live = (np.asarray(batch.mask_NxT) > 0) & (np.abs(batch.advantage_NxT) > 0)
    np.testing.assert_array_equal(np.asarray(grads)[live] == 0, beyond[live])


def test_remax_takes_the_outside_reward_as_its_baseline():
    objective, view, batch = given.ready("remax")
    _, raw = given.rows()
    A = (np.asarray(raw.reward_N) - np.asarray(raw.outside_N))[:, None] * np.ones((1, given.T))
    np.testing.assert_allclose(batch.advantage_NxT, A, atol=1e-12)
    _, count, grads = given.differentiated(objective, view, batch)
    np.testing.assert_allclose(grads.logp_NxT, -A * np.asarray(batch.mask_NxT), atol=1e-12)
    assert count == 8


def test_equal_rewards_have_no_advantage_whatever_their_mean_rounds_to():
    for eps in (1e-4, 1e-6, 1e-8):
        got = advantages.advantage(jnp.full((2, 7), 0.7, jnp.float32), baseline="mean", scale="group", eps=eps)
        assert not np.any(got)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("scale", ["group", "batch"])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out", "batch_mean", "length_weighted", "best_gap"])
def test_equal_rewards_have_no_advantage_without_an_eps(baseline, scale, dtype):
    """0 / 0, or a rounding error over a rounding error: the mean of three 0.1 need not be 0.1."""
    A = advantages.advantage(jnp.full((2, 3), 0.1, dtype), baseline=baseline, scale=scale, eps=0.0,
                             length_BxG=jnp.array([[1, 2, 3], [3, 1, 1]], dtype))
    np.testing.assert_array_equal(A, 0)
    np.testing.assert_array_equal(advantages.whiten(jnp.full((2, 7), 0.1, dtype), jnp.ones((2, 7), dtype), "row", 0.0), 0)


def test_k3_is_that_of_verl_with_its_clamps_and_finite_without():
    """verl's kl_penalty "low_var_kl": -d held in [-20, 20], the estimate in [-10, 10]; no gradient beyond either."""
    d = np.asarray([0.3, -0.3, 2.0, -2.0, -2.9, 15.0, -15.0, 30.0, -30.0, 100.0, -100.0, -700.0])
    behind = np.clip(-d, -20, 20)
    expected = np.clip(np.exp(behind) - behind - 1, -10, 10)
    estimate = lambda x, **held: kl.estimate(x, jnp.zeros_like(x), "k3", **held)  # noqa: E731
    held = {"clamp": 10.0, "log_ratio_clamp": 20.0}
    np.testing.assert_allclose(estimate(jnp.asarray(d), **held), expected, rtol=1e-12)
    slope = jax.vmap(jax.grad(lambda x: estimate(x, **held)))(jnp.asarray(d))
    free = (np.abs(d) < 20) & (np.abs(np.exp(behind) - behind - 1) < 10)
    np.testing.assert_allclose(slope, np.where(free, 1 - np.exp(-d), 0), rtol=1e-12)
    for dtype in (jnp.float32, jnp.float64):
        x = jnp.asarray(d, dtype)
        assert np.isfinite(estimate(x)).all() and np.isfinite(jax.vmap(jax.grad(estimate))(x)).all()
        np.testing.assert_allclose(estimate(x)[:9], (np.exp(-d) - 1 + d)[:9], rtol=2e-6)
    objective = given.recipe("grpo", kl_place="loss", kl_coef=0.1, kl_clamp=10.0, kl_log_ratio_clamp=20.0)
    _, view, batch = given.ready("grpo", kl_place="loss", kl_coef=0.1)
    far = batch._replace(reference_NxT=view.logp_NxT.at[0, 0].add(-4.0).at[1, 0].set(0.0))
    total, count, _ = objective.loss(view._replace(logp_NxT=view.logp_NxT.at[1, 0].set(-200.0)), far, {})
    assert np.isfinite(float(total / count))


@pytest.mark.parametrize("level", ["token", "sequence", "sequence_token", "sequence_product"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_no_ratio_overflows(level, sign):
    logp = jnp.full((2, 3), -500.0 if sign < 0 else -1e-3, jnp.float32)
    old = jnp.full((2, 3), -1e-3 if sign < 0 else -500.0, jnp.float32)
    for A in (1.0, -1.0):
        def loss(x, A=A):
            r = ratios.ratio(x, old, jnp.ones((2, 3), jnp.float32), level)
            return clipping.clipped(r, x, jnp.full((2, 3), A, jnp.float32), low=0.2, high=0.2)[0].sum()

        value, slope = jax.value_and_grad(loss)(logp)
        assert np.isfinite(value) and np.isfinite(slope).all()


@pytest.mark.parametrize("aggregation, length", [("token", None), ("constant", 5), ("constant_total", 7), ("sequence", None)])
@pytest.mark.parametrize("name", ["gspo", "gspo_token"])
def test_a_ratio_a_row_is_aggregated_in_any_mode(name, aggregation, length):
    """Rows of a token mean weigh by their length: verl's GSPO token mean, TRL's bnpo, dapo and dr_grpo with sequence ratios."""
    objective, view, batch = given.ready(name, clip_low=0.2, clip_high=0.2, aggregation=aggregation, aggregation_length=length)
    mask, A = np.asarray(batch.mask_NxT), np.asarray(batch.advantage_NxT)
    n = mask.sum(1, keepdims=True)
    r = np.exp(((np.asarray(view.logp_NxT) - np.asarray(batch.behaviour_NxT)) * mask).sum(1, keepdims=True) / n)
    x = -np.minimum(r * A, np.clip(r, 0.8, 1.2) * A) * mask
    expected = {"token": x.sum() / mask.sum(), "constant": x.sum() / (len(x) * 5), "constant_total": x.sum() / 7,
                "sequence": (x / n).sum() / len(x)}[aggregation]
    total, count, _ = objective.loss(view, batch, {})
    assert float(total / count) == pytest.approx(expected, rel=1e-12)


def test_a_cap_is_a_bound_or_a_distance_by_name():
    r, A = jnp.asarray([[0.1, 0.2, 1.0, 1.2, 1.3]]), jnp.ones((1, 5))
    capped = lambda **bound: -clipping.clipped(r, -A, A, rule="capped_weight", **bound)[0] * -1  # noqa: E731
    np.testing.assert_allclose(capped(cap=0.2), [[0.1, 0.2, 0.2, 0.2, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(capped(high=0.2), [[0.1, 0.2, 1.0, 1.2, 1.2]], rtol=1e-6)
    for parts in ({"clip_cap": 0.2, "clip_high": None}, {"clip_high": 0.2}):
        objectives.get("cispo", clip="capped_weight", **parts)


def test_tokens_that_cannot_be_taken_add_nothing_to_a_divergence_or_an_entropy():
    """Logits of -inf, as of a truncated or a barred vocabulary: values and gradients of the other entries alone."""
    logits, other = jnp.array([[[0.0, 1.0, -jnp.inf]]]), jnp.array([[[0.5, 0.2, -jnp.inf]]])
    for f in (lambda z: kl.entropy(z).sum(), lambda z: kl.full_vocabulary(z, other[..., :z.shape[-1]]).sum()):
        (x, slope), (alone, own) = (jax.value_and_grad(f)(z) for z in (logits, logits[..., :2]))
        np.testing.assert_allclose(x, alone, rtol=1e-12)
        np.testing.assert_allclose(slope[0, 0], [*own[0, 0], 0], atol=1e-14)
    assert float(kl.full_vocabulary(jnp.zeros((1, 1, 2)), jnp.array([[[0.0, -jnp.inf]]]))[0, 0]) == np.inf
