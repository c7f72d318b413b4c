"""Count what survives: `python -m experiments.faults --workdir=DIR`.

A small study is run undisturbed. Then it is killed at random moments, its newest checkpoint is damaged, its disk is filled, two
runs are started in one directory, one of two processes of a run is killed, and so is a Ray worker of a sweep, or the sweep
itself. Every disturbed run is resumed and must end with the bundle id of the undisturbed one: the hash of its science rows,
arrays and config. Prints tried, survived and lost of every kind; the exit code is 1 if anything was lost, and the runs that
lost something are kept in DIR with their logs.
"""

import argparse
import random
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from experiments.faults.attempts import Subject, Tally, ended, environment, identity, log_of
from experiments.faults.kinds import KINDS
from experiments.harness.command import Parser, make_directory, refuse
from experiments.harness.errors import UserError

COUNTS = {"kills": 100, "damaged": 50, "full": 20, "together": 20, "processes": 10, "sweeps": 10}
HELP = {"kills": "SIGKILLs at random moments", "damaged": "damaged checkpoints", "full": "full disks",
        "together": "pairs of runs in one directory", "processes": "killed processes of two",
        "sweeps": "killed workers of a Ray sweep, and killed sweeps"}


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options. Raises: UserError."""
    parser = Parser(prog="python -m experiments.faults", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="new directory of all runs")
    parser.add_argument("--config", default=str(Path(__file__).with_name("subject.py")), help="the study that is disturbed")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and places")
    for name, count in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, default=count, help=f"{HELP[name]} (default {count}; 0: none)")
    options = parser.parse_args(arguments)
    for name in COUNTS:
        if (value := getattr(options, name)) < 0:
            raise UserError(f"--{name}={value}: at least 0")
    if Path(options.workdir).exists():
        raise UserError(f"--workdir={options.workdir}: exists; give a new directory")
    return options


def campaign(options: argparse.Namespace, console: Console) -> list[Tally]:
    """Every kind, said when it is through. Raises: UserError: the undisturbed run does not end well."""
    directory, subject = Path(options.workdir).absolute(), Subject(options.config)
    make_directory(directory, new=True)
    environment(directory / "cache")
    undisturbed = directory / "undisturbed"
    for name in ("warm", "undisturbed"):  # the first fills the compilation cache
        began = time.monotonic()
        if code := ended(subject.start(directory / name)):
            raise UserError(f"the undisturbed run ended with code {code}; see {log_of(directory / name)}")
        seconds = time.monotonic() - began
    expected = identity(undisturbed)
    if identity(directory / "warm") != expected:
        raise UserError(f"two undisturbed runs differ ({directory}): nothing can be compared with them")
    console.print(f"undisturbed: bundle {expected[:12]}, {seconds:.0f} s", highlight=False)
    tallies = []
    for name, kind in KINDS.items():
        if count := getattr(options, name):
            tallies.append(kind(subject, expected, directory, count, random.Random(f"{options.seed} {name}"), seconds))
            console.print(f"{tallies[-1].kind}: {tallies[-1].tried} tried, {len(tallies[-1].lost)} lost", highlight=False)
    return tallies


def report(tallies: list[Tally]) -> Table:
    """Tried, survived and lost of every kind."""
    table = Table("fault", "tried", "survived", "lost", "of these")
    for tally in tallies:
        notes = ", ".join(f"{text} {count}" if count else text for text, count in sorted(tally.notes.items()))
        table.add_row(tally.kind, str(tally.tried), str(tally.survived), str(len(tally.lost)), notes)
    return table


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code: 1 if anything was lost."""
    console = Console()
    try:
        tallies = campaign(parse(sys.argv[1:] if arguments is None else arguments), console)
    except UserError as error:
        return refuse(error)
    console.print(report(tallies))
    for lost in (lost for tally in tallies for lost in tally.lost):
        console.print(f"lost: {lost}", highlight=False, soft_wrap=True)
    return int(any(tally.lost for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
