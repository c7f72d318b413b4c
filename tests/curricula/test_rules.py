"""Each rule against plain numpy on recorded feedback, its draws against their distribution, and what all rules have in common.

Recorded once a rule: its plans, rewards of a policy that is better at items with small numbers, and the states after them.
"""

import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxpost import curricula
from jaxpost.curricula import rules
from jaxpost.curricula.base import Context, Feedback, Plan, Weights

M, B, G, STEPS = 12, 6, 4, 40
DIFFICULTY = tuple(float(i % 3) for i in range(M))
KNOWN = {"pool": M, "difficulty": DIFFICULTY, "steps": STEPS}
OWN = {"knapsack": {"average": 2}, "gvm": {"average": 3, "least": 1}, "cures": {"average": 3, "least": 1},
       "pods": {"keep": 2}, "self_paced": {"every": 10}, "length_budget": {"every": 10}, "dump": {"window": 20},
       "alp_gmm": {"knobs": (("width", 1, 4),), "fit": 30, "kept": 60, "components": 3, "iterations": 5},
       "tscl_naive": {"window": 4}, "tscl_window": {"window": 4}, "tscl_sampling": {"window": 4},
       "plr": {"rate": 0.5, "fill": 0.4}, "robust_plr": {"fill": 0.4}}

WIDTHS = {"knobs": (("width", 1, 4), ("depth", 0, 2))}
LEVELS = {"levels": (("width", (1, 4)),)}
# Rules whose tests run them compiled, and the settings that they need here.
COMPILED_ELSEWHERE = {"covar_gmm": WIDTHS, "riac": WIDTHS, "adr": WIDTHS, "spdl": WIDTHS, "goal_gan": WIDTHS, "saturn": LEVELS,
                      "masked_spans": LEVELS, "sari": {}, "progressive_context": {}, "designer": {},
                      "active_self_paced": {}, "pcl": {"width": 2}, "d3s_tokens": {}, "clpo": {}, "uds": {"among": 3},
                      "ghpo_next_visit": {}, "scaffold": {}, "reasoning_quota": {}, "staged_length": {"tokens": (2, 3)},
                      "interaction_horizon": {}, "auto_cei": {}}


def rule_of(name, **settings):
    known = {key: value for key, value in KNOWN.items() if key in rules.takes(name)}
    return curricula.get(name, **known | OWN.get(name, {}) | settings)


def feedback_of(plan, step, rng):
    chance_B = np.clip(1.1 - (np.asarray(plan.index_B) % M) / M, 0.05, 0.95)
    reward = (rng.uniform(size=(B, G)) < chance_B[:, None]).astype(np.float32)
    count_B = np.full(B, G) if plan.rollouts_B is None else np.asarray(plan.rollouts_B)
    used = (np.arange(G)[None] < count_B[:, None]).astype(np.float32)
    advantage = (reward - reward.mean(axis=1, keepdims=True)) / (reward.std(axis=1, keepdims=True) + 1e-6)
    loss = rng.uniform(0, 2, size=(B, G)).astype(np.float32)
    return Feedback(jnp.int32(step), plan, *map(jnp.asarray, (used, reward, advantage, used + 1, loss)))


def once(function):
    """Compiled, and refused when traced a second time: states of all shapes and values go through one program."""
    traces = itertools.count(1)

    def counted(*args):
        assert next(traces) == 1, "traced a second time"
        return function(*args)

    return jax.jit(counted)


def programs(rule, wrap=once):
    return wrap(lambda state, key, plan, step: rule.sample(state, key, plan, Context(step, G))), wrap(rule.observe)


def run(rule, steps, wrap=once):
    """[(state before, plan, feedback, weights, state after)]"""
    sample, observe = programs(rule, wrap)
    rng, state, out = np.random.default_rng(0), rule.init(jax.random.key(7)), []
    for step in range(steps):
        before, key = state, jax.random.key(100 + step)
        state, plan = sample(state, key, curricula.blank(key, B), jnp.int32(step))
        feedback = feedback_of(plan, step, rng)
        state, weights = observe(state, feedback, Weights())
        out.append((before, plan, feedback, weights, state))
    return out


@functools.cache
def record(name):
    return run(rule_of(name), STEPS)


def rollouts(feedback):
    """(item, used, reward, |advantage|) of every rollout, in order."""
    columns = (feedback.used_BxG, feedback.reward_BxG, jnp.abs(feedback.advantage_BxG))
    return zip(np.repeat(np.asarray(feedback.plan.index_B), G), *(np.asarray(x).reshape(-1) for x in columns))


def means(feedback, key_of, column):
    """{key: mean over the used rollouts} of one feedback."""
    lists = collections.defaultdict(list)
    for row in rollouts(feedback):
        if row[1]:
            lists[key_of(row[0])].append(row[column])
    return {key: np.mean(x) for key, x in lists.items()}


def arm(item):
    return int(DIFFICULTY[item])


def drawn_like(rule, state, probability, plan=None, key_of=arm, draws=500, step=STEPS):
    """p-value of the chi-square of the keys of 500 batches against their probability."""
    key = jax.random.key(11)
    sample = jax.jit(jax.vmap(lambda key: rule.sample(state, key, curricula.blank(key, B), Context(step, G))[1].index_B))
    found = collections.Counter(key_of(item) for item in np.asarray(sample(jax.random.split(key, draws))).reshape(-1))
    live = [k for k, p in enumerate(probability) if p > 0]
    assert set(found) <= set(live)
    return stats.chisquare([found[k] for k in live], np.asarray(probability, float)[live] * draws * B).pvalue


@pytest.mark.parametrize("decays", [True, False])
def test_sec(decays):
    rule = rule_of("sec", decay_undrawn=decays)
    steps = run(rule, 15)
    q = np.zeros(3)
    for _, _, feedback, _, after in steps:
        reward = means(feedback, arm, 3)
        q = np.array([0.5 * q[a] + 0.5 * reward[a] if a in reward else (0.5 * q[a] if decays else q[a]) for a in range(3)])
        np.testing.assert_allclose(after["q_A"], q, atol=1e-5)
    assert drawn_like(rule, after, np.exp(q) / np.exp(q).sum()) > 1e-3


def test_an_arm_that_sec_does_not_draw_decays_as_published():
    rule, state = rule_of("sec"), rule_of("sec").init(jax.random.key(0)) | {"q_A": jnp.asarray([0.8, 0, 0])}
    plan = Plan(jnp.full(B, 1, jnp.uint32))
    for step in range(3):
        state, _ = rule.observe(state, feedback_of(plan, step, np.random.default_rng(0)), Weights())
    np.testing.assert_allclose(state["q_A"][0], 0.1, atol=1e-6)


def test_dump():
    lists, rule, after = [[], [], []], rule_of("dump"), record("dump")[-1][-1]
    for _, _, feedback, *_ in record("dump"):
        for item, used, _, absolute in rollouts(feedback):
            lists[arm(item)] += [absolute] * bool(used)
    count = np.array([len(x) for x in lists])
    np.testing.assert_array_equal(after["count_A"], count)
    bound = [np.mean(x[-20:]) + np.sqrt(2 * np.log(count.sum() + 1) / (len(x) + 1)) for x in lists]
    weight = np.exp((np.array(bound) - max(bound)) / 0.1)
    assert drawn_like(rule, after, weight / weight.sum()) > 1e-3


@pytest.mark.parametrize("variant", ["online", "naive", "window", "sampling"])
def test_tscl(variant):
    rule, window = rule_of(f"tscl_{variant}"), 10 if variant == "online" else 4
    q, last, seen, after = np.ones(3), {}, [[], [], []], record(f"tscl_{variant}")[-1][-1]
    for tick, (_, _, feedback, *_) in enumerate(record(f"tscl_{variant}"), 1):
        for a, success in means(feedback, arm, 2).items():
            change = success - last.get(a, success)
            q[a] = 0.9 * q[a] + 0.1 * change if variant == "online" else q[a]
            seen[a].append((tick, success, change))
            last[a] = success
        if variant == "naive" and tick % window == 0:
            for a in range(3):
                block = [x for x in seen[a] if x[0] > tick - window]
                q[a] = 0.9 * q[a] + 0.1 * np.polyfit(*zip(*[x[:2] for x in block]), 1)[0] if len(block) > 1 else q[a]
    if variant in ("online", "naive"):
        np.testing.assert_allclose(after["q_A"], q, atol=1e-5)
        value_A = np.abs(q)
        probability = 0.1 / 3 + 0.9 * (value_A == value_A.max())
    elif variant == "window":
        value_A = np.abs([np.polyfit(*zip(*[x[:2] for x in seen[a][-window:]]), 1)[0] for a in range(3)])
        probability = 0.1 / 3 + 0.9 * (value_A == value_A.max())
    else:
        wanted = [sorted(x[2] for x in seen[a][-window:]) for a in range(3)]
        np.testing.assert_allclose(np.sort(after["change_AxK"], axis=1), wanted, atol=1e-6)
        change_AxK = np.array([[0.9, 0.1, 0.2, 0.3], [-0.8, 0.4, 0.0, 0.05], [0.6, 0.7, 0.15, 0.0]])
        after = after | {"change_AxK": jnp.asarray(change_AxK), "count_A": jnp.asarray([9, 4, 1])}  # the last arm holds one
        held = [np.abs(change_AxK[0]), np.abs(change_AxK[1]), np.abs(change_AxK[2, :1])]
        winner = [int(np.argmax([x[i] for x, i in zip(held, place)])) for place in np.ndindex(*map(len, held))]
        probability = 0.1 / 3 + 0.9 * np.bincount(winner, minlength=3) / len(winner)
    assert drawn_like(rule, after, probability) > 1e-3


def test_prioritised_replay_and_that_new_levels_do_not_train_when_robust():
    score, drawn, rule = {}, {}, rule_of("plr", replay=1.0)
    for step, (_, plan, feedback, _, after) in enumerate(record("plr")):
        for item, value in means(feedback, int, 3).items():
            score[item] = 0.5 * score[item] + 0.5 * value if item in score else value
        drawn |= {int(item): step for item in plan.index_B}
        np.testing.assert_allclose([after["score_M"][i] for i in score], list(score.values()), atol=1e-5)
    order = sorted(score, key=lambda i: (-float(after["score_M"][i]), i))
    power = np.array([(order.index(i) + 1.0) ** (-1 / 0.1) if i in score else 0 for i in range(M)])
    stale = np.array([STEPS - drawn[i] if i in score else 0 for i in range(M)], float)
    wanted = 0.9 * power / power.sum() + 0.1 * stale / stale.sum()
    np.testing.assert_allclose(rule.probabilities(after, STEPS), wanted, atol=1e-5)
    assert drawn_like(rule, after, wanted, key_of=int) > 1e-3
    for before, plan, *_ in record("robust_plr"):
        assert not bool(plan.train) or np.asarray(before["seen_M"])[np.asarray(plan.index_B)].all()
    assert len({bool(plan.train) for _, plan, *_ in record("robust_plr")}) == 2


def test_knapsack_counts_and_keeps_the_budget():
    rule, rewards = rule_of("knapsack", average=3, window=4, known=4), collections.defaultdict(list)
    for before, plan, feedback, weights, after in run(rule, 25):
        assert int(plan.rollouts_B.sum()) == 3 * B and int(plan.rollouts_B.min()) >= 2 and int(plan.rollouts_B.max()) <= G
        assert weights == Weights() and before is not after
        visits = collections.defaultdict(list)
        for item, used, reward, _ in rollouts(feedback):
            if used and item < M:
                visits[item].append(reward)
        for item, found in visits.items():
            rewards[item] += [found]
    plan = Plan(jnp.arange(B, dtype=jnp.uint32))
    for step in range(4):
        feedback = feedback_of(plan, step, np.random.default_rng(step))
        for item, _, reward, _ in rollouts(feedback):
            rewards[item] += [[]] if not rewards[item] or len(rewards[item][-1]) >= G else []
            rewards[item][-1].append(reward)
        after, _ = rule.observe(after, feedback, Weights())
    p_M = np.asarray(rule.success(after))
    for item, visits in rewards.items():
        wanted = np.mean(visits[-1]) if len(visits[-1]) >= 4 else np.mean(np.concatenate(visits)[-4:])
        np.testing.assert_allclose(p_M[item], wanted, atol=1e-6)


def test_what_knapsack_cannot_use_goes_to_the_hardest():
    rule = curricula.get("knapsack", pool=1)
    p_B, known_B = jnp.asarray([0.0, 0.0, 1.0, 0.5, 0.9]), jnp.asarray([True] * 5)
    count = np.asarray(rule.allocate(p_B, known_B, 80, 64))
    useful = int(np.ceil(sum(np.log(0.1) / np.log(max(p, 1 - p)) - 2 for p in (0.5, 0.9))))  # of the two in between
    assert count.sum() == 80 and count[3:].sum() == 4 + useful and count[2] == 2 and abs(count[0] - count[1]) <= 1
    assert rule.allocate(p_B, ~known_B, 40, 64).tolist() == [8] * 5


@pytest.mark.parametrize("name", ["cures", "gvm"])
def test_counted_rules(name):
    success, failure, after = np.zeros(M), np.zeros(M), record(name)[-1][-1]
    for _, plan, feedback, *_ in record(name):
        p_M = (1 + success) / (2 + success + failure)
        if name == "cures":
            weight_B = np.sqrt(p_M * (1 - p_M))[np.asarray(plan.index_B)]
            assert len(set(np.asarray(plan.index_B))) == B
        else:
            p_B = np.where(np.asarray(plan.index_B) < M, p_M[np.minimum(plan.index_B, M - 1)], 0.5)
            weight_B = 1 / np.sqrt(p_B + 1e-3 / p_B)
        count_B = np.asarray(plan.rollouts_B)
        share_B = 1 + 2 * B * weight_B / weight_B.sum()
        assert count_B.sum() == 3 * B and count_B.min() >= 1 and count_B.max() <= G
        if share_B.max() < G - 1:
            assert np.abs(count_B - share_B).max() < 1
        for item, used, reward, _ in rollouts(feedback):
            if used and item < M:
                success[item] += reward
                failure[item] += 1 - reward
    np.testing.assert_array_equal(after["success_M"], success)
    np.testing.assert_array_equal(after["failure_M"], failure)


def test_cures_draws_by_the_softmax_of_the_deviation():
    rule = rule_of("cures", average=0)
    state = {"success_M": jnp.arange(M, dtype=jnp.float32), "failure_M": jnp.full(M, 3.0)}
    p = (1 + np.arange(M)) / (5 + np.arange(M))
    weight = np.exp(np.sqrt(p * (1 - p)) / 0.1)
    first = jax.jit(jax.vmap(lambda key: rule.sample(state, key, curricula.blank(key, B), Context(0, G))[1].index_B[0]))
    found = np.bincount(first(jax.random.split(jax.random.key(3), 4000)), minlength=M)
    assert stats.chisquare(found, weight / weight.sum() * 4000).pvalue > 1e-3


def test_filters_and_weights():
    plan, rng = Plan(jnp.arange(B, dtype=jnp.uint32)), np.random.default_rng(3)
    feedback = feedback_of(plan, 20, rng)
    reward, advantage, loss = (np.asarray(x) for x in (feedback.reward_BxG, feedback.advantage_BxG, feedback.loss_BxG))
    p_B = reward.mean(axis=1)

    def weights(name, **settings):
        return rule_of(name, **settings).observe({}, feedback, Weights())[1]

    keep = weights("difficulty_filter", low=0.25, high=0.75).keep_BxG
    np.testing.assert_array_equal(keep, np.repeat(((p_B >= 0.25) & (p_B <= 0.75))[:, None], G, 1))
    keep = np.asarray(weights("pods").keep_BxG)
    assert (keep.sum(axis=1) == 2).all()
    assert [np.var(r[k > 0]) == 0.25 for r, k in zip(reward, keep)] == [0 < p < 1 for p in p_B]
    train = np.asarray(weights("d3s", first=0.25, last=0.75).train_BxG)  # half way
    assert train.sum() == B * G // 2
    best = max(np.var(np.r_[np.sort(advantage, axis=None)[:k], np.sort(advantage, axis=None)[k - B * G // 2:]])
               for k in range(1, B * G // 2))
    np.testing.assert_allclose(np.var(advantage[train > 0]), best, atol=1e-5)
    medium = weights("vl_cogito").scale_BxG  # step 20 of 40 is of the second stage
    np.testing.assert_allclose(medium, np.repeat(np.sin(np.pi * p_B)[:, None], G, 1), atol=1e-6)
    pace = 1.3**2
    np.testing.assert_array_equal(weights("self_paced").keep_BxG, loss < pace)
    linear = weights("self_paced", regulariser="linear").scale_BxG
    np.testing.assert_allclose(linear, np.maximum(0, 1 - loss / pace), atol=1e-6)


def test_orders():
    easy = np.argsort(DIFFICULTY, kind="stable")
    for name, order_M in (("easy_to_hard", easy), ("hard_to_easy", np.argsort(-np.asarray(DIFFICULTY), kind="stable")),
                          ("random_order", np.asarray(record("random_order")[0][0]["order_M"]))):
        assert sorted(order_M) == list(range(M))
        for step, (_, plan, *_) in enumerate(record(name)):
            share = 0.2 + 0.8 * min(step / 20, 1)
            assert set(np.asarray(plan.index_B)) <= set(order_M[:int(np.ceil(share * M - 1e-4))])
    state = record("easy_to_hard")[0][0]
    assert drawn_like(rule_of("easy_to_hard"), state, [1 / 3] * 3) > 1e-3
    for step, (_, plan, *_) in enumerate(record("curry")):
        assert set(np.asarray(plan.index_B)) <= set(easy[step * 3 // STEPS * 4:][:4])
    epochs = collections.defaultdict(set)
    for step, (_, plan, *_) in enumerate(record("cyclical")):
        epochs[step * 11 // STEPS] |= set(np.asarray(plan.index_B))
    shares = (0.25, 0.5, 1, 0.5, 0.25, 0.5, 1, 0.5, 0.25, 0.5, 1)
    assert all(len(seen) <= M * share for seen, share in zip(epochs.values(), shares, strict=True))


@pytest.mark.parametrize("pool", [12, 16])  # chunks of 3 and 4 in batches of 6: the whole pool takes 2 or 3 steps
def test_adcl_scores_sorts_and_trains_in_turn(pool):
    rule = curricula.get("adcl", pool=pool, chunks=4)
    order, score, size, phases = list(range(pool)), {}, pool // 4, []
    phases += [("score", -1, i) for i in range(-(-pool // B))] + [("train", 0, 0)]
    for chunk in (1, 2, 3, 0, 1):
        phases += [("score", chunk, 0), ("train", chunk, 0)]
    for (_, plan, feedback, _, _), (kind, chunk, i) in zip(run(rule, len(phases)), phases):
        first = max(chunk, 0) * size + i * B
        assert bool(plan.train) == (kind == "train")
        np.testing.assert_array_equal(plan.index_B, [order[(first + j) % pool] for j in range(B)])
        if kind == "score":
            score |= dict(zip(np.asarray(plan.index_B), np.asarray(feedback.reward_BxG).mean(axis=1)))
            if chunk >= 0:
                order[chunk * size:(chunk + 1) * size] = sorted(order[chunk * size:(chunk + 1) * size], key=lambda x: -score[x])
            elif i == -(-pool // B) - 1:
                order = sorted(order, key=lambda x: -score[x])


def test_alp_gmm_measures_progress_and_goes_where_it_is():
    rule, kept = rule_of("alp_gmm", explore=0.1), []
    sample, observe = programs(rule)
    state, rng = rule.init(jax.random.key(7)), np.random.default_rng(0)
    for step in range(20):  # success of width 4 jumps about, of others it stays
        key = jax.random.key(step)
        state, plan = sample(state, key, curricula.blank(key, B), jnp.int32(step))
        width_B = np.asarray(plan.knobs["width"])
        assert set(width_B) <= {1, 2, 3, 4}
        reward = np.where(width_B == 4, rng.integers(0, 2, B), 0.5).astype(np.float32)
        feedback = feedback_of(plan, step, rng)._replace(reward_BxG=jnp.asarray(np.repeat(reward[:, None], G, 1)))
        nearest = [int(np.argmin([abs(w - x) for x, _ in kept])) if kept else None for w in width_B]
        wanted = [0 if i is None else abs(r - kept[i][1]) for i, r in zip(nearest, reward)]
        slots = (len(kept) + np.arange(B)) % 60 if len(kept) < 60 else (step * B + np.arange(B)) % 60
        state, _ = observe(state, feedback, Weights())
        np.testing.assert_allclose(np.asarray(state["alp_W"])[slots], wanted, atol=1e-6)
        for slot, pair in zip(slots, zip(width_B, reward)):
            kept[slot:slot + 1] = [pair]
    last = jax.vmap(lambda key: rule.sample(state, key, curricula.blank(key, B), Context(0, G))[1].knobs["width"])
    widths = np.asarray(last(jax.random.split(jax.random.key(1), 50)))
    assert (widths == 4).mean() > 0.5


@pytest.mark.parametrize("name", [name for name in rules.RULES if name not in COMPILED_ELSEWHERE])
def test_compiled_once_and_as_without_compilation(name):
    """Every step of a record went through the same two programs; draws are equal, and numbers within rounding."""
    steps = record(name)
    for compiled, eager in zip(steps, run(rule_of(name), 2, lambda program: program)):
        for a, b in zip(jax.tree.leaves(compiled[1:]), jax.tree.leaves(eager[1:]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", COMPILED_ELSEWHERE)
def test_a_step_leaves_a_state_of_the_same_shapes(name):
    """So a rule is traced once, whatever it has learned; the batch is one that a source could give."""
    rule = rule_of(name, **COMPILED_ELSEWHERE[name])
    more = {"counted_BxGxT": jnp.ones((B, G, 3)), "entropy_BxGxT": jnp.ones((B, G, 3)), "logits_BxTxV": jnp.ones((B, 3, 5))}

    def step(state, key, step):
        context = Context(step, G, lambda index: jnp.ones((index.shape[0], 2)))
        state, plan = rule.sample(state, key, curricula.blank(key, B), context)
        one = jnp.ones((B, G))
        feedback = Feedback(step, plan, one, one, one, one, jnp.ones((B, 1 if name == "active_self_paced" else G)), **more)
        return rule.observe(state, feedback, Weights())[0], plan

    key = jax.random.key(0)
    before = jax.eval_shape(rule.init, key)
    after, plan = jax.eval_shape(step, before, key, jnp.int32(3))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(lambda x: (x.shape, x.dtype), after)
    assert plan.index_B.shape == (B,) and plan.index_B.dtype == jnp.uint32


def test_chains_are_associative_and_keep_the_problems_of_their_sampler():
    a, b, c = rule_of("sec"), rule_of("knapsack"), rule_of("vl_cogito")
    left, right = curricula.chain(curricula.chain(a, b), c), curricula.chain(a, curricula.chain(b, c))
    assert left == right and hash(left) == hash(right) and curricula.chain(a) is a
    assert left.needs == {"advantage", "reward", "rollouts", "scale"} and not left.probes
    for (_, plan, _, weights, _), (_, alone, *_) in zip(run(left, 1), run(a, 1)):
        np.testing.assert_array_equal(plan.index_B, alone.index_B)
        assert plan.rollouts_B is not None and weights.scale_BxG is not None
    both = Weights(scale_BxG=jnp.full((1, 2), 0.5)).times(keep=jnp.ones((1, 2)), scale=jnp.full((1, 2), 0.5))
    assert both.scale_BxG.tolist() == [[0.25, 0.25]] and both.train_BxG is None


@pytest.mark.parametrize("name, settings, message", [
    ("knapsak", {}, "curriculum 'knapsak' is not known; did you mean 'knapsack'"),
    ("pods", {"kep": 3}, "curriculum 'pods': setting 'kep' is not known; did you mean 'keep'"),
    ("tscl_naive", {"variant": "window"}, "setting 'variant' is not known"),
    ("sec", {"pool": 0}, "Sec chooses among the problems of a pool, and pool=0"),
    ("sec", {"pool": 2, "difficulty": (1.0, 1.0)}, "2 problems have 2 difficulties, 1 of them different"),
    ("vl_cogito", {}, "steps=0: the stages need the number of steps"),
    ("adcl", {"pool": 10}, "chunks=4 does not divide the pool of 10; nearest valid: 5"),
    ("alp_gmm", {}, r"knobs=\(\): expected")])
def test_mistakes_are_one_line(name, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        curricula.get(name, **settings)
    assert "\n" not in str(caught.value)
