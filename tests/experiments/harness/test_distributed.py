"""Who is who in a run of several processes: what is read, and what is refused before anything starts."""

import pytest

from experiments import launch, run
from experiments.harness import distributed
from experiments.harness.errors import UserError


def test_a_stated_coordinator_and_the_cluster_are_read(monkeypatch):
    assert distributed.parse("10.0.0.1:8476,4,3") == {
        "coordinator_address": "10.0.0.1:8476", "num_processes": 4, "process_id": 3, "heartbeat_timeout_seconds": 100}
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    assert distributed.parse("auto,heartbeat=7") == {"heartbeat_timeout_seconds": 7, "num_processes": 2, "process_id": 1}


@pytest.mark.parametrize(("text", "expected"), [
    ("yes", "expected auto, or HOST:PORT,PROCESSES,INDEX"), ("host,2,0", "expected auto"),
    ("host:1,2,0,beat=3", "expected auto"),
    ("host:1,2,2", "the index of one of 2 processes is 0 to 1, found 2"),
])
def test_another_form_is_refused(text, expected):
    with pytest.raises(UserError, match=expected):
        distributed.parse(text)


def test_an_experiment_that_one_process_runs_refuses_and_no_process_is_waited_for(tmp_path, capsys):
    arguments = ["--config=objectives_tour:smoke", f"--workdir={tmp_path / 'run'}", "--config.distributed=localhost:1,2,0"]
    assert run.main(arguments) == 2
    assert "the experiment 'objectives_tour' runs in one process" in capsys.readouterr().err


def test_of_several_exit_codes_the_one_that_says_most_is_given():
    assert launch.telling([-6, 2]) == 2 and launch.telling([76, 75]) == 75
    assert launch.telling([0, -9]) == -9 and launch.telling([0, 0]) == 0
