"""A text data set as a task: prompts and answers of a tokenizer, verified as text on the host.

    task = text.make("gsm8k", data, tokenizer, verifiers.get("math"))
    problems_N = text.rows(data, index_N)                         # what the device sees of problems
    reward_N = text.reward(task, tokenizer.decode, problems, tokens_NxT)  # on the host

Unlike a procedural family it cannot draw problems inside a program: a loop feeds them (`training.split`).

Legend: N rows, P prompt and T answer tokens.
"""

from typing import Any, NamedTuple

import numpy as np

from jaxpost.roles import between
from jaxpost.tasks.base import Task, ends
from jaxpost.tasks.text_data import TextData
from jaxpost.tasks.tokenizer import Tokenizer
from jaxpost.tasks.verifiers import Verifier, guess

VERSION = 1


class Row(NamedTuple):
    """A problem on the device."""

    prompt_P: Any  # i32
    answer_T: Any  # i32
    index: Any  # i32[], position in the data set


def make(name: str, data: TextData, tokenizer: Tokenizer, verifier: Verifier, think: tuple[int, int] | None = None) -> Task:
    """The task of a data set; `data` gives the lengths and the guess baseline.

    Args:
      think: token ids that begin and end the reasoning (`<think>` and `</think>` of most chat models), which give tokens
        their roles; None: every token is the answer.

    Raises:
      ValueError: from the task when a program asks it to draw a problem or to verify on the device.
    """
    def refuse(what: str):
        def call(*_):
            raise ValueError(f"task {name!r} is text: {what}; use training.split")

        return call

    def verify_host(problem, text: str) -> float:
        return float(min(max(verifier.reward(problem, text), 0.0), 1.0))

    baseline = guess(verifier, data.problems)
    return Task(name=name, version=VERSION, prompt_len=data.prompt_NxP.shape[1], completion_len=data.answer_NxT.shape[1],
                splits={}, sample=refuse("its problems are read on the host"), prompt=lambda row: row.prompt_P,
                oracle=lambda row, key: row.answer_T, verify=refuse("its answers are verified on the host"),
                guess=lambda split: baseline, vocab_size=tokenizer.size, pad=tokenizer.pad, eos=tokenizer.eos,
                other_ends=tuple(i for i in tokenizer.ends if i != tokenizer.eos), verify_host=verify_host,
                **({} if think is None else {"roles": ("answer", "think"), "role": lambda tokens_T: between(tokens_T, *think)}))


def rows(data: TextData, index_N: np.ndarray) -> Row:
    """What a program sees of the problems at `index_N`."""
    index_N = np.asarray(index_N, np.int32)
    return Row(data.prompt_NxP[index_N], data.answer_NxT[index_N], index_N)


def reward(task: Task, decode, problems, tokens_NxT: np.ndarray) -> np.ndarray:
    """reward_N, float32: each row's text up to its first end token (any of several), verified. A row without one scores 0.

    Args:
      decode: token ids -> text, without special tokens.
      problems: N problems as read, in the order of the rows.
    """
    reward_N = np.zeros(len(tokens_NxT), np.float32)
    for i, (problem, tokens_T) in enumerate(zip(problems, np.asarray(tokens_NxT), strict=True)):
        where = np.flatnonzero(ends(tokens_T, task.ends))
        if len(where):
            reward_N[i] = task.verify_host(problem, decode(tokens_T[:where[0]]))
    return reward_N
