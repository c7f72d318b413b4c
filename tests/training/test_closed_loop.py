"""A policy in a closed loop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import models, tasks
from jaxpost.tasks import grid, vocab
from jaxpost.training import closed_loop

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
    for _ in range(4):
        problem = jax.vmap(lambda p: rules.move(p, 1))(problem)
        won_N |= np.asarray(jax.vmap(rules.solved)(problem))
    np.testing.assert_array_equal(down.reward_N, won_N)
    assert 0 < float(down.reward_N.mean()) < 1

    uniform = jax.jit(lambda key: closed_loop.episodes(model, params, task, loop, "id", 32, key))(jax.random.key(1))
    assert uniform.action_NxUxA.shape == (32, 4, task.completion_len)
    assert uniform.observation_NxUxP.shape == (32, 4, task.prompt_len)
    assert len(np.unique(uniform.action_NxUxA)) > 20  # all tokens are equally likely
    assert dataclasses.is_dataclass(loop) and (np.asarray(uniform.turns_N) >= 1).all()
