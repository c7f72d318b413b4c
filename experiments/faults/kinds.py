"""The kinds of faults: each disturbs runs of the subject so many times and counts what was lost.

Every kind is `(subject, expected, directory, count, rng, seconds) -> Tally`: `expected` is the identity of the undisturbed run
and `seconds` what that took. A run that lost something stays in `directory`, with its log beside it; the others are removed.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from experiments.faults.attempts import Campaign, Moment, Subject, Tally, done, ended, identity, log_of, moments, same
from experiments.faults.sweeps import of_sweep
from experiments.harness.errors import EXIT_STOPPED, EXIT_USER, UserError
from experiments.launch import free_port


def killed(subject: Subject, expected: str, directory: Path, count: int, rng: random.Random, seconds: float) -> Tally:
    """SIGKILL at random moments; one run is killed and resumed until it ends, then the next begins.

    Moments take turns, whether they are met or not; after 40 runs a kill the campaign ends with those that were met.
    """
    tally, number, waited = Tally("killed"), 0, Counter()
    while tally.tried < count and number < 40 * count:
        number += 1
        run, faults = directory / f"killed-{number}", []
        while True:
            moment = _next([moment for moment in moments(seconds) if moment.ahead(run)] or moments(seconds)[:1], waited, rng)
            waited[moment.name] += 1
            process = subject.start(run)
            if len(faults) + tally.tried < count and moment.reached(process, run, rng):
                process.kill()
            code = ended(process)
            if code != -signal.SIGKILL:
                break
            faults.append(moment.name)
        good = code == 0 and same(run, expected)
        done(tally, good, run, faults or ([] if good else [f"ended with code {code} undisturbed"]))
    return tally


def _next(candidates: Sequence[Moment], waited: Counter, rng: random.Random) -> Moment:
    """One of the moments that were waited for least."""
    least = min(waited[moment.name] for moment in candidates)
    return rng.choice([moment for moment in candidates if waited[moment.name] == least])


def interrupted(subject: Subject, directory: Path) -> Path:
    """A run that was stopped by SIGTERM when its last arm had two checkpoints: what files are damaged in."""
    run = directory / "interrupted"
    for _ in range(20):
        process = subject.start(run)
        while process.poll() is None and len(_checkpoints(run)) < 2:
            time.sleep(0.002)
        if process.poll() is None:
            process.terminate()
        if (code := ended(process)) != EXIT_STOPPED:
            raise UserError(f"{run}: a run that was asked to stop ended with code {code}; see {log_of(run)}")
        if len(_checkpoints(run)) >= 2:
            return run
    raise UserError(f"{run}: no moment with two checkpoints was met")


def _checkpoints(run: Path) -> list[Path]:
    """Steps of the arm that began last, oldest first."""
    arms = sorted((run / "base-0" / "arms").glob("*/*"), key=lambda path: path.stat().st_ctime)
    if len(arms) < 2:
        return []
    return sorted((path for path in arms[-1].iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def damaged(subject: Subject, expected: str, directory: Path, count: int, rng: random.Random, seconds: float) -> Tally:
    """A file of the newest checkpoint is truncated, or one of its bits is flipped; the run is resumed.

    Survived: the run ends with the expected rows. It says so where what was damaged is read; a file of the checkpoint that
    nothing is read from may be damaged without a word ("harmless").
    """
    tally, sound = Tally("damaged checkpoint"), interrupted(subject, directory)
    newest = _checkpoints(sound)[-1].relative_to(sound)
    files = sorted(path.relative_to(sound) for path in (sound / newest).rglob("*") if path.is_file() and path.stat().st_size)
    for number in range(1, count + 1):
        run = directory / f"damaged-{number}"
        shutil.copytree(sound, run)
        name = rng.choice(files)
        data = bytearray((run / name).read_bytes())
        cut = rng.random() < 0.5
        at = rng.randrange(len(data))
        if cut:
            del data[at:]
        else:
            data[at] ^= 1 << rng.randrange(8)
        (run / name).write_bytes(bytes(data))
        good = ended(subject.start(run)) == 0 and same(run, expected)
        what = "truncated" if cut else "bit flipped"
        noticed = " is damaged (" in log_of(run).read_text()  # of the checkpoint that is moved aside
        outcome = f"{what}, {'previous one used' if noticed else 'harmless'}" if good else f"{what}: {name} at {at}"
        done(tally, good, run, [outcome])
    return tally


_FULL = """mkdir -p "$1" && mount -t tmpfs -o size="$2" none "$1" || exit 99
shift 2; "$@" >>"$FIRST" 2>&1; first=$?
mount -o remount,size=4g none "$RUN"; "$@" >>"$SECOND" 2>&1; second=$?
cp -r "$RUN"/. "$KEPT"; echo "$first $second" >"$CODES" """


def full(subject: Subject, expected: str, directory: Path, count: int, rng: random.Random, seconds: float) -> Tally:
    """The disk is full at a random byte: the run must stop with one line, and go on when there is room.

    The disk is a tmpfs of a user and mount namespace of its own (Linux, `unshare`); where that is not allowed nothing is tried.
    """
    tally = Tally("disk full")
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"],
                                                         capture_output=True).returncode:
        tally.notes["not tried: this machine allows no namespaces (unshare)"] = 0
        return tally
    largest, number, tries = 2 << 20, 0, 0
    while tally.tried < count and tries < 20 * count:
        tries, number = tries + 1, number + 1
        run, size = directory / f"full-{number}", rng.randrange(64 << 10, largest)
        logs = {name: log_of(run, f"-{name.lower()}") for name in ("FIRST", "SECOND", "CODES")}
        run.mkdir()
        disk = directory / f"disk-{number}"
        command = subject.command(disk)
        ended(subprocess.Popen(["unshare", "-rm", "sh", "-c", _FULL, "sh", str(disk), str(size), *command],
                               env=os.environ | {"RUN": str(disk), "KEPT": str(run)} | {k: str(v) for k, v in logs.items()}))
        disk.rmdir()  # what was on it went with its namespace
        first, second = map(int, logs["CODES"].read_text().split()) if logs["CODES"].exists() else (None, None)
        if first == 0:  # there was room for all of it
            largest = min(largest, size)
            done(tally, True, run, [])
            continue
        errors = [line for line in logs["FIRST"].read_text().splitlines() if line.startswith("error: ")]
        stopped = first == EXIT_USER and len(errors) == 1 and ("No space left" in errors[0] or "make room" in errors[0])
        done(tally, stopped and second == 0 and same(run, expected), run, ["disk full"])
    return tally


def together(subject: Subject, expected: str, directory: Path, count: int, rng: random.Random, seconds: float) -> Tally:
    """Two runs are started in one directory: one has it, the other refuses or finds it finished."""
    tally = Tally("two runs in one directory")
    for number in range(1, count + 1):
        run = directory / f"together-{number}"
        first = subject.start(run, name="-a")
        time.sleep(rng.uniform(0, 0.2 * seconds) if number % 2 else 0)
        second = subject.start(run, name="-b")
        codes = sorted((ended(first) or 0, ended(second) or 0))
        printed = log_of(run, "-a").read_text() + log_of(run, "-b").read_text()
        good = codes == [0, EXIT_USER] and "is in use by process" in printed or codes == [0, 0] and "is finished" in printed
        done(tally, good and same(run, expected), run, ["refused" if EXIT_USER in codes else "found finished"])
    return tally


def of_two(subject: Subject, expected: str, directory: Path, count: int, rng: random.Random, seconds: float) -> Tally:
    """One of two processes of a run is killed: the other ends by itself within the heartbeat, with one line; both go on later.

    Expected is what two undisturbed processes give; that run is made first.
    """
    heartbeat, tally = 60, Tally("one of two processes killed")
    run = directory / "two-undisturbed"
    if [ended(process) for process in _two(subject, run, heartbeat)] != [0, 0]:
        raise UserError(f"two undisturbed processes did not end well; see {log_of(run, '-0')}")
    expected = identity(run)
    moment = Moment("any moment", latest=1.5 * seconds)
    for number in range(1, count + 1):
        run = directory / f"two-{number}"
        both, faults, good = _two(subject, run, heartbeat), [], True
        victim = rng.randrange(2)
        if moment.reached(both[victim], run, rng):
            both[victim].kill()
            killed_at = time.monotonic()
            code = ended(both[1 - victim], heartbeat + 30)
            faults = [f"process {victim} killed"]
            tally.notes["longest wait, s"] = max(tally.notes.get("longest wait, s", 0), round(time.monotonic() - killed_at))
            errors = log_of(run, f"-{1 - victim}").read_text().count("error: ")
            good = code not in (None, 0, EXIT_USER) and errors == 1
        for process in both:
            ended(process)
        if faults:
            good = good and [ended(process) for process in _two(subject, run, heartbeat)] == [0, 0]
        done(tally, good and same(run, expected), run, faults or ["ended before"])
    return tally


def _two(subject: Subject, run: Path, heartbeat: int) -> list[subprocess.Popen]:
    address = f"localhost:{free_port()}"
    return [subject.start(run, f"--config.distributed={address},2,{index},heartbeat={heartbeat}", "--config.mesh=ensemble:2",
                          name=f"-{index}") for index in range(2)]


KINDS: dict[str, Campaign] = {"kills": killed, "damaged": damaged, "full": full, "together": together, "processes": of_two,
                              "sweeps": of_sweep}
