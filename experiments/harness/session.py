"""What surrounds a run: progress for people, stop signals, mirrors in other tools. None of it can change a row."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.harness import telemetry
from experiments.harness.errors import Stopped
from jaxpost import processes

WANDB_MODES = ("disabled", "offline", "online")


class StopSignals:
    """Remembers a SIGTERM or SIGINT until the run asks at its next boundary; one more, seconds later, ends the process at once.

    A scheduler signals a launcher and its run, and the launcher passes it on: within TOGETHER seconds they are one signal.
    """

    NUMBERS = (signal.SIGTERM, signal.SIGINT)
    TOGETHER = 2.0

    def __init__(self):
        self.received: str | None = None
        self._at = 0.0
        self._before = {}

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._remember) for number in self.NUMBERS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number, frame):
        del frame
        now = time.monotonic()
        if self.received is None:
            self.received, self._at = signal.Signals(number).name, now
        elif now - self._at > self.TOGETHER:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


class Session:
    """Progress bar on a terminal, one line a phase elsewhere; knows whether a signal asked to stop.

    Args:
      signals: what was asked from outside.
      config: of the run; `wandb` and `tensorboard` in it ask for mirrors. name: of the study.
      folder: of the bundle, where their files lie.

    Attributes:
      telemetry: the mirrors.
      stopping: whether a signal had asked to stop when all processes last looked.
    """

    def __init__(self, signals: StopSignals, config: Mapping, name: str, folder: Path):
        self.console = Console(quiet=not processes.first())
        self._started = time.monotonic()
        self._signals, self.stopping = signals, False
        self._bar = self._task = None
        self.telemetry = telemetry.opened(config, name, folder, self.say) if processes.first() else telemetry.Telemetry()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exception: object) -> None:
        self._end_bar()
        self.telemetry.close(failed=exception[0] is not None)

    def look(self, due: bool = False) -> bool:
        """At a step that all processes reach: note in `stopping` whether a signal asked any of them to stop.

        Returns:
          whether something, such as a checkpoint, is `due` in any process: their clocks differ.
        """
        self.stopping, due = processes.any_of(self._signals.received is not None, due)
        return due

    def boundary(self, saved: str) -> None:
        """End the run here if a signal asked for it; `saved` says what is safe. Raises: Stopped."""
        self.look()
        if self.stopping:
            by = self._signals.received or "a signal to another process"
            raise Stopped(f"stopped by {by}; {saved}; run the same command again to go on")

    def say(self, text: str) -> None:
        """One line, with the time since the start."""
        self.console.print(f"[{time.monotonic() - self._started:6.1f} s] {text}", highlight=False, markup=False,
                           soft_wrap=True)

    def phase(self, name: str, total: int, done: int = 0, early: bool = False) -> None:
        """Begin a phase of `total` steps of which `done` were done before; `early`: it ends as soon as what it looks for is
        found, so that the total and the time left are said to be the most."""
        self._end_bar()
        if not self.console.is_terminal:
            return
        most = "at most " if early else ""
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(), TextColumn(
            "{task.completed:.0f}/" + most + "{task.total:.0f}"), TimeElapsedColumn(), TextColumn(f"ETA {most}".strip()),
            TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=self.console, transient=True)
        self._bar.start()
        self._task = self._bar.add_task(name, total=total, completed=done, note="")

    def advance(self, steps: int, note: str = "") -> None:
        """`steps` of the phase are done."""
        if self._bar is not None:
            self._bar.update(self._task, advance=steps, note=note)

    def _end_bar(self):
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
