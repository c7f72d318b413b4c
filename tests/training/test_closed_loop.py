"""A policy in a closed loop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import models, objectives, roles, tasks, training
from jaxpost.tasks import grid, vocab
from jaxpost.training import closed_loop
from tests import compiled

LAKE = {"world": "lake", "answer": "next", "size": 3, "moves": 4}


def test_a_policy_acts_on_what_it_sees():
    """A policy that always says "down" moves down in every episode until a wall, a hole or the target."""
    task, loop = tasks.get("grid", **LAKE), grid.loop(LAKE, turns=4)
    model = models.TransformerConfig(vocab=task.vocab_size, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, ff=16)
    params = jax.tree.map(jnp.zeros_like, models.init(model, jax.random.key(0)))

    def always(seen_NxP, key):
        return jnp.tile(jnp.asarray([[vocab.ID + 1, vocab.EOS]]), (seen_NxP.shape[0], 1))

    down = jax.jit(lambda: grid.environment.closed_loop(loop, tasks.problems(task, "id", jnp.arange(32)), always,
                                                        jax.random.key(0)))()
    problem, rules = tasks.problems(task, "id", jnp.arange(32)), grid.Rules("lake", 4)
    won_N = np.zeros(32, bool)
    move, solved = jax.jit(jax.vmap(lambda p: rules.move(p, 1))), jax.jit(jax.vmap(rules.solved))
    for _ in range(4):
        problem = move(problem)
        won_N |= np.asarray(solved(problem))
    np.testing.assert_array_equal(down.reward_N, won_N)
    assert 0 < float(down.reward_N.mean()) < 1

    uniform = jax.jit(lambda key: closed_loop.episodes(model, params, task, loop, "id", 32, key))(jax.random.key(1))
    assert uniform.action_NxUxA.shape == (32, 4, task.completion_len)
    assert uniform.observation_NxUxP.shape == (32, 4, task.prompt_len)
    assert len(np.unique(uniform.action_NxUxA)) > 20  # all tokens are equally likely
    assert dataclasses.is_dataclass(loop) and (np.asarray(uniform.turns_N) >= 1).all()


@pytest.fixture(scope="module")
def played():
    """Episodes of three turns in a lake by a random policy, in one row each."""
    task = tasks.closed("grid", turns=3, **LAKE)
    model = models.TransformerConfig(vocab=task.vocab_size, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, ff=16)
    params = models.init(model, jax.random.key(0))
    useful = jnp.zeros(task.vocab_size).at[jnp.asarray([*range(vocab.ID, vocab.ID + 4), vocab.EOS])].set(20.0)
    params = params | {"head": params["head"] * useful[None]}  # names and ends, mostly
    problems = tasks.problems(task, "id", jnp.arange(16))
    prompt = jax.vmap(task.prompt)(problems)
    made = jax.jit(lambda p, k: closed_loop.play(model, p, task, problems, prompt, k, 1.0))(params, jax.random.key(3))
    return task, model, params, problems, prompt, made


def test_an_episode_is_actions_and_the_observations_that_follow_them(played):
    """Turn by turn with the environment in a Python loop; an ended episode is padding."""
    task, _, _, problems, _, made = played
    episodes = task.episodes
    A, P, env = episodes.action.completion_len, episodes.action.prompt_len, episodes.environment
    reset, turn = jax.jit(env.reset), jax.jit(env.step)
    assert made.tokens_NxT.shape == (16, episodes.length) == (16, 3 * A + 2 * P)
    ended, rewards = 0, []
    for n in range(16):
        state, done, total = reset(jax.tree.map(lambda x, n=n: np.asarray(x)[n], problems)), False, 0.0
        tokens, mask, forced = (np.asarray(x)[n] for x in (made.tokens_NxT, made.mask_NxT, made.forced_NxT))
        for u in range(3):
            action = slice(u * (A + P), u * (A + P) + A)
            if done:
                assert not tokens[action].any() and not mask[action].any()
            else:
                state, seen, reward, over = turn(state, jnp.asarray(tokens[action]))
                total, done = total + float(reward), bool(over)
                end = np.flatnonzero(tokens[action] == vocab.EOS)
                assert mask[action].sum() == (end[0] + 1 if len(end) else A)
            assert not forced[action].any()
            shown = slice(action.stop, action.stop + P)
            if u < 2:
                np.testing.assert_array_equal(tokens[shown], 0 if done else seen)
                np.testing.assert_array_equal(forced[shown], (tokens[shown] != 0) if not done else 0)
        ended += done
        rewards.append(total)
    np.testing.assert_allclose(jax.jit(jax.vmap(task.verify))(problems, made.tokens_NxT), rewards)


def test_what_was_drawn_has_the_trainer_s_log_probabilities(played):
    _, model, params, _, prompt, made = played
    logp = jax.nn.log_softmax(compiled.token_logits(model, params, prompt, made.tokens_NxT))
    logp = jnp.take_along_axis(logp, made.tokens_NxT[..., None], -1)[..., 0]
    drawn = np.asarray(made.mask_NxT * (1 - made.forced_NxT)) > 0
    np.testing.assert_allclose(np.asarray(made.logp_NxT)[drawn], np.asarray(logp)[drawn], atol=5e-5)


def closed_loop_rewards(episodes, problem, tokens_T):
    """Rewards of the turns by an unrolled loop."""
    state, done, found = episodes.environment.reset(problem), False, []
    for action in episodes.actions(tokens_T):
        new, _, reward, over = episodes.environment.step(state, action)
        found.append(jnp.where(done, 0.0, reward))
        state = jax.tree.map(lambda a, b, done=done: jnp.where(done, b, a), new, state)
        done = done | over
    return jnp.stack(found)


def test_episodes_train(played):
    task, model, params, *_ = played
    episodes = task.episodes
    spec = training.StepSpec(model, objectives.get("grpo"), (("name", "adamw"),), group=4)
    source = training.source(task, spec, 2)
    member, state = training.Member(jnp.uint32(1), training.Scalars(1e-3)), training.create(spec, params, {})
    batch, _, _ = jax.jit(lambda s: source.batch(member, s, None))(state)
    shown = np.asarray(batch.role_NxT) == roles.OBSERVATION
    assert shown.any() and not (shown & (np.asarray(batch.mask_NxT) > 0)).any()
    batch = batch._replace(reward_N=jnp.arange(8) % 2 * 1.0)
    after, metrics = jax.jit(lambda s, b: training.train_step(spec, s, b, member.scalars))(state, batch)
    assert np.isfinite(float(metrics["loss"][0])) and np.any(np.asarray(after.params["head"]) != np.asarray(params["head"]))
    with pytest.raises(ValueError, match="observations of 'grid/lake' have shape .* let both be of the same options"):
        tasks.episodes.closed(episodes.action, grid.loop(LAKE | {"size": 4}, turns=3))
    with pytest.raises(ValueError, match="observations are all that is forced"):
        training.Rollouts(task, 2, spec, forcing=training.forcing.Prefix(role="hint"))
    per_turn = dataclasses.replace(source, spec=dataclasses.replace(spec, objective=objectives.get("eapo")))
    batch, _, _ = jax.jit(lambda s: per_turn.batch(member, s, None))(state)
    problems, _, made, _ = jax.jit(per_turn.rollout)(state.params, member.seed, state.step, {})
    expected = np.asarray(jax.jit(jax.vmap(lambda p, t: closed_loop_rewards(episodes, p, t)))(problems, made.tokens_NxT))
    np.testing.assert_array_equal(batch.turn_reward_NxU, expected)
    assert np.asarray(batch.turn_NxT)[0].tolist() == [turn for u in range(3) for turn in [u] * episodes.action.completion_len
                                                      + [-1] * episodes.action.prompt_len][:episodes.length]
    for name in ("luffy", "dapo", "remax"):
        other = dataclasses.replace(spec, objective=objectives.get(name))
        with pytest.raises(ValueError, match="a closed loop has none of them"):
            training.Rollouts(task, 2, other)
    with pytest.raises(ValueError, match="a closed loop, which has none; take an objective that samples alone"):
        training.source(task, dataclasses.replace(spec, objective=objectives.get("dpo")), 2)


def test_a_closed_loop_is_one_object_with_a_guess_and_is_measured_in_its_own_tokens(played):
    task, model, params, *_ = played
    assert task is tasks.closed("grid", turns=3, **LAKE) is not tasks.closed("grid", turns=2, **LAKE)
    longer = [tasks.closed("grid", turns=turns, **LAKE).guess("id") for turns in (1, 3)]
    assert longer[0] == pytest.approx(np.mean(np.asarray(distances()) == 1) / 4, abs=0.05) and longer[0] < longer[1] < 1
    suite = training.Suite(model, (("episodes", task, "id"),), 16, "episodes")
    _, _, made = suite._drawn(params, jax.random.key(3))["episodes"]
    shown = np.asarray(task.episodes.turn_T) < 0
    assert not np.asarray(made.mask_NxT)[:, shown].any() and np.asarray(made.mask_NxT)[:, ~shown].any()
    with pytest.raises(ValueError, match="closed loop of task 'addition' is not known"):
        tasks.closed("addition", turns=3)
    with pytest.raises(ValueError, match="turns=0 must be a whole number of at least 1"):
        tasks.closed("grid", turns=0, **LAKE)


def distances():
    """Moves of a shortest plan of the first problems of the evaluation split."""
    rules = grid.Rules("lake", LAKE["size"] + 1)
    return jax.jit(jax.vmap(rules.distance))(tasks.problems(tasks.get("grid", **LAKE), "id", jnp.arange(1024)))
