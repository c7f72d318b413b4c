"""Keep a run going: `python -m experiments.launch --restarts=5 -- --config=rlvr_sparsity --workdir=results/mine`.

What stands after `--` is given to experiments.run. A run that was killed, preempted (code 75) or lost a process is started
again and resumes where it was, at most --restarts times, after a pause that doubles from one second to a minute. Bad input (2)
and a loss that is not finite (3) are not tried again. A SIGTERM or SIGINT is passed on, and the launcher ends when the run
has saved.
"""

import argparse
import signal
import subprocess
import sys
import time

from experiments.harness.command import refuse
from experiments.harness.errors import EXIT_DIVERGED, EXIT_STOPPED, EXIT_USER
from experiments.harness.session import StopSignals

_LONGEST_PAUSE = 60.0  # seconds


def once(arguments: list[str], signals: StopSignals) -> int:
    """Run once and wait; returns the exit code."""
    running = subprocess.Popen([sys.executable, "-m", "experiments.run", *arguments])
    asked = False
    while running.poll() is None:
        if signals.received and not asked:
            asked = True
            running.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    return running.returncode


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code of the last attempt."""
    parser = argparse.ArgumentParser(prog="python -m experiments.launch", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=int, default=3, help="times that the run is started again")
    parser.add_argument("run", nargs="*", metavar="-- ARGUMENT", help="of experiments.run")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    if options.restarts < 0:
        return refuse(f"--restarts={options.restarts}: at least 0")
    with StopSignals() as signals:
        for attempt in range(options.restarts + 1):
            code = once(options.run, signals)
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
