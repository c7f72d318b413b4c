"""What surrounds a run: progress for people, stop signals, an optional W&B mirror. None of it can change a row."""

import signal
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.errors import Stopped


class Session:
    """Progress bar on a terminal, one line a phase elsewhere; remembers a SIGTERM or SIGINT until the next boundary."""

    def __init__(self, wandb, config: dict, name: str):
        self.console = Console()
        self.started = time.monotonic()
        self._signal = None
        self._bar = self._task = None
        self._mirror = _mirror(wandb, config, name, self.say)

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception):
        self._end_bar()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        if self._mirror is not None:
            self._mirror.finish(quiet=True)

    def _remember(self, number, frame):
        del frame
        self._signal = signal.Signals(number).name

    @property
    def stopping(self) -> bool:
        """Whether a signal asked to stop."""
        return self._signal is not None

    def stop(self, saved: str) -> None:
        """End the run after `saved` says what is safe. Raises: Stopped."""
        raise Stopped(f"stopped by {self._signal}; {saved}; run the same command again to go on")

    def say(self, text: str) -> None:
        """One line, with the time since the start."""
        self.console.print(f"[{time.monotonic() - self.started:6.1f} s] {text}", highlight=False, markup=False,
                           soft_wrap=True)

    def phase(self, name: str, total: int) -> None:
        """Begin a phase of `total` steps."""
        self._end_bar()
        if not self.console.is_terminal:
            return
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                             TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
                             console=self.console, transient=True)
        self._bar.start()
        self._task = self._bar.add_task(name, total=total, note="")

    def advance(self, steps: int, note: str = "") -> None:
        """`steps` of the phase are done."""
        if self._bar is not None:
            self._bar.update(self._task, advance=steps, note=note)

    def mirror(self, **scalars) -> None:
        """Send scalars to W&B when it is on; a failure there ends the mirror, never the run."""
        if self._mirror is None:
            return
        try:
            self._mirror.log(scalars)
        except Exception as error:
            self.say(f"W&B mirror ended: {error}")
            self._mirror = None

    def _end_bar(self):
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _mirror(section, config: dict, name: str, say):
    if section.mode == "disabled":
        return None
    try:
        import wandb  # optional: starts helper processes

        return wandb.init(project=section.project, name=name, mode=section.mode, config=config,
                          settings=wandb.Settings(silent=True, init_timeout=15))
    except Exception as error:
        say(f"W&B mirror is off: {type(error).__name__}: {error}")
        return None


