"""The tiny experiment: its command in this process or in another one, and one finished run that all workers share."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from experiments import run
from experiments.harness import checks
from experiments.harness import config as configs

ROOT = Path(__file__).resolve().parents[2]
TINY = Path(__file__).resolve().parent / "tiny.py"


def arguments(workdir, *more: str) -> list[str]:
    """The command's arguments."""
    return [f"--config={TINY}", f"--workdir={workdir}", *more]


def start(workdir, *more: str) -> subprocess.Popen:
    """The command in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "experiments.run", *arguments(workdir, *more)], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ)


@pytest.fixture
def tiny(capsys):
    """The command in this process: (workdir, overrides) -> (exit code, stdout, stderr)."""

    def call(workdir, *more):
        code = run.main(arguments(workdir, *more))
        return (code, *capsys.readouterr())

    return call


@pytest.fixture
def refused(tiny, tmp_path):
    """Run with these overrides, expect exit code 2 (or `code`) and exactly one line of error; returns the line."""

    def call(*more, workdir=None, code=2):
        found, _, err = tiny(workdir or tmp_path / "run", *more)
        assert found == code, err
        assert err.startswith("error: ") and err.count("\n") == 1, err
        return err

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """An undisturbed finished run (read only), and beside it `reads.txt`: the config keys that were read."""
    shared = tmp_path_factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else tmp_path_factory.getbasetemp()
    path = shared / "finished"
    with open(shared / "finished.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "reads.txt").exists():
            (shared / "reads.txt").write_text("\n".join(sorted(keys_read(arguments(path)))))
    return path


def keys_read(given: list[str]) -> set[str]:
    """The config keys that the command uses; it has to end well."""
    with pytest.MonkeyPatch.context() as patch:
        seen = record_reads(patch)
        assert run.main(given) == 0
    return set(seen)


def record_reads(patch: pytest.MonkeyPatch) -> set[str]:
    """Record the dotted names of all config leaves that are used from here on.

    A copy of the whole config (its hash, the manifest) and the check of ranges are no use; a section that is handed on
    whole is (its reader refuses what it does not know).
    """
    seen, paused = set(), []
    read, whole, load, values = ConfigDict.__getitem__, ConfigDict.to_dict, run.configs.load, checks.values
    names = {}

    def name_sections(config, prefix=""):
        names[id(config)] = prefix
        for key in config.keys():
            value = read(config, key)
            if isinstance(value, ConfigDict):
                name_sections(value, f"{prefix}{key}.")

    def recording_load(*given):
        config = load(*given)
        seen.clear()  # what loading itself looked at does not count
        name_sections(config)
        names["keep"] = config  # so that ids stay unique
        return config

    def recording_read(self, key):
        value = read(self, key)
        if not paused and id(self) in names and not isinstance(value, ConfigDict):
            seen.add(names[id(self)] + key)
        return value

    def recording_copy(self, *given, **named):
        if not paused and names.get(id(self)):
            seen.update(quietly(configs.leaves)(self, names[id(self)]))
        return quietly(whole)(self, *given, **named)

    def quietly(function):
        def call(*given, **named):
            paused.append(function)
            try:
                return function(*given, **named)
            finally:
                paused.pop()

        return call

    patch.setattr(ConfigDict, "__getitem__", recording_read)
    patch.setattr(ConfigDict, "to_dict", recording_copy)
    patch.setattr(run.configs, "load", recording_load)
    patch.setattr(checks, "values", quietly(values))
    return seen
