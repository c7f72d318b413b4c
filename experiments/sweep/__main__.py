"""Sweep a config: `python -m experiments.sweep --config=rlvr_sparsity --over seeds.first=0,100 --over train.steps=50,150`.

Every combination of the values is a run of its own below --directory. The same command goes on with a sweep that was killed:
finished runs are left as they are, begun ones resume, and several machines that share the directory may run it at once,
since a run is claimed by one worker at a time. Without --over the config's own sweep() says what to run. Runs share the
compilation cache in the directory: those that differ only in numbers that are arguments of the program compile it once.

Afterwards `python -m experiments.collect DIRECTORY` makes one bundle of all runs.

Exit codes: 0 every run is finished, 2 bad input or a run that failed, 75 stopped after saving (run the same command again).
"""

import argparse
import os
import sys
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from experiments.harness import config as configs
from experiments.harness.command import Parser, refuse
from experiments.harness.errors import EXIT_STOPPED, EXIT_USER, UserError
from experiments.harness.session import StopSignals
from experiments.run import overrides_of
from experiments.sweep import engines, points
from experiments.sweep.worker import ELSEWHERE, FAILED, STOPPED
from jaxpost.lookup import nearest
from jaxpost.records import BundleError

EXECUTORS = ("local", "ray", "slurm", "gcloud", "print")


def parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """(options, overrides of every run). Raises: UserError."""
    parser = Parser(prog="python -m experiments.sweep", description=__doc__, allow_abbrev=False,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="name, name:argument or path/to/mine.py")
    parser.add_argument("--over", action="append", default=[], help="KEY=VALUE,VALUE,... (may be repeated)")
    parser.add_argument("--directory", help="of the sweep; default: results/sweeps/<config>")
    parser.add_argument("--executor", default="local", help=", ".join(EXECUTORS))
    parser.add_argument("--workers", type=int, default=1, help="runs at a time on this machine, or of a local Ray cluster")
    parser.add_argument("--retries", type=int, default=2, help="times that a killed run is started again")
    parser.add_argument("--address", help="of a Ray cluster; default: a new local one")
    parser.add_argument("--cpus", type=float, default=1, help="of a run, for Ray")
    parser.add_argument("--gpus", type=float, default=0, help="of a run, for Ray")
    parser.add_argument("--tpus", type=float, default=0, help="TPU chips of a run, for Ray")
    parser.add_argument("--hosts", default="", help="names of TPU VMs, for gcloud")
    options, rest = parser.parse_known_args(arguments)
    if options.executor not in EXECUTORS:
        raise UserError(f"--executor={options.executor!r} is not known{nearest(options.executor, EXECUTORS)}")
    for name, least in (("workers", 1), ("retries", 0)):
        if getattr(options, name) < least:
            raise UserError(f"--{name}={getattr(options, name)}: at least {least}")
    return options, overrides_of(rest)


def shipped(config: str) -> list[dict[str, str]]:
    """The overrides that a config's own sweep() lists. Raises: UserError: it has none."""
    made = getattr(configs.module(config.partition(":")[0]), "sweep", None)
    if made is None:
        raise UserError(f"config {config!r} has no sweep() of its own; say what to vary with --over KEY=VALUE,VALUE,...")
    return made()


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    try:
        options, fixed = parse(sys.argv[1:] if arguments is None else arguments)
        over = points.grid(options.over) if options.over else shipped(options.config)
        made = points.points(options.config, over, fixed)
        stem = Path(options.config.partition(":")[0]).stem
        directory = Path(options.directory or Path("results") / "sweeps" / stem)
        if options.executor in ("slurm", "gcloud", "print"):
            hosts = [host for host in options.hosts.split(",") if host]
            print(engines.commands(made, directory, options.executor, options.workers, hosts))
            return 0
        points.write_plan(directory, made)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str((directory / "compiled").resolve()))
        return _carry_out(options, made, directory)
    except UserError as error:
        return refuse(error, error.exit_code)
    except BundleError as error:  # the plan of a sweep that is there cannot be read
        return refuse(error)


def _carry_out(options: argparse.Namespace, made: list[points.Point], directory: Path) -> int:
    stop, console, board = threading.Event(), Console(), Board(made)
    shared = {"workers": options.workers, "retries": options.retries, "stop": stop, "say": board.running}
    engine = engines.local(made, directory, **shared) if options.executor == "local" else engines.ray_cluster(
        made, directory, **shared, address=options.address, cpus=options.cpus, gpus=options.gpus, tpus=options.tpus)
    with StopSignals() as signals, Live(get_renderable=board.table, console=console, auto_refresh=console.is_terminal):
        watch = threading.Thread(target=_watch, args=(signals, stop, board), daemon=True)
        watch.start()
        for outcome in engine:
            board.ended(outcome)
            if not console.is_terminal:
                console.print(f"{outcome.name}: {outcome.state} after {outcome.seconds:.0f} s, {outcome.message}", markup=False,
                              highlight=False, soft_wrap=True)
        board.done.set()
    states = [state for state, *_ in board.rows.values()]
    if FAILED in states:
        return EXIT_USER
    if ELSEWHERE in states or STOPPED in states:
        return EXIT_STOPPED
    console.print(f"all {len(made)} runs are finished; one bundle of them: python -m experiments.collect {directory}",
                  soft_wrap=True, markup=False)
    return 0


def _watch(signals: StopSignals, stop: threading.Event, board: "Board") -> None:
    while not board.done.wait(0.2):
        if signals.received:
            stop.set()
            return


class Board:
    """The table of a sweep: a line a run, with its state, attempts and seconds."""

    def __init__(self, made: list[points.Point]):
        self.varied = {point.name: dict(point.varied) for point in made}
        self.rows = {point.name: ("waiting", 0, time.monotonic(), "") for point in made}
        self.done = threading.Event()

    def running(self, name: str, state: str, attempt: int) -> None:
        """A run begins, or begins again."""
        self.rows[name] = (state, attempt, time.monotonic(), "")

    def ended(self, outcome) -> None:
        """A run ended."""
        self.rows[outcome.name] = (outcome.state, outcome.attempts, outcome.seconds, outcome.message)

    def table(self) -> Table:
        """As it stands."""
        keys = list(dict.fromkeys(key for varied in self.varied.values() for key in varied))
        view = Table(*keys, "state", "attempts", "s", "")
        for name, (state, attempts, since, message) in self.rows.items():
            seconds = time.monotonic() - since if state in ("running", "queued") else 0.0 if state == "waiting" else since
            view.add_row(*(self.varied[name].get(key, "") for key in keys), state, str(attempts), f"{seconds:.0f}", message)
        return view


if __name__ == "__main__":
    sys.exit(main())
