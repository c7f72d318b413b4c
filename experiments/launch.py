"""Keep a run going: `python -m experiments.launch --restarts=5 -- --config=rlvr_sparsity --workdir=results/mine`.

What stands after `--` is given to experiments.run. A run that was killed, preempted (code 75) or lost a process is started
again and resumes where it was, at most --restarts times, after a pause that doubles from one second to a minute. Bad input (2)
and a loss that is not finite (3) are not tried again. A SIGTERM or SIGINT is passed on, and the launcher ends when the run
has saved.

With --processes=N the run is N processes of this machine that share one job (`--distributed` of experiments.run); when one of
them dies the others are ended too, and all start again.
"""

import argparse
import signal
import socket
import subprocess
import sys
import time

from experiments.harness.errors import EXIT_DIVERGED, EXIT_STOPPED, EXIT_USER
from experiments.harness.session import StopSignals

_LONGEST_PAUSE = 60.0  # seconds
_GRACE = 30.0  # seconds that processes have to save after one of them died


def once(arguments: list[str], processes: int, signals: StopSignals) -> int:
    """Start the processes and wait for all; returns 0, or the code of the first that failed."""
    base = [sys.executable, "-m", "experiments.run", *arguments]
    if processes == 1:
        commands = [base]
    else:
        address = f"localhost:{_free_port()}"
        commands = [[*base, f"--distributed={address},{processes},{i}"] for i in range(processes)]
    running = [subprocess.Popen(command) for command in commands]
    asked, first, died = False, 0, None
    while any(process.poll() is None for process in running):
        if signals.received and not asked:
            asked = True
            _ask(running)
        codes = [process.returncode for process in running if process.returncode]
        if codes and died is None:
            first, died = codes[0], time.monotonic()
            _ask(running)
        if died is not None and time.monotonic() - died > _GRACE:
            for process in running:
                if process.poll() is None:
                    process.kill()
        time.sleep(0.1)
    return first or next((process.returncode for process in running if process.returncode), 0)


def _ask(running: list[subprocess.Popen]) -> None:
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code of the last attempt."""
    parser = argparse.ArgumentParser(prog="python -m experiments.launch", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=int, default=3, help="times that the run is started again")
    parser.add_argument("--processes", type=int, default=1, help="processes of this machine that share the job")
    parser.add_argument("run", nargs="*", metavar="-- ARGUMENT", help="of experiments.run")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    for name, least in (("restarts", 0), ("processes", 1)):
        if getattr(options, name) < least:
            print(f"error: --{name}={getattr(options, name)}: at least {least}", file=sys.stderr)
            return EXIT_USER
    with StopSignals() as signals:
        for attempt in range(options.restarts + 1):
            code = once(options.run, options.processes, signals)
            if code in (0, EXIT_USER, EXIT_DIVERGED) or signals.received:
                return code
            if attempt == options.restarts:
                break
            pause = min(2.0**attempt, _LONGEST_PAUSE)
            how = "was stopped" if code == EXIT_STOPPED else f"ended with code {code}"
            print(f"launch: the run {how}; restart {attempt + 1} of {options.restarts} in {pause:.0f} s", file=sys.stderr)
            time.sleep(pause)
    print(f"launch: given up after {options.restarts} restarts; what was saved is kept, run the same command again",
          file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
