"""The full batch: every problem of a split, every step, for tasks that can list their problems.

Shapes: N rows, P prompt tokens, T completion tokens.
"""

import dataclasses

from jaxpost import tasks
from jaxpost.curricula import Uniform
from jaxpost.objectives import Batch
from jaxpost.tasks import Task
from jaxpost.training import needs
from jaxpost.training.state import Member, TrainState
from jaxpost.training.step import StepSpec


@dataclasses.dataclass(frozen=True)
class WholeTable:
    """All rows of `tasks.table(task, split)` at every step: gradient descent without sampling noise.

    Raises:
      ValueError: the task cannot list its problems, `tokens` out of range, or the objective of `spec` needs what
        demonstrations do not give.
    """

    task: Task
    split: str = "train"
    tokens: int | None = None  # completion tokens that are trained on, the first ones; None: all, with the end token
    curriculum: Uniform = Uniform()  # samples nothing here
    spec: StepSpec | None = None  # whose objective's needs are filled; None: the rows alone

    def __post_init__(self):
        longest = self.task.completion_len
        if self.tokens is not None and not 1 <= self.tokens <= longest:
            raise ValueError(f"tokens={self.tokens} of the answers of task {self.task.name!r}; expected 1 to {longest}")
        if self.spec is not None:
            needs.require("Demonstrations", self.spec, self.task)
        tasks.table(self.task, self.split)

    @property
    def rows(self) -> int:
        """N."""
        return self.table().mask_NxT.shape[0]

    @property
    def sampled(self) -> int:
        """Rows that are sampled a step: none."""
        return 0

    @property
    def lengths(self) -> tuple[int, int]:
        """(P, T)."""
        return self.task.prompt_len, self.task.completion_len if self.tokens is None else self.tokens

    @property
    def needs_reference(self) -> bool:
        """Whether the parameters of a reference policy must be passed to a step."""
        return self.spec is not None and needs.reference_argument(self.spec)

    def table(self) -> Batch:
        """The rows: the oracle's answers, cut to `tokens`; padding does not count."""
        problems = tasks.table(self.task, self.split)
        answer_NxT = problems.answer_NxT[:, : self.lengths[1]]
        return Batch(problems.prompt_NxP, answer_NxT, tasks.through(problems.answer_NxT, self.task.ends)[:, : self.lengths[1]],
                     role_NxT=needs.roles_of(self.task, answer_NxT))

    def batch(self, member: Member, state: TrainState, reference: dict | None) -> tuple[Batch, dict, dict]:
        """(rows, metrics, curriculum state): the same rows at every step and for every seed."""
        return self.given(self.table()).batch(member, state, reference)

    def given(self, rows: Batch) -> "GivenRows":
        """The same source with `table()` as an argument of the program that it is part of."""
        return GivenRows(self.spec, rows)


@dataclasses.dataclass(frozen=True)
class GivenRows:
    """A source inside a program: rows that are traced, the same at every step."""

    spec: StepSpec | None
    rows: Batch
    curriculum: Uniform = Uniform()  # samples nothing here

    def batch(self, member: Member, state: TrainState, reference: dict | None) -> tuple[Batch, dict, dict]:
        """As `WholeTable.batch`."""
        rows = self.rows if self.spec is None else needs.fill(self.spec, self.rows, member, state, reference)
        return rows, {}, state.curriculum_state
