"""One run of the subject in a process of its own: started, hit at a moment, finished, and compared with the undisturbed run."""

import dataclasses
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxpost.records import BundleError, storage
from jaxpost.records.verify import verify

LIMIT = 1800.0  # seconds after which a run is taken for hung
_LOOK = 0.002  # seconds between looks at a directory


@dataclasses.dataclass(frozen=True)
class Subject:
    """The study that is disturbed: a config (name or path) and further arguments of `experiments.run`."""

    config: str
    more: tuple[str, ...] = ()

    def command(self, directory: Path, *more: str) -> list[str]:
        """The command that runs and resumes it."""
        return [sys.executable, "-m", "experiments.run", f"--config={self.config}", f"--workdir={directory}", *self.more, *more]

    def start(self, directory: Path, *more: str, name: str = "") -> subprocess.Popen:
        """Start it; what it says goes to `<directory><name>.log`."""
        with open(log_of(directory, name), "ab") as log:
            return subprocess.Popen(self.command(directory, *more), stdout=log, stderr=subprocess.STDOUT)


def log_of(directory: Path, name: str = "") -> Path:
    """Where the runs of a directory say what they do."""
    return directory.with_name(f"{directory.name}{name}.log")


def ended(process: subprocess.Popen, seconds: float = LIMIT) -> int | None:
    """The exit code of a process; None, and it is killed, if it does not end in time."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


@dataclasses.dataclass(frozen=True)
class Moment:
    """When a run is hit: some seconds after its start, or after a path that matches one of `patterns` appears.

    The moment is past when a path that matches `past` is there.
    """

    name: str
    patterns: tuple[str, ...] = ()
    past: str = "report.html"
    latest: float = 0.05  # seconds after that, at most

    def ahead(self, directory: Path) -> bool:
        """Whether a run of this directory may still meet it."""
        return next(directory.glob(self.past), None) is None

    def reached(self, process: subprocess.Popen, directory: Path, rng: random.Random) -> bool:
        """Wait for the moment; False if the run ends before."""
        before = self._matches(directory)
        while self.patterns and process.poll() is None and not self._matches(directory) - before:
            time.sleep(_LOOK)
        until = time.monotonic() + rng.uniform(0, self.latest)
        while process.poll() is None and time.monotonic() < until:
            time.sleep(_LOOK)
        return process.poll() is None

    def _matches(self, directory: Path) -> set[Path]:
        matches = set()
        for pattern in self.patterns:
            try:
                matches |= set(directory.glob(pattern))
            except OSError:  # a folder that went while it was listed
                continue
        return matches


def moments(seconds: float) -> tuple[Moment, ...]:
    """Moments of a study that takes so long: any, and those at which something is handed over or written."""
    return (
        Moment("any moment", latest=0.7 * seconds),
        Moment("start", (".lock", "manifest.json", ".*.tmp"), past="manifest.json"),
        Moment("pretraining checkpoint", ("base-0/pretraining/*tmp*", "base-0/base/*tmp*"), past="base-0/base/*/about"),
        Moment("arm checkpoint", ("base-0/arms/*/*/*tmp*",), past="measurements.parquet"),
        Moment("stage hand-over", ("base-0/arms/*",), past="measurements.parquet"),
        Moment("rows", ("rows/*", "rows/.*"), past="measurements.parquet"),
        Moment("bundle", ("*.parquet", "tables/*", "figures/*", "report.html")),
    )


def identity(directory: Path) -> str:
    """The bundle id of a finished run, after checking every digest: a hash of its science rows, arrays and config.

    Raises:
      BundleError: it is not finished, or not what was written.
    """
    manifest = storage.read_manifest(directory / "manifest.json")
    if manifest["status"] != "complete":
        raise BundleError(f"{directory} is not finished (status {manifest['status']!r})")
    if bad := verify(directory)[1]:
        raise BundleError(f"{directory}: {bad[0]}")
    return manifest["bundle_id"]


def same(directory: Path, expected: str) -> bool:
    """Whether a run is finished with the rows of the undisturbed one."""
    try:
        return identity(directory) == expected
    except (BundleError, OSError):
        return False


@dataclasses.dataclass
class Tally:
    """Faults of one kind: how many were tried, and where something was lost."""

    kind: str
    tried: int = 0
    survived: int = 0
    lost: list[str] = dataclasses.field(default_factory=list)
    notes: dict[str, int] = dataclasses.field(default_factory=dict)

    def add(self, good: bool, where: object, faults: Sequence[str]) -> None:
        """Count faults that a run has met; `where` is said of a run that lost something."""
        self.tried += len(faults)
        for fault in faults:
            self.notes[fault] = self.notes.get(fault, 0) + 1
        if good:
            self.survived += len(faults)
        else:
            self.lost += [f"{where}: {fault}" for fault in faults]


def done(tally: Tally, good: bool, directory: Path, faults: list[str]) -> None:
    """Count the faults of a run; one that lost nothing is removed with its logs."""
    tally.add(good, directory, faults)
    if good:
        shutil.rmtree(directory, ignore_errors=True)
        for log in directory.parent.glob(f"{directory.name}*.log"):
            log.unlink()


def environment(cache: Path) -> None:
    """Keep every compiled program for the runs that follow, unless the user has a cache."""
    if os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache)) == str(cache):
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


Campaign = Callable[["Subject", str, Path, int, random.Random, float], Tally]
