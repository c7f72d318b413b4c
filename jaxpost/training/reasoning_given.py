"""Answers that begin with reasoning which the policy is given: a part of the oracle's, or of that of another problem.

Reasoning is the tokens between the marks `[` and `]` (`tasks.traces`). The other problem is the next one of the same split.

Shapes: N rows, T completion tokens, K shares.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import models
from jaxpost.models import DRAW
from jaxpost.probes.policy.given_reasoning import Given
from jaxpost.tasks import Task, traces

_ORACLE = 0  # seed of its styles: the same demonstrations in every run


def check(splits: Sequence[tuple[str, Task]], problems: int) -> None:
    """Refuse what has no reasoning to give. Raises: ValueError: no split with reasoning, or one problem a split."""
    if not splits:
        raise ValueError("no split has answers with reasoning, so that none can be given; give the task a style, such as 'cot'")
    if problems < 2:
        raise ValueError(f"problems={problems} a split: the reasoning of another problem takes at least 2")


def answers(model: models.TransformerConfig, params: dict, task: Task, problems_N, prompt_NxP: jax.Array, next_N: np.ndarray,
            key: jax.Array, shares: Sequence[float]) -> Given:
    """Rewards behind every share of both reasonings, with the random numbers of the free answers.

    Args:
      next_N: the row of each problem's other one.
      key: of `models.sample`; what is not forced is drawn as in the free answer.
    """
    N, T = len(prompt_NxP), task.completion_len
    own_NxT = jax.vmap(task.oracle)(problems_N, jax.random.split(jax.random.key(_ORACLE), N))
    others_N = jax.tree.map(lambda x: x[next_N], problems_N)

    def sample(forced_NxT):
        return models.sample(model, params, prompt_NxP, key, length=T, eos=task.ends, pad=task.pad,
                             forced_NxT=forced_NxT).tokens_NxT

    def rewards(asked_N, tokens_NxT):
        return jax.vmap(task.verify)(asked_N, tokens_NxT)

    def at(share):
        return tuple(sample(forced(x_NxT, share)) for x_NxT in (own_NxT, own_NxT[next_N]))

    own_KxNxT, another_KxNxT = jax.lax.map(at, jnp.asarray(shares, jnp.float32))
    whole_NxT = another_KxNxT[-1] if shares[-1] == 1 else sample(forced(own_NxT[next_N], 1.0))
    reward_KxN, another_KxN = (jax.vmap(lambda x: rewards(problems_N, x))(x) for x in (own_KxNxT, another_KxNxT))
    free_NxT = sample(jnp.full((N, T), DRAW, jnp.int32))
    return Given(reward_KxN.T, another_KxN.T, rewards(others_N, whole_NxT), rewards(others_N, free_NxT),
                 rewards(others_N, own_NxT) == 0)


def forced(tokens_NxT: jax.Array, share: jax.Array | float) -> jax.Array:
    """forced_NxT: the mark `[`, the first floor(share * n) of the n tokens of each row's reasoning and, at 1, its mark `]`.

    A row without reasoning forces nothing.
    """
    at_1xT, ends_NxT = jnp.arange(tokens_NxT.shape[1])[None], tokens_NxT == traces.END
    thinks_N = (tokens_NxT[:, 0] == traces.BEGIN) & ends_NxT.any(1)
    mark_N = jnp.argmax(ends_NxT, axis=1)
    last_N = jnp.where(share >= 1, mark_N, jnp.floor(share * (mark_N - 1)))
    return jnp.where(thinks_N[:, None] & (at_1xT <= last_N[:, None]), tokens_NxT, DRAW).astype(jnp.int32)
