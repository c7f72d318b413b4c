"""The launcher: what is started again, what is not, and how often."""

import pytest

from experiments import launch


@pytest.mark.parametrize(("codes", "restarts", "expected"), [
    ([0], 3, (0, 1)),
    ([-9, 75, 0], 3, (0, 3)),
    ([2], 3, (2, 1)),
    ([3], 3, (3, 1)),
    ([-9, -9, -9], 2, (-9, 3)),
])
def test_killed_and_preempted_runs_start_again_and_no_others(codes, restarts, expected, monkeypatch):
    begun = []

    def once(arguments, signals, processes, heartbeat):
        assert (processes, heartbeat) == (1, 100)
        begun.append(arguments)
        return codes[len(begun) - 1]

    monkeypatch.setattr(launch, "once", once)
    monkeypatch.setattr(launch.time, "sleep", lambda seconds: None)
    found = launch.main([f"--restarts={restarts}", "--", "--config=x", "--workdir=y"])
    assert (found, len(begun)) == expected and begun[0] == ["--config=x", "--workdir=y"]
