"""SIGKILL and SIGTERM of a real process: the same command resumes, and the rows are those of the undisturbed run."""

import os
import signal
import threading
import time

import pytest

from experiments.harness import errors, session
from jaxpost import records
from jaxpost.records import storage

from .conftest import start

_EACH = "--config.checkpoint.every_seconds=0.0"  # a checkpoint at every boundary


def stop_when(process, appears, number) -> tuple[int, str]:
    """Send a signal as soon as `appears()`; (exit code, stderr)."""

    def watch():
        while process.poll() is None and not appears():
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, number)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    _, err = process.communicate(timeout=300)
    watcher.join()
    return process.returncode, err


@pytest.mark.slow
def test_killed_and_stopped_runs_end_with_the_rows_of_the_undisturbed_one(tmp_path, request):
    path = tmp_path / "run"
    events = (
        # in the middle of an asynchronous save while pretraining
        (lambda: list(path.glob("base-0/pretraining/*tmp*")), signal.SIGKILL),
        # while the last checkpoint of the first arm is being written
        (lambda: list(path.glob("base-0/arms/rlvr-lr1/seeds-100-101/4*")), signal.SIGKILL),
        # stopped politely within the second arm
        (lambda: list(path.glob("rows/sft-lr1-00001*.parquet")), signal.SIGTERM),
    )
    for appears, number in events:
        code, err = stop_when(start(path, _EACH), appears, number)
        if number == signal.SIGKILL:
            assert code == -signal.SIGKILL, (code, err)
        else:
            assert code == errors.EXIT_STOPPED == 75
            assert err.startswith("error: stopped by SIGTERM; sft-lr1 is saved at step ") and err.count("\n") == 1
            assert err.endswith("run the same command again to go on\n")
            assert not (path / ".lock").exists()
    process = start(path)  # checkpoint cadence is no part of the config's identity
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and not err, err
    assert "resumed run in" in out and "\r" not in out  # lines, no progress bar
    finished = request.getfixturevalue("finished")
    assert records.read_measurements(path).equals(records.read_measurements(finished))
    manifest = storage.read_json(path / "manifest.json")
    assert manifest["bundle_id"] == storage.read_json(finished / "manifest.json")["bundle_id"]
    assert len(manifest["sessions"]) == 4
    assert "rows-replaced" not in (path / "events.jsonl").read_text()


def test_a_signal_that_comes_twice_at_once_is_one_and_a_later_one_ends_the_process(monkeypatch):
    ended, clock = [], [10.0]
    with session.StopSignals() as signals:
        monkeypatch.setattr(session.time, "monotonic", lambda: clock[0])
        monkeypatch.setattr(session.os, "kill", lambda pid, number: ended.append(number))
        for moment, expected in ((10.0, []), (10.5, []), (13.0, [signal.SIGTERM])):
            clock[0] = moment
            signal.raise_signal(signal.SIGTERM)
            assert signals.received == "SIGTERM" and ended == expected
            signal.signal(signal.SIGTERM, signals._remember)
