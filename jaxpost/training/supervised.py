"""The supervised batch: oracle demonstrations of one task or of a mixture.

Shapes: N rows, P prompt tokens, T completion tokens. Prompts are left-padded and completions right-padded to the
common width, so that tasks of different lengths share a batch.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost import sharding, tasks
from jaxpost.curricula import Uniform
from jaxpost.objectives import Batch
from jaxpost.tasks import Task
from jaxpost.training.state import Member, TrainState, stream


@dataclasses.dataclass(frozen=True)
class Demonstrations:
    """Rows a step of each task: ((task, rows), ...)."""

    mixture: tuple[tuple[Task, int], ...]
    curriculum: Uniform = Uniform()

    @property
    def rows(self) -> int:
        """N."""
        return sum(count for _, count in self.mixture)

    def batch(self, member: Member, state: TrainState, reference: dict | None) -> tuple[Batch, dict, dict]:
        """(rows, metrics, curriculum state) of the state's step; a pure function of (seed, step)."""
        del reference
        parts = []
        for task, count in self.mixture:
            key = stream(member.seed, f"data/{task.name}", state.step)
            index_N = self.curriculum.sample(state.curriculum_state, key, count)
            parts.append(demonstrations(task, "train", index_N))
        return _stack(parts), {}, state.curriculum_state


def demonstrations(task: Task, split: str, index_N: jax.Array) -> Batch:
    """The oracle's answers as supervised rows; the end token counts, padding does not."""
    shown = sharding.constrain(tasks.examples(task, split, index_N), ())  # as in rl.rollout: no vote in redraw loops
    mask_NxT = (shown.answer_NxT != tasks.vocab.PAD).astype(jnp.float32)
    return Batch(shown.prompt_NxP, shown.answer_NxT, mask_NxT)


def _stack(parts: list[Batch]) -> Batch:
    P = max(b.prompt_NxP.shape[1] for b in parts)
    T = max(b.completion_NxT.shape[1] for b in parts)

    def widen(b: Batch) -> Batch:
        after = ((0, 0), (0, T - b.mask_NxT.shape[1]))
        before = ((0, 0), (P - b.prompt_NxP.shape[1], 0))
        return Batch(jnp.pad(b.prompt_NxP, before), jnp.pad(b.completion_NxT, after), jnp.pad(b.mask_NxT, after))

    return jax.tree.map(lambda *x: jnp.concatenate(x), *map(widen, parts))
