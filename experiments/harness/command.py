"""What the commands share: arguments and errors of a user are one line on stderr; children end with their parents."""

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from experiments.harness.errors import EXIT_USER, UserError
from jaxpost.plain_text import visible


class Parser(argparse.ArgumentParser):
    """An argument parser whose refusals are UserErrors. Raises: UserError."""

    def error(self, message):
        """As argparse calls it."""
        raise UserError(f"{message}; see {self.prog} --help")


def refuse(error: object, code: int = EXIT_USER) -> int:
    """Print the error as one line; returns the exit code."""
    print("error: " + visible(" ".join(str(error).split())), file=sys.stderr)
    return code


def make_directory(path: Path, new: bool = False) -> None:
    """Make a directory that a user named. Raises: UserError: it cannot be made, or has to be `new` and is there."""
    try:
        path.mkdir(parents=True, exist_ok=not new)
    except OSError as error:
        wanted = "a new directory, in a place" if new else "a directory, or a place"
        raise UserError(f"{path}: {error.strerror or error}; expected {wanted} where one can be made") from error


def dies_with_parent() -> Callable[[], None] | None:
    """`preexec_fn` of a child that is killed when its parent dies, so that no orphan holds a run's directory; Linux only."""
    if sys.platform != "linux":
        return None
    parent, libc = os.getpid(), ctypes.CDLL(None)

    def arm() -> None:
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it has died already
            os._exit(1)

    return arm
