"""What a policy does on fixed text problems: `evaluate.Suite` with the verifier on the host, some rows at a time.

Shapes: N problems, R rows at a time, P prompt and T completion tokens.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxpost import models, processes, sharding
from jaxpost.tasks import Task, text, text_data
from jaxpost.training import split
from jaxpost.training.evaluate import divergence_sums, means


@dataclasses.dataclass(frozen=True)
class TextSuite:
    """Fixed problems of one text task.

    Raises:
      ValueError: the rows at a time do not divide the problems.
    """

    model: models.TransformerConfig
    task: Task
    problems: Sequence[Any]  # as read
    rows_N: text.Row
    decode: Callable[[Sequence[int]], str]
    at_a_time: int  # R; logits of R rows are held at once
    mesh: jax.sharding.Mesh | None = None
    label: str = "id"

    @property
    def digest(self) -> str:
        """SHA-256 of the tokens of its problems."""
        return text_data.digest_of(self.rows_N.prompt_P, self.rows_N.answer_T)

    def __post_init__(self):
        if len(self.problems) % self.at_a_time:
            raise ValueError(f"{self.at_a_time} rows at a time do not divide {len(self.problems)} problems")

    def samples(self, params: dict, key: jax.Array) -> list[models.Completions]:
        """One sample a problem at temperature 1, R rows each; part i uses `fold_in(key, i)`."""
        with sharding.on_mesh(self.mesh):
            return [self.programs[0](params, split.put(part.prompt_P, self.mesh), jax.random.fold_in(key, i))
                    for i, part in enumerate(self._parts())]

    def reward(self, made: Sequence[models.Completions]) -> float:
        """Mean reward, each process's rows verified on its host."""
        R, own = self.at_a_time, split.local(self.at_a_time, self.mesh)
        rewards = [text.reward(self.task, self.decode, [self.problems[i * R + row] for row in own], split.own(part.tokens_NxT))
                   for i, part in enumerate(made)]
        told_2 = np.asarray([sum(map(np.sum, rewards)), sum(map(len, rewards))], np.float32)
        total, count = np.asarray(multihost_utils.process_allgather(told_2)).reshape(-1, 2).sum(axis=0)
        return float(total / count)

    def measure(self, params: dict, base: dict, drawn: Sequence[models.Completions], key: jax.Array,
                made: Sequence[models.Completions] | None = None) -> dict[str, float]:
        """The values of `evaluate.Suite.measure`; `drawn` are the base's samples under the same key, `made` the policy's where
        they were taken before."""
        made = self.samples(params, key) if made is None else made
        with sharding.on_mesh(self.mesh):
            sums = [processes.whole(self.programs[1](params, base, split.put(part.prompt_P, self.mesh), own, other))
                    for part, own, other in zip(self._parts(), made, drawn, strict=True)]
        total = {name: float(np.sum([part[name] for part in sums], dtype=np.float64)) for name in sums[0]}
        return {f"success/{self.label}": self.reward(made), **means(total)}

    def _parts(self) -> list[text.Row]:
        """This process's rows, R of all processes at a time."""
        R, own = self.at_a_time, split.local(self.at_a_time, self.mesh)
        return [jax.tree.map(lambda x, first=first: x[first + own], self.rows_N) for first in range(0, len(self.problems), R)]

    @functools.cached_property
    def programs(self):
        """(the sampler, the sums of `evaluate.divergence_sums`), of R rows."""
        model, task = self.model, self.task

        def sample(params, prompt_RxP, key):
            made = models.sample(model, params, prompt_RxP, key, length=task.completion_len, eos=task.ends, pad=task.pad,
                                 early_stop=True)
            return sharding.constrain(made, ("batch",))  # rows stay where they are verified

        def sums(params, base, prompt_RxP, made, drawn) -> Mapping[str, jax.Array]:
            return divergence_sums(model, params, base, prompt_RxP, made, drawn, task.pad)

        return jax.jit(sample), jax.jit(sums)
