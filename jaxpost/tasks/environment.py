"""Closed loops: a world that answers every action with an observation, and its evaluation.

All functions of an Environment act on one problem, are pure, and have fixed shapes; callers `vmap`.

Legend: N problems, P observation and A action tokens.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, eq=False)
class Environment:
    """A world of one task's problems."""

    name: str
    turns: int  # most actions of an episode
    reset: Callable[[Any], Any]  # problem -> state
    observe: Callable[[Any], Any]  # state -> i32[P], a prompt for the next action
    step: Callable[[Any, Any], Any]  # (state, i32[A]) -> (state, i32[P] observation, f32[] reward, bool[] done)


class Episode(NamedTuple):
    """What happened: leading axis N, then the turns."""

    reward_N: Any  # f32, the sum over the turns
    turns_N: Any  # i32, actions until the end
    observation_NxUxP: Any  # i32, before each action
    action_NxUxA: Any  # i32


def closed_loop(environment: Environment, problem_N, act: Callable, key) -> Episode:
    """One episode of every problem.

    Args:
      act: (observations i32[N, P], key) -> actions i32[N, A], for instance a sampler with a policy's parameters. It is called
        for all problems at every turn; an episode that has ended stays as it is.
    """
    state_N = jax.vmap(environment.reset)(problem_N)
    seen_NxP = jax.vmap(environment.observe)(state_N)

    def turn(carry, t):
        state_N, seen_NxP, done_N = carry
        action_NxA = act(seen_NxP, jax.random.fold_in(key, t))
        new_N, next_NxP, reward_N, ended_N = jax.vmap(environment.step)(state_N, action_NxA)

        def keep(new, old):
            return jnp.where(done_N.reshape(-1, *(1,) * (new.ndim - 1)), old, new)

        carry = (jax.tree.map(keep, new_N, state_N), jax.tree.map(keep, next_NxP, seen_NxP), done_N | ended_N)
        return carry, (jnp.where(done_N, 0.0, reward_N), ~done_N, seen_NxP, action_NxA)

    done_N = jnp.zeros(jax.tree.leaves(seen_NxP)[0].shape[0], bool)
    _, (reward_UxN, live_UxN, seen, action) = jax.lax.scan(turn, (state_N, seen_NxP, done_N), jnp.arange(environment.turns))
    by_problem = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), (seen, action))
    return Episode(reward_UxN.sum(axis=0), live_UxN.sum(axis=0), *by_problem)
