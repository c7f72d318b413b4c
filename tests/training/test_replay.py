"""The replay buffer against plain lists; replayed rows are those of earlier steps with their log-probabilities; refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import curricula, training
from jaxpost.training.replay import EMPTY, Buffered, Replay, _permuted

SHAPES = {"reward_N": jax.ShapeDtypeStruct((2,), jnp.float32), "completion_NxT": jax.ShapeDtypeStruct((2, 1), jnp.int32),
          "mask_NxT": jax.ShapeDtypeStruct((2, 1), jnp.float32)}


def fresh(names, rewards):
    return {"completion_NxT": jnp.repeat(jnp.asarray(names, jnp.int32), 2)[:, None],
            "reward_N": jnp.asarray(rewards, jnp.float32).reshape(-1), "mask_NxT": jnp.ones((2 * len(names), 1))}


@pytest.mark.parametrize("keep", ["newest", "best"])
def test_what_is_kept_is_what_a_list_would_keep(keep):
    rule, rng, entries = Replay(2, 5, 3, keep=keep), np.random.default_rng(0), []
    buffer = rule.empty(SHAPES)
    for step in range(8):
        rewards = rng.integers(0, 2, (3, 2)) * rng.choice([1.0, 0.5], (3, 1))
        names = [10 * step + i for i in range(3)]
        buffer = rule.insert(buffer, fresh(names, rewards), step, 2)
        entries += [(step, r.max() - r.mean(), name) for name, r in zip(names, rewards, strict=True)]
        young = [e for e in entries if step + 1 - e[0] <= 3]
        worth = (lambda e: e[1]) if keep == "best" else (lambda e: e[0])
        entries = sorted(young, key=worth, reverse=True)[:5]
        held = np.asarray(buffer["step_C"]) != EMPTY
        got = sorted(zip(np.asarray(buffer["step_C"])[held], np.asarray(buffer["rows"]["completion_NxT"])[held, 0, 0]))
        if keep == "newest":  # ties among the oldest: any of them
            assert sorted(s for s, _ in got) == sorted(e[0] for e in entries)
        else:
            np.testing.assert_allclose(sorted(np.asarray(buffer["score_C"])[held]), sorted(e[1] for e in entries), atol=1e-6)
        names_ok = {name for _, _, name in young}
        assert {int(n) for _, n in got} <= names_ok


def test_groups_are_drawn_once_and_by_their_score():
    rule = Replay(3, 6, 10, draw="score")
    rewards = [[1, 0], [0, 0], [1, 0.8], [1, 0], [1, 1], [np.nan, np.nan]]
    buffer = rule.insert(rule.empty(SHAPES), fresh(range(6), rewards), 4, 2)
    counts = np.zeros(6)
    for i in range(200):
        rows, age, valid = rule.sample(buffer, jax.random.key(i), 6)
        drawn = np.asarray(rows["completion_NxT"])[::2, 0][np.asarray(valid)]
        assert len(set(drawn)) == len(drawn) == 3 and (np.asarray(age)[np.asarray(valid)] == 2).all()
        counts[drawn] += 1
    assert counts[0] == counts[2] == counts[3] == 200  # the only groups whose rewards differ
    uniform = dataclasses.replace(rule, draw="uniform", groups=6)
    _, _, valid = uniform.sample(buffer, jax.random.key(0), 6)
    assert int(valid.sum()) == 5  # without the group that has no reward
    assert not np.any(uniform.sample(buffer, jax.random.key(0), 15)[2])  # too old
    shuffled = [dataclasses.replace(uniform, shuffled=True).sample(buffer, jax.random.key(i), 6)[0] for i in range(40)]
    own = {name: pair for name, pair in zip(range(6), rewards)}
    places = {tuple(np.asarray(rows["reward_N"])[np.asarray(rows["completion_NxT"])[:, 0] == 2]) for rows in shuffled}
    assert places == {(1.0, np.float32(0.8)), (np.float32(0.8), 1.0)}  # the same rewards, in either row
    for rows in shuffled[:3]:
        for name, pair in zip(np.asarray(rows["completion_NxT"])[::2, 0][:5], np.asarray(rows["reward_N"]).reshape(-1, 2)):
            np.testing.assert_array_equal(sorted(pair), sorted(np.float32(own[int(name)])))
    gaps = jnp.asarray([[1, 0, jnp.nan, 0.5], [jnp.nan, 1, jnp.nan, 0]])
    for i in range(20):  # a row without a reward stays one
        moved = np.asarray(_permuted(jax.random.key(i), gaps))
        np.testing.assert_array_equal(np.isnan(moved), np.isnan(gaps))
        np.testing.assert_array_equal(np.sort(moved, axis=1), np.sort(gaps, axis=1))
    masked = fresh([7], [[1, 0]]) | {"mask_NxT": jnp.zeros((2, 1))}  # of a step that probes: nothing of it counts
    assert not np.any(rule.insert(rule.empty(SHAPES), masked, 4, 2)["step_C"] != EMPTY)


def test_recent_groups_are_drawn_more_often():
    """TTI's weights of groups that were made at four different steps, one of them too old, against their frequencies."""
    rule = Replay(1, 8, 4, draw="recent")
    buffer = rule.empty(SHAPES)
    for step in range(4):
        buffer = rule.insert(buffer, fresh([2 * step, 2 * step + 1], [[1, 0], [0, 0]]), step, 2)
    draw = jax.jit(jax.vmap(lambda key: (rule.sample(buffer, key, 5)[0]["completion_NxT"][0, 0])))
    share = np.bincount(draw(jax.random.split(jax.random.key(0), 4000)), minlength=8) / 4000
    recency = np.array([0, 0, 2, 2, 4, 4, 6, 6])  # groups of step 0 are five batches old
    wanted = recency / recency.sum() / 2 + (recency > 0) / 6 / 2
    np.testing.assert_allclose(share, wanted, atol=4 * 0.5 / 4000**0.5)


@pytest.mark.parametrize("name", ["spear", *(
    pytest.param(name, marks=pytest.mark.slow) for name in ("remix", "grpo", "trajectory_balance"))])
def test_replayed_rows_are_those_of_earlier_steps(feed, name):
    rule = Replay(2, 8, 2)
    run = feed(name, make=lambda task, spec, prompts: training.Rollouts(task, prompts, spec, replay=rule), minibatches=2)
    assert run.source.rows == 24 and isinstance(run.source.curriculum, Buffered)
    state = run.state._replace(curriculum_state=run.source.curriculum.init(jax.random.key(0)))
    seen, batches = [], []
    for i in range(3):
        batch, metrics, _ = run.batch(run.member, state, run.params)
        batches.append(batch)
        old = np.asarray(batch.age_N) > 0
        assert float(metrics["replayed_rows"][0]) == old.sum() == (0 if i == 0 else 8)
        assert np.isnan(np.asarray(batch.reward_N)[16:]).all() == (i == 0)
        for row in np.flatnonzero(old):
            source = batches[i - int(batch.age_N[row])]
            same = [n for n in range(16) if all(np.array_equal(getattr(batch, f)[row], getattr(source, f)[n]) for f in (
                "prompt_NxP", "completion_NxT", "behaviour_NxT", "reward_N"))]
            assert same, row
        state, measured = run.step(run.member, state, run.params)
        held = int((state.curriculum_state["buffer"]["step_C"] != EMPTY).sum())
        assert np.isfinite(float(measured["loss"][0])) and held == min(4 * (i + 1), 8)
        seen.append(float(measured["sampler_gap"][0] / measured["sampler_gap"][1]))
    assert seen[0] < 1e-2  # the gap is that of fresh rows


def test_a_buffer_resumes_bit_for_bit(feed):
    run = feed("remix")
    start = run.state._replace(curriculum_state=run.source.curriculum.init(jax.random.key(0)))
    one, _ = run.step(run.member, start, run.params)
    host = jax.tree.map(np.asarray, one)
    a, b = (run.step(run.member, s, run.params)[0] for s in (one, jax.tree.map(jnp.asarray, host)))
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name, parts, message", [
    ("remix", {"replay": Replay(2, 3, 1)}, "capacity=3 is below the 4 groups that a step makes.*nearest valid: 4"),
    ("remix", {"replay": Replay(9, 8, 1)}, "or the 9 that it replays; nearest valid: 9"),
    ("remix", {}, "replay is None; give a Replay"),
    ("luffy", {"replay": Replay(2, 8, 1)}, "needs demonstrations: the buffer does not keep it"),
    ("reinforce", {"replay": Replay(2, 8, 1)}, "no importance ratio to the policy that sampled a row; set replay to None"),
    ("reinforce_pp", {"replay": Replay(2, 8, 1)}, "whose KL in the reward is that of the policy that sampled"),
    ("on_policy_distillation_sampled", {"replay": Replay(2, 8, 1)}, "whose KL in the reward"),
    ("optimal_token_baseline", {"replay": Replay(2, 8, 1)}, "with those of the policy now"),
    ("grpo", {"replay": Replay(2, 8, 1), "curriculum": curricula.get("plr", pool=8)}, "sees advantages")])
def test_what_is_refused_before_compute(feed, name, parts, message):
    with pytest.raises(ValueError, match=message):
        feed(name, make=lambda task, spec, prompts: training.Rollouts(task, prompts, spec, **parts))


@pytest.mark.parametrize("parts, message", [({"keep": "worst"}, "choose one of newest, best"),
                                            ({"draw": "all"}, "choose one of uniform, score"), ({"max_age": 0}, "at least 1")])
def test_rules_that_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        Replay(**{"groups": 1, "capacity": 2, "max_age": 1} | parts)
