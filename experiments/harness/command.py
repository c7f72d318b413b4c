"""What the commands share: arguments and errors of a user are one line on stderr."""

import argparse
import sys

from experiments.harness.errors import EXIT_USER, UserError
from jaxpost.records.plain_text import visible


class Parser(argparse.ArgumentParser):
    """An argument parser whose refusals are UserErrors. Raises: UserError."""

    def error(self, message):
        """As argparse calls it."""
        raise UserError(f"{message}; see {self.prog} --help")


def refuse(error: object, code: int = EXIT_USER) -> int:
    """Print the error as one line; returns the exit code."""
    print("error: " + visible(" ".join(str(error).split())), file=sys.stderr)
    return code
