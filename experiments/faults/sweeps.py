"""A sweep on a Ray cluster loses a worker or its own process: every run has to end with the rows of an undisturbed sweep."""

import importlib.util
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from experiments.faults.attempts import Moment, Subject, Tally, done, ended, identity, log_of, same
from experiments.harness.errors import UserError

SEEDS = ("3", "103")  # the first seeds of the two runs of a sweep


def of_sweep(subject: Subject, expected: str, directory: Path, count: int, rng: random.Random, seconds: float) -> Tally:
    """SIGKILL to the Ray worker of one of two runs, and every second time to the sweep itself, which is then given again.

    Expected is what a sweep without Ray gives; that is made first. Without Ray, or where /proc is not, nothing is tried.
    """
    del expected
    tally = Tally("Ray worker or sweep killed")
    if importlib.util.find_spec("ray") is None or not Path("/proc/self/cmdline").exists():
        tally.notes["not tried: needs Linux and pip install 'jaxpost[ray]'"] = 0
        return tally
    undisturbed = directory / "sweep-undisturbed"
    if ended(_start(subject, undisturbed, "local")):
        raise UserError(f"an undisturbed sweep did not end well; see {log_of(undisturbed)}")
    wanted = {path.parent.name: identity(path.parent) for path in undisturbed.glob("*/manifest.json")}
    moment = Moment("run", ("manifest.json",), latest=seconds)
    for number in range(1, count + 1):
        run, victim, faults = directory / f"sweep-{number}", rng.choice(sorted(wanted)), []
        process = _start(subject, run, "ray")
        if moment.reached(process, run / victim, rng) and (worker := _worker_of(run / victim)):
            faults = ["worker killed"] if number % 2 else ["sweep killed"]
            os.kill(worker if number % 2 else process.pid, signal.SIGKILL)
        code = ended(process)
        if code == -signal.SIGKILL:
            code = ended(_start(subject, run, "ray"))
        good = code == 0 and all(same(run / name, bundle) for name, bundle in wanted.items())
        done(tally, good, run, faults or ["ended before"])
    return tally


def _start(subject: Subject, directory: Path, executor: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.sweep", f"--config={subject.config}", "--over",
               f"seeds.first={','.join(SEEDS)}", f"--directory={directory}", f"--executor={executor}", "--workers=2"]
    with open(log_of(directory), "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def _worker_of(directory: Path) -> int | None:
    """The process that started the run of a directory; None: the run has just ended."""
    wanted = f"--workdir={directory}".encode()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (path / "cmdline").read_bytes().split(b"\0"):
                return int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # a process that ended meanwhile
            continue
    return None
