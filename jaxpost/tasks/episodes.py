"""Closed loops as tasks: an answer is a whole episode, the actions and the observations that follow them in one row.

Shapes: P observation and A action tokens, U turns, T = U A + (U - 1) P tokens of an episode.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from jaxpost.tasks import base
from jaxpost.tasks.base import Task
from jaxpost.tasks.environment import Environment


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Episodes of several turns: actions are the policy's, observations the environment's, all of it in one context.

    A row's completion holds the slots action 0, observation 1, action 1, ...; an action that is shorter than its slot is
    padded behind its end token, and so are the slots behind the end of the episode.
    """

    action: Task  # the same problems in an open loop, answered by one action
    environment: Environment

    @property
    def length(self) -> int:
        """T."""
        turns = self.environment.turns
        return turns * self.action.completion_len + (turns - 1) * self.action.prompt_len

    def actions(self, tokens_T: jax.Array) -> jax.Array:
        """action_UxA of a row's completion."""
        A, P = self.action.completion_len, self.action.prompt_len
        return jnp.stack([tokens_T[u * (A + P):u * (A + P) + A] for u in range(self.environment.turns)])

    @property
    def turn_T(self) -> jax.Array:
        """int32, the action that each token of a completion belongs to; -1 on observations."""
        A, P = self.action.completion_len, self.action.prompt_len
        place_T = jnp.arange(self.length)
        return jnp.where(place_T % (A + P) < A, place_T // (A + P), -1)

    def row(self, action_UxA: jax.Array) -> jax.Array:
        """The completion of a row with these actions, its observations left as padding."""
        gap_UxP = jnp.full((self.environment.turns, self.action.prompt_len), self.action.pad, action_UxA.dtype)
        return jnp.concatenate([action_UxA, gap_UxP], axis=1).reshape(-1)[:self.length]

    def reward(self, problem, tokens_T: jax.Array) -> jax.Array:
        """Sum of the rewards until the end."""
        return self.rewards(problem, tokens_T).sum()

    def rewards(self, problem, tokens_T: jax.Array) -> jax.Array:
        """reward_U of the actions in a row's completion, 0 behind the end: the environment is played again."""
        def turn(carry, action_A):
            state, done = carry
            new, _, reward, ended = self.environment.step(state, action_A)
            kept = jax.tree.map(lambda a, b: jnp.where(done, b, a), new, state)
            return (kept, done | ended), jnp.where(done, 0.0, reward)

        start = (self.environment.reset(problem), jnp.zeros((), bool))
        return jax.lax.scan(turn, start, self.actions(tokens_T))[1]


@functools.cache
def closed(action: Task, environment: Environment) -> Task:
    """The closed loop as a task, with its `episodes`; the same object for equal ones. It has no demonstrations.

    Its guess baseline takes actions that are best in other problems of the split.

    Args:
      action: the environment's problems in an open loop, answered by one action.

    Raises:
      ValueError: observations that are not as wide as the prompts of `action`.
    """
    problem = jax.eval_shape(lambda: action.sample(jax.random.key(0), action.splits["train"]))
    try:
        seen = jax.eval_shape(lambda p: environment.observe(environment.reset(p)), problem).shape
    except (TypeError, ValueError):
        seen = "of other problems"
    if seen != (action.prompt_len,):
        raise ValueError(f"observations of {environment.name!r} have shape {seen}, and prompts of task {action.name!r} "
                         f"{action.prompt_len} tokens; let both be of the same options")
    episodes = Episodes(action, environment)

    @functools.cache
    def guess(split):
        """Reward of actions that are best in other problems of the split, over 1,024 episodes."""
        problem_N, (N, U) = base.problems(action, split, jnp.arange(1024)), (1024, environment.turns)
        answer_NxA = jax.jit(jax.vmap(lambda problem: action.oracle(problem, jax.random.key(0))))(problem_N)
        action_NxUxA = answer_NxA[jax.random.randint(jax.random.key(0), (N, U), 0, N)]
        play = jax.jit(jax.vmap(lambda problem, action_UxA: episodes.reward(problem, episodes.row(action_UxA))))
        return float(play(problem_N, action_NxUxA).mean())

    def oracle(problem, key):
        raise ValueError(f"the closed loop {environment.name!r} has no demonstrations; take an objective without them")

    return dataclasses.replace(action, name=f"{action.name}/closed", completion_len=episodes.length, verify=episodes.reward,
                               prompt=lambda problem: environment.observe(environment.reset(problem)), oracle=oracle,
                               guess=guess, role=None, roles=("answer", "observation"), styles=("answer",),
                               episodes=episodes)
