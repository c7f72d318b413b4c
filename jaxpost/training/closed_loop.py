"""What a policy does in a closed loop: it sees an observation, samples an action, and sees the next observation.

Shapes: N problems, P observation and A action tokens, U turns, T = U A + (U - 1) P tokens of an episode in one row.
"""

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


def answers(model: models.TransformerConfig, params: dict, task: Task, problems_N, prompt_NxP: jax.Array, key: jax.Array,
            temperature: float | jax.Array = 1.0, **more) -> models.Completions:
    """One sample of each problem: an answer, or an episode of a task that is a closed loop; `more` as in models.sample."""
    if task.episodes is not None:
        return play(model, params, task, problems_N, prompt_NxP, key, temperature, **more)
    return models.sample(model, params, prompt_NxP, key, length=task.completion_len, temperature=temperature, eos=task.ends,
                         pad=task.pad, **more)


def play(model: models.TransformerConfig, params: dict, task: Task, problems_N, prompt_NxP: jax.Array, key: jax.Array,
         temperature: float | jax.Array = 1.0, early_stop: bool = False) -> models.Completions:
    """One episode of each problem, in one context; a turn is a call of the sampler on all that came before.

    Observations are forced tokens. Args: task: a closed loop, `tasks.closed`; early_stop: as in models.sample.
    """
    action, environment = task.episodes.action, task.episodes.environment
    state_N, done_N = jax.vmap(environment.reset)(problems_N), jnp.zeros(prompt_NxP.shape[0], bool)
    slots, seen_NxP = [], None
    for u in range(environment.turns):
        if u:
            live_Nx1 = (~done_N)[:, None]
            shown = jnp.where(live_Nx1, seen_NxP, task.pad).astype(jnp.int32)
            there = (live_Nx1 & (jnp.cumsum(shown != task.pad, axis=1) > 0)).astype(jnp.float32)
            slots.append(models.Completions(shown, jnp.zeros(shown.shape, jnp.float32), there, there))
        context = jnp.concatenate([prompt_NxP, *(slot.tokens_NxT for slot in slots)], axis=1)
        made = models.sample(model, params, context, jax.random.fold_in(key, u), length=action.completion_len,
                             temperature=temperature, eos=task.ends, pad=task.pad, early_stop=early_stop)
        live_Nx1 = (~done_N)[:, None]
        slots.append(models.Completions(jnp.where(live_Nx1, made.tokens_NxT, task.pad), made.logp_NxT * live_Nx1,
                                        made.mask_NxT * live_Nx1, jnp.zeros(made.mask_NxT.shape, jnp.float32)))
        new_N, seen_NxP, _, ended_N = jax.vmap(environment.step)(state_N, made.tokens_NxT)
        state_N, done_N = jax.tree.map(_kept(done_N), new_N, state_N), done_N | ended_N
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *slots)


def _kept(done_N):
    """(new, old) -> the old where the episode has ended."""
    return lambda new, old: jnp.where(done_N.reshape(-1, *(1,) * (new.ndim - 1)), old, new)
