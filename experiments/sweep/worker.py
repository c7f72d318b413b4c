"""One point of a sweep: claimed by one worker at a time, run as a process of its own, run again when it was killed."""

import contextlib
import fcntl
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.harness.command import dies_with_parent
from experiments.harness.errors import EXIT_DIVERGED, EXIT_STOPPED, EXIT_USER
from experiments.sweep.points import Point
from jaxpost.records import BundleError, storage

FINISHED, FAILED, ELSEWHERE, STOPPED = "finished", "failed", "elsewhere", "stopped"


class Outcome(NamedTuple):
    """How a point ended: `state` is finished, failed, elsewhere (another worker has it) or stopped (saved, can go on)."""

    name: str
    state: str
    attempts: int
    seconds: float
    message: str


def complete(directory: Path) -> str | None:
    """The bundle id of a finished run; None while it is not."""
    try:
        manifest = storage.read_manifest(directory / "manifest.json")
    except (BundleError, OSError):
        return None
    return manifest["bundle_id"] if manifest["status"] == "complete" else None


@contextlib.contextmanager
def claimed(directory: Path, name: str) -> Iterator[bool]:
    """Whether this worker has the point to itself; the claim ends with the process, however it ends."""
    path = directory / "claims" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def carry_out(point: Point, directory: Path, retries: int, stop: threading.Event | None = None,
              say: Callable[[str, int], None] = lambda state, attempt: None, python: str = sys.executable) -> Outcome:
    """Run a point to its end, or as far as it goes.

    A finished run is left as it is. A process that was killed or preempted is started again and resumes, at most `retries`
    times; bad input and a loss that is not finite are not tried again.

    Args:
      directory: of the sweep; what the process prints is appended to logs/<name>.log there.
      stop: when set the process is asked to save and stop.
      say: told "running" and the attempt.
    """
    began = time.monotonic()

    def outcome(state: str, attempts: int, message: str) -> Outcome:
        return Outcome(point.name, state, attempts, time.monotonic() - began, message)

    with claimed(directory, point.name) as mine:
        if not mine:
            return outcome(ELSEWHERE, 0, "another worker has it")
        if bundle_id := complete(directory / point.name):
            return outcome(FINISHED, 0, f"bundle {bundle_id[:12]}, was finished before")
        log = directory / "logs" / f"{point.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, retries + 2):
            say("running", attempt)
            code = _process([python, "-m", "experiments.run", *point.arguments(directory)], log, stop)
            if code == 0:
                return outcome(FINISHED, attempt, f"bundle {(complete(directory / point.name) or 'unknown')[:12]}")
            if code in (EXIT_USER, EXIT_DIVERGED):
                return outcome(FAILED, attempt, _last_line(log))
            if stop is not None and stop.is_set():
                return outcome(STOPPED, attempt, "saved; run the same command again")
        how = "was stopped from outside" if code == EXIT_STOPPED else f"ended with code {code}"
        return outcome(FAILED, attempt, f"{how} {attempt} times; see {log}")


def _process(command: list[str], log: Path, stop: threading.Event | None) -> int:
    with open(log, "ab") as output:
        running = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                   preexec_fn=dies_with_parent())
        asked = False
        while (code := running.poll()) is None:
            if stop is not None and stop.is_set() and not asked:
                running.send_signal(signal.SIGTERM)
                asked = True
            time.sleep(0.2)
    return code


def _last_line(log: Path) -> str:
    with open(log, errors="replace") as handle:
        lines = [line.strip() for line in deque(handle, 20) if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["no output"])[-1]
