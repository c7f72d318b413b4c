"""Keep a run going: `python -m experiments.launch --restarts=5 -- --config=rlvr_sparsity --workdir=results/mine`.

What stands after `--` is given to experiments.run. A run that was killed, preempted (code 75) or lost a process (code 76, or
ended by the runtime) is started again and resumes where it was, at most --restarts times, after a pause that doubles from one
second to a minute. Bad input (2) and a loss that is not finite (3) are not tried again. A SIGTERM or SIGINT is passed on, and
the launcher ends when the run has saved.

`--processes=2` runs two processes of this machine together, on a coordinator that the launcher chooses; when one ends with an
error the others are waited for and all are started again. On several hosts, start the launcher on every host with
`--config.distributed=...` of that host behind the `--`: each keeps its own process going, and they meet again.
"""

import argparse
import signal
import socket
import subprocess
import sys
import time

from experiments.harness import distributed
from experiments.harness.command import dies_with_parent, refuse
from experiments.harness.errors import EXIT_DIVERGED, EXIT_STOPPED, EXIT_USER
from experiments.harness.session import StopSignals

_LONGEST_PAUSE = 60.0  # seconds
_PATIENCE = 30.0  # seconds beyond the heartbeat that the other processes of a broken run get


def once(arguments: list[str], signals: StopSignals, processes: int = 1, heartbeat: int = distributed.HEARTBEAT) -> int:
    """Run once, in so many processes, and wait; returns the exit code, of several the one that says most (`telling`)."""
    each = [[]]
    if processes > 1:
        address = f"localhost:{free_port()}"
        each = [[f"--config.distributed={address},{processes},{i},heartbeat={heartbeat}"] for i in range(processes)]
    # A session of their own: a Ctrl-C reaches them once, from here; the second one would end them unsaved.
    running = [subprocess.Popen([sys.executable, "-m", "experiments.run", *arguments, *more], start_new_session=True,
                                preexec_fn=dies_with_parent()) for more in each]
    asked, broken = False, None
    while any(one.poll() is None for one in running):
        if signals.received and not asked:
            asked = True
            for one in running:
                one.send_signal(signal.SIGTERM)
        if broken is None and any(one.poll() for one in running):
            broken = time.monotonic()
        if broken is not None and time.monotonic() - broken > heartbeat + _PATIENCE:
            for one in running:
                one.kill()
        time.sleep(0.1)
    return telling([one.returncode for one in running])


def telling(codes: list[int]) -> int:
    """Of the exit codes of one run: bad input or a loss that is not finite, then a stop, then any failure, then 0."""
    order = (EXIT_USER, EXIT_DIVERGED, EXIT_STOPPED)
    return next((code for code in order if code in codes), next((code for code in codes if code), 0))


def free_port() -> int:
    """A port of this machine that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code of the last attempt."""
    parser = argparse.ArgumentParser(prog="python -m experiments.launch", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=int, default=3, help="times that the run is started again")
    parser.add_argument("run", nargs="*", metavar="-- ARGUMENT", help="of experiments.run")
    parser.add_argument("--processes", type=int, default=1, help="of this machine that run together")
    parser.add_argument("--heartbeat", type=int, default=distributed.HEARTBEAT,
                        help="seconds after which a silent process is taken for dead")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    for name, least in (("restarts", 0), ("processes", 1), ("heartbeat", 1)):
        if (value := getattr(options, name)) < least:
            return refuse(f"--{name}={value}: at least {least}")
    with StopSignals() as signals:
        for attempt in range(options.restarts + 1):
            code = once(options.run, signals, options.processes, options.heartbeat)
            if code in (0, EXIT_USER, EXIT_DIVERGED) or signals.received:
                return code
            if attempt == options.restarts:
                break
            pause = min(2.0 ** min(attempt, 10), _LONGEST_PAUSE)
            how = "was stopped" if code == EXIT_STOPPED else f"ended with code {code}"
            print(f"launch: the run {how}; restart {attempt + 1} of {options.restarts} in {pause:.0f} s", file=sys.stderr)
            time.sleep(pause)
    print(f"launch: given up after {options.restarts} restarts; what was saved is kept, run the same command again",
          file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
