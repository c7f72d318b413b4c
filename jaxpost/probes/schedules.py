"""When a probe runs: pure functions of the step, decided on the host and enumerable before the run.

`schedule(step) -> bool`; `steps(schedule, total)` lists the steps in [0, total], so that a trainer can cut its
loop there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[int], bool]


@dataclass(frozen=True)
class Every:
    """Steps offset, offset + period, offset + 2 period, ..."""

    period: int
    offset: int = 0

    def __post_init__(self):
        if self.period < 1 or self.offset < 0:
            raise ValueError(f"Every needs period >= 1 and offset >= 0; found {self.period} and {self.offset}")

    def __call__(self, step: int) -> bool:
        return step >= self.offset and (step - self.offset) % self.period == 0


@dataclass(frozen=True)
class At:
    """An explicit list of steps."""

    steps: tuple[int, ...]

    def __post_init__(self):
        if any(step < 0 for step in self.steps):
            raise ValueError(f"At needs steps >= 0; found {self.steps}")

    def __call__(self, step: int) -> bool:
        return step in self.steps


@dataclass(frozen=True)
class LogSpaced:
    """The integers nearest to first * 10^(i / per_decade), i = 0, 1, ..., each once, kept when divisible by `multiple`.

    `multiple` snaps to the trainer's `steps_per_call`: each grid point is rounded up to the next multiple.
    """

    per_decade: int
    first: int = 1
    multiple: int = 1

    def __post_init__(self):
        if min(self.per_decade, self.first, self.multiple) < 1:
            raise ValueError(f"LogSpaced needs positive integers; found {self}")

    def __call__(self, step: int) -> bool:
        if step < 1 or step % self.multiple:
            return False
        centre = math.log10(step / self.first) * self.per_decade
        low = math.log10(max(step - self.multiple, 0.5) / self.first) * self.per_decade
        return any(self._point(i) == step for i in range(max(math.floor(low) - 1, 0), math.ceil(centre) + 2))

    def _point(self, i: int) -> int:
        nearest = round(self.first * 10 ** (i / self.per_decade))
        return -(-nearest // self.multiple) * self.multiple


@dataclass(frozen=True)
class Union:
    """Due when any of several schedules is."""

    schedules: tuple[Schedule, ...]

    def __call__(self, step: int) -> bool:
        return any(schedule(step) for schedule in self.schedules)


def steps(schedule: Schedule, total: int) -> tuple[int, ...]:
    """The steps in [0, total] at which a schedule is due, ascending."""
    return tuple(step for step in range(total + 1) if schedule(step))
