"""What a policy does in a closed loop: it sees an observation, samples an action, and sees the next observation.

Shapes: N problems, P observation and A action tokens.
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
