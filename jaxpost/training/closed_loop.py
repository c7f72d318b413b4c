"""What a policy does in a closed loop: it sees an observation, samples an action, and sees the next observation.

Shapes: N problems, P observation and A action tokens, U turns, T = U A + (U - 1) P tokens of an episode in one row.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost import models, tasks
from jaxpost.tasks import Task
from jaxpost.tasks.environment import Environment, Episode, closed_loop


def episodes(model: models.TransformerConfig, params: dict, task: Task, environment: Environment, split: str, problems: int,
             key: jax.Array, temperature: float = 1.0) -> Episode:
    """One episode of each of the first `problems` problems of a split; its reward is `reward_N`.

    Every turn is a prompt of its own: the policy sees the observation alone, not what came before.

    Args:
      task: the same problems in an open loop, answered by one action: its end token and the length of its answers are taken.
      environment: of the task's problems.
    """
    def act(seen_NxP, key):
        return models.sample(model, params, seen_NxP, key, length=task.completion_len, temperature=temperature, eos=task.ends,
                             pad=task.pad).tokens_NxT

    return closed_loop(environment, tasks.problems(task, split, jnp.arange(problems)), act, key)


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Episodes of several turns as rows of a rollout: actions are drawn, observations are forced, all of it in one context.

    A row's completion holds the slots action 0, observation 1, action 1, ...; an action that is shorter than its slot is
    padded behind its end token, and so are the slots behind the end of the episode. Observations have the role "observation"
    and are out of the loss; the row's reward is the sum of the episode's, and objectives that need turns have their rewards
    apart. Pass it as `Rollouts.forcing`, with `Rollouts.task` its `task`.
    """

    action: Task  # the same problems in an open loop, answered by one action
    environment: Environment
    role: ClassVar[str] = "observation"
    demonstrates: ClassVar[bool] = False

    @property
    def length(self) -> int:
        """T."""
        turns = self.environment.turns
        return turns * self.action.completion_len + (turns - 1) * self.action.prompt_len

    @property
    def task(self) -> Task:
        """The closed loop as a task whose answers are whole episodes; the same object for equal ones."""
        return _episode_task(self)

    def check(self, task: Task, sampled: int) -> None:
        """Refuse another task than that of the episodes, or observations of another width. Raises: ValueError."""
        del sampled
        problem = jax.eval_shape(lambda: self.action.sample(jax.random.key(0), self.action.splits["train"]))
        try:
            seen = jax.eval_shape(lambda p: self.environment.observe(self.environment.reset(p)), problem).shape
        except (TypeError, ValueError):
            seen = "of other problems"
        if seen != (self.action.prompt_len,):
            raise ValueError(f"observations of {self.environment.name!r} have shape {seen}, and prompts of task "
                             f"{self.action.name!r} {self.action.prompt_len} tokens; let both be of the same options")
        if task is not self.task:
            raise ValueError(f"episodes of {self.environment.name!r} in rollouts of task {task.name!r}; pass the task of the "
                             "episodes, Episodes.task")

    def actions(self, tokens_T: jax.Array) -> jax.Array:
        """action_UxA of a row's completion."""
        A, P = self.action.completion_len, self.action.prompt_len
        return jnp.stack([tokens_T[u * (A + P):u * (A + P) + A] for u in range(self.environment.turns)])

    def play(self, model: models.TransformerConfig, params: dict, problems_N, prompt_NxP: jax.Array, key: jax.Array,
             temperature: float | jax.Array, early_stop: bool = False) -> models.Completions:
        """One episode of each problem; a turn is a call of the sampler on all that came before."""
        A, task = self.action.completion_len, self.action
        state_N, done_N = jax.vmap(self.environment.reset)(problems_N), jnp.zeros(prompt_NxP.shape[0], bool)
        slots, seen_NxP = [], None
        for u in range(self.environment.turns):
            if u:
                live_Nx1 = (~done_N)[:, None]
                shown = jnp.where(live_Nx1, seen_NxP, task.pad).astype(jnp.int32)
                there = (live_Nx1 & (jnp.cumsum(shown != task.pad, axis=1) > 0)).astype(jnp.float32)
                slots.append(models.Completions(shown, jnp.zeros(shown.shape, jnp.float32), there, there))
            context = jnp.concatenate([prompt_NxP, *(slot.tokens_NxT for slot in slots)], axis=1)
            made = models.sample(model, params, context, jax.random.fold_in(key, u), length=A, temperature=temperature,
                                 eos=task.ends, pad=task.pad, early_stop=early_stop)
            live_Nx1 = (~done_N)[:, None]
            slots.append(models.Completions(jnp.where(live_Nx1, made.tokens_NxT, task.pad), made.logp_NxT * live_Nx1,
                                            made.mask_NxT * live_Nx1, jnp.zeros(made.mask_NxT.shape, jnp.float32)))
            new_N, seen_NxP, _, ended_N = jax.vmap(self.environment.step)(state_N, made.tokens_NxT)
            state_N, done_N = jax.tree.map(_kept(done_N), new_N, state_N), done_N | ended_N
        return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *slots)

    @property
    def turn_T(self) -> jax.Array:
        """int32, the action that each token of a completion belongs to; -1 on observations."""
        A, P = self.action.completion_len, self.action.prompt_len
        place_T = jnp.arange(self.length)
        return jnp.where(place_T % (A + P) < A, place_T // (A + P), -1)

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


def _kept(done_N):
    """(new, old) -> the old where the episode has ended."""
    return lambda new, old: jnp.where(done_N.reshape(-1, *(1,) * (new.ndim - 1)), old, new)


@functools.cache
def _episode_task(episodes: Episodes) -> Task:
    task, environment = episodes.action, episodes.environment

    def oracle(problem, key):
        raise ValueError(f"the closed loop {environment.name!r} has no demonstrations; take an objective without them")

    return dataclasses.replace(task, name=f"{task.name}/closed", completion_len=episodes.length, verify=episodes.reward,
                               prompt=lambda problem: environment.observe(environment.reset(problem)), oracle=oracle,
                               role=None, roles=("answer", "observation"), styles=("answer",))
