"""The supervised batch: oracle demonstrations of one task or of a mixture.

Shapes: N rows, P prompt tokens, T completion tokens. Prompts are left-padded and completions right-padded to the
common width, so that tasks of different lengths share a batch.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost import roles, sharding, tasks
from jaxpost.curricula import Uniform
from jaxpost.objectives import Batch
from jaxpost.tasks import Task
from jaxpost.training import needs
from jaxpost.training.state import Member, TrainState, stream
from jaxpost.training.step import StepSpec


@dataclasses.dataclass(frozen=True)
class Demonstrations:
    """Rows a step of each task: ((task, rows), ...).

    Raises:
      ValueError: the objective of `spec` needs what demonstrations do not give.
    """

    mixture: tuple[tuple[Task, int], ...]
    curriculum: Uniform = Uniform()
    spec: StepSpec | None = None  # whose objective's needs are filled; None: the rows alone

    def __post_init__(self):
        if self.spec is not None:
            needs.require("Demonstrations", self.spec, *(task for task, _ in self.mixture))

    @property
    def rows(self) -> int:
        """N."""
        return sum(count for _, count in self.mixture)

    @property
    def sampled(self) -> int:
        """Rows that are sampled a step: none."""
        return 0

    @property
    def lengths(self) -> tuple[int, int]:
        """(P, T), the longest of the mixture."""
        return max(task.prompt_len for task, _ in self.mixture), max(task.completion_len for task, _ in self.mixture)

    @property
    def needs_reference(self) -> bool:
        """Whether the parameters of a reference policy must be passed to a step."""
        return self.spec is not None and needs.reference_argument(self.spec)

    def batch(self, member: Member, state: TrainState, reference: dict | None) -> tuple[Batch, dict, dict]:
        """(rows, metrics, curriculum state) of the state's step; the rows are a pure function of (seed, step)."""
        parts = []
        for task, count in self.mixture:
            key = stream(member.seed, f"data/{task.name}", state.step)
            index_N = self.curriculum.sample(state.curriculum_state, key, count)
            parts.append(demonstrations(task, "train", index_N))
        batch = _stack(parts)
        if self.spec is not None:
            batch = needs.fill(self.spec, batch, member, state, reference)
        return batch, {}, state.curriculum_state


def demonstrations(task: Task, split: str, index_N: jax.Array) -> Batch:
    """The oracle's answers as supervised rows; the end token counts, padding does not."""
    shown = sharding.constrain(tasks.examples(task, split, index_N), ())  # as in rl.rollout: no vote in redraw loops
    return Batch(shown.prompt_NxP, shown.answer_NxT, tasks.through(shown.answer_NxT, task.ends),
                 role_NxT=needs.roles_of(task, shown.answer_NxT))


def _stack(parts: list[Batch]) -> Batch:
    P = max(b.prompt_NxP.shape[1] for b in parts)
    T = max(b.completion_NxT.shape[1] for b in parts)
    with_roles = any(b.role_NxT is not None for b in parts)

    def role_of(b: Batch) -> jax.Array:
        return jnp.full(b.completion_NxT.shape, roles.ANSWER) if b.role_NxT is None else b.role_NxT

    def widen(b: Batch) -> Batch:
        after = ((0, 0), (0, T - b.mask_NxT.shape[1]))
        before = ((0, 0), (P - b.prompt_NxP.shape[1], 0))
        return Batch(jnp.pad(b.prompt_NxP, before), jnp.pad(b.completion_NxT, after), jnp.pad(b.mask_NxT, after),
                     role_NxT=jnp.pad(role_of(b), after) if with_roles else None)

    return jax.tree.map(lambda *x: jnp.concatenate(x), *map(widen, parts))
