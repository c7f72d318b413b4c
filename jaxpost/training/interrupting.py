"""Answers whose reasoning is cut at a budget: the mark that ends it is forced, and the policy answers with what it has.

A thought is the tokens between the marks `[` and `]` (`tasks.traces`). Answers that end it within the budget, and those that
do not begin with it, stay as they are. The control has, in the same problem and behind the same number of tokens, the same
mark, and the tokens of the thought up to there in a random order (`shuffled`) or all of them `.` (`filler`).

Shapes: N rows, T completion tokens, K budgets.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxpost import models, tasks
from jaxpost.lookup import nearest
from jaxpost.models import DRAW
from jaxpost.probes.policy.interrupted import Cut
from jaxpost.tasks import Task, traces

CONTROLS = ("shuffled", "filler")


def check(splits: Sequence[tuple[str, Task]], budgets: Sequence[int], control: str) -> None:
    """Refuse what cannot be cut.

    Raises:
      ValueError: no split with reasoning, a budget that leaves no room for the mark, an answer token and the end, an unknown
        control.
    """
    if control not in CONTROLS:
        raise ValueError(f"control {control!r} of interrupted answers is not known{nearest(control, CONTROLS)}")
    if not splits:
        raise ValueError("no split has answers with reasoning, so that nothing can be interrupted; give the task a style, "
                         "such as 'cot'")
    for label, task in splits:
        if max(budgets) > (most := task.completion_len - 4):
            raise ValueError(f"a budget of {max(budgets)} tokens of reasoning, and answers of split {label!r} have "
                             f"{task.completion_len} tokens in all; nearest valid: {most}")


def answers(model: models.TransformerConfig, params: dict, task: Task, problems_N, prompt_NxP: jax.Array, key: jax.Array,
            budgets: Sequence[int], control: str) -> Cut:
    """Rewards of the free answers and, at every budget, of the cut ones and of the control, with the same random numbers.

    Args:
      key: of `models.sample`; what is not forced before the cut is drawn as in the free answer.
    """
    def sample(forced_NxT):
        made = models.sample(model, params, prompt_NxP, key, length=task.completion_len, eos=task.ends, pad=task.pad,
                             forced_NxT=forced_NxT)
        return made, jax.vmap(task.verify)(problems_N, made.tokens_NxT)

    free, free_N = sample(jnp.full((len(prompt_NxP), task.completion_len), DRAW, jnp.int32))
    word_NxT = jax.random.uniform(jax.random.fold_in(key, task.completion_len), free.mask_NxT.shape)

    def at(budget):
        cut_NxT, control_NxT, cut_N = forced(free.tokens_NxT, task, budget, control, word_NxT)
        return sample(cut_NxT)[1], sample(control_NxT)[1], cut_N

    reward_KxN, control_KxN, cut_KxN = jax.lax.map(at, jnp.asarray(budgets))
    return Cut(free_N, reward_KxN.T, control_KxN.T, cut_KxN.T)


def forced(tokens_NxT: jax.Array, task: Task, budget: jax.Array | int, control: str, word_NxT: jax.Array
           ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(forced_NxT that cuts, forced_NxT of the control, whether each row is cut) of free answers.

    Args:
      word_NxT: random numbers in [0, 1), whose order is that of the shuffled tokens.
    """
    T = tokens_NxT.shape[1]
    at_T = jnp.arange(T)[None]

    def first(there_NxT):
        return jnp.where(there_NxT.any(1), jnp.argmax(there_NxT, axis=1), T)[:, None]

    mark_Nx1 = jnp.minimum(first(tokens_NxT == traces.END), 1 + budget)  # where the thought ends
    thinks_Nx1 = (tokens_NxT[:, :1] == traces.BEGIN) & (first(tasks.ends(tokens_NxT, task.ends)) > mark_Nx1)
    cut_N = (thinks_Nx1 & (first(tokens_NxT == traces.END) > mark_Nx1))[:, 0]
    cut_NxT = jnp.where(cut_N[:, None] & (at_T == mark_Nx1), traces.END, DRAW)
    inside_NxT = (at_T > 0) & (at_T < mark_Nx1)
    if control == "filler":
        thought_NxT = jnp.where(inside_NxT, traces.FILLER, tokens_NxT)
    else:
        order_NxT = jnp.argsort(jnp.where(inside_NxT, word_NxT, jnp.where(at_T > 0, 1.0 + at_T, -1.0)), axis=1)
        thought_NxT = jnp.take_along_axis(tokens_NxT, order_NxT, axis=1)
    control_NxT = jnp.where(at_T == mark_Nx1, traces.END, jnp.where(at_T < mark_Nx1, thought_NxT, DRAW))
    return cut_NxT.astype(jnp.int32), jnp.where(thinks_Nx1, control_NxT, DRAW).astype(jnp.int32), cut_N
