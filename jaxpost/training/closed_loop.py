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

    Observations are forced tokens. Every turn reads as wide a context, left-padded, so that one program serves all of them: its
    size does not grow with U, and sampling reads about twice the tokens that the turns have before them.

    Args: task: a closed loop, `tasks.closed`; early_stop: as in models.sample.
    """
    action, environment = task.episodes.action, task.episodes.environment
    N, P = prompt_NxP.shape
    W = P + (environment.turns - 1) * (action.completion_len + P)

    def turn(carry, u):
        state_N, done_N, context_NxW = carry
        made = models.sample(model, params, context_NxW, jax.random.fold_in(key, u), length=action.completion_len,
                             temperature=temperature, eos=task.ends, pad=task.pad, early_stop=early_stop)
        live_Nx1 = (~done_N)[:, None]
        acted = models.Completions(jnp.where(live_Nx1, made.tokens_NxT, task.pad), made.logp_NxT * live_Nx1,
                                   made.mask_NxT * live_Nx1, jnp.zeros(made.mask_NxT.shape, jnp.float32))
        new_N, seen_NxP, _, ended_N = jax.vmap(environment.step)(state_N, made.tokens_NxT)
        state_N, done_N = jax.tree.map(_kept(done_N), new_N, state_N), done_N | ended_N
        live_Nx1 = (~done_N)[:, None]
        shown_NxP = jnp.where(live_Nx1, seen_NxP, task.pad).astype(jnp.int32)
        there_NxP = (live_Nx1 & (jnp.cumsum(shown_NxP != task.pad, axis=1) > 0)).astype(jnp.float32)
        observed = models.Completions(shown_NxP, jnp.zeros(shown_NxP.shape, jnp.float32), there_NxP, there_NxP)
        context_NxW = jnp.concatenate([context_NxW, acted.tokens_NxT, shown_NxP], axis=1)[:, -W:]
        return (state_N, done_N, context_NxW), jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), acted, observed)

    start = (jax.vmap(environment.reset)(problems_N), jnp.zeros(N, bool),
             jnp.concatenate([jnp.full((N, W - P), task.pad, prompt_NxP.dtype), prompt_NxP], axis=1))
    slots_UxNxS = jax.lax.scan(turn, start, jnp.arange(environment.turns))[1]
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(N, -1)[:, :task.episodes.length], slots_UxNxS)


def _kept(done_N):
    """(new, old) -> the old where the episode has ended."""
    return lambda new, old: jnp.where(done_N.reshape(-1, *(1,) * (new.ndim - 1)), old, new)
