"""Sweeps: points and their commands, claims between workers, retries of a killed run, one bundle of all runs."""

import fcntl
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import collect
from experiments.harness.errors import UserError
from experiments.sweep import __main__ as command
from experiments.sweep import engines, points, worker
from jaxpost import probes, records, stats
from jaxpost.records import settings, storage

RUN = """
import pathlib, sys
path = pathlib.Path(next(a for a in sys.argv if a.startswith("--workdir=")).removeprefix("--workdir="))
path.mkdir(parents=True, exist_ok=True)
begun = path / "begun"
begun.write_text(begun.read_text() + "x" if begun.exists() else "x")
{body}
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """An interpreter whose experiments.run is the given body; returns a function that makes it."""
    def make(body):
        script = tmp_path / "run.py"
        script.write_text(RUN.format(body=body))
        wrapper = tmp_path / "python"
        wrapper.write_text(f"#!/bin/sh\nshift 2\nexec {sys.executable} {script} \"$@\"\n")
        wrapper.chmod(0o755)
        return str(wrapper)

    return make


def point(name="a"):
    return points.Point(name, "sft_then_ppo", (("seeds.first", "0"),), (("seeds.first", "0"),))


def test_a_grid_is_every_combination_and_brackets_keep_their_commas():
    found = points.grid(["seeds.first=0,100", "arms=('a', 'b'),('c',)"])
    assert [tuple(one.values()) for one in found] == [("0", "('a', 'b')"), ("0", "('c',)"), ("100", "('a', 'b')"),
                                                      ("100", "('c',)")]
    assert points.grid(["train.objective=grpo,dr-grpo"]) == [{"train.objective": "grpo"}, {"train.objective": "dr-grpo"}]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--over", "seeds.first"], "expected KEY=VALUE"),
    (["--over", "seeds.first=1,,2"], "expected KEY=VALUE"),
    (["--over", "seeds.frst=1"], "did you mean 'seeds.first'"),
    (["--over", "seeds.first=1,1"], "are the same run"),
    (["--over", "seeds.first=1,0x1"], "are the same run: {'seeds.first': '1'} and {'seeds.first': '0x1'}; leave one out"),
    (["--over", "seeds.first="], "expected KEY=VALUE"),
    (["--over", "seeds.first=1", "--over", "seeds.first=2"], "given twice"),
    (["--over", "seeds.first=1", "--executor=locl"], "did you mean 'local'"),
    (["--over", "seeds.first=1", "--workers=0"], "at least 1"),
    (["--over", "seeds.first=1", "--executor=gcloud"], "--hosts=NAME"),
    ([], "has no sweep() of its own"),
])
def test_a_mistake_is_one_line_before_anything_runs(arguments, message, tmp_path, capsys):
    assert command.main(["--config=sft_then_ppo", f"--directory={tmp_path / 'sweep'}", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not (tmp_path / "sweep").exists()


def test_a_plan_of_a_sweep_that_cannot_be_read_is_one_line(tmp_path, capsys):
    (tmp_path / "sweep.json").write_text("{")
    arguments = ["--config=rlvr_sparsity:smoke", "--over=train.steps=1", f"--directory={tmp_path}"]
    assert command.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"cannot read {tmp_path / 'sweep.json'}" in err


def test_commands_are_the_same_runs_for_every_executor(tmp_path):
    made = points.points("rlvr_sparsity", points.grid(["seeds.first=0,5,10"]), {"train.steps": "9"})
    lines = engines.commands(made, tmp_path, "print", 1, ()).splitlines()
    assert len(lines) == 3 and all("--config.train.steps=9" in line and "--workdir=" in line for line in lines)
    script = engines.commands(made, tmp_path, "slurm", 2, ())
    assert "--array=0-2%2" in script and all(line in script for line in lines)
    remote = engines.commands(made, tmp_path, "gcloud", 1, ("one", "two")).splitlines()
    assert len(remote) == 2 and remote[0].count("experiments.run") == 2


def test_a_killed_run_is_started_again_and_bad_input_is_not(tmp_path, fake):
    twice = fake("import os, signal\nif begun.read_text() != 'xx': os.kill(os.getpid(), signal.SIGKILL)")
    found = worker.carry_out(point(), tmp_path, retries=2, python=twice)
    assert (found.state, found.attempts) == (worker.FINISHED, 2)
    found = worker.carry_out(point("b"), tmp_path, retries=2, python=fake("print('error: no such key'); sys.exit(2)"))
    assert (found.state, found.attempts, found.message) == (worker.FAILED, 1, "error: no such key")
    found = worker.carry_out(point("c"), tmp_path, retries=1, python=fake("sys.exit(75)"))
    assert (found.state, found.attempts) == (worker.FAILED, 2) and "stopped from outside 2 times" in found.message


def test_a_run_is_claimed_by_one_worker_and_the_claim_ends_with_it(tmp_path):
    with open(tmp_path / "lock", "w"), worker.claimed(tmp_path, "a") as mine:
        assert mine
        assert worker.carry_out(point(), tmp_path, retries=0).state == worker.ELSEWHERE
    with worker.claimed(tmp_path, "a") as mine, open(tmp_path / "claims" / "a.lock") as other:
        assert mine
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_stopped_sweep_asks_its_runs_to_save_and_begins_no_other(tmp_path, fake, monkeypatch):
    waiting = fake("import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
                   "(path / 'ready').touch()\ntime.sleep(60)")
    monkeypatch.setattr(engines, "carry_out", lambda *given: worker.carry_out(*given, python=waiting))
    stop = threading.Event()

    def when_ready():
        while not (tmp_path / "a" / "ready").exists():
            time.sleep(0.05)
        stop.set()

    threading.Thread(target=when_ready, daemon=True).start()
    found = {o.name: o for o in engines.local([point("a"), point("b")], tmp_path, workers=1, retries=3, stop=stop,
                                              say=lambda *_: None)}
    assert {o.state for o in found.values()} == {worker.STOPPED} and (found["a"].attempts, found["b"].attempts) == (1, 0)


def run_with(path, steps, seeds, base="b" * 16, experiment="objectives_tour", **extra):
    """A finished bundle of two arms: success grows with the steps."""
    config = {"experiment": experiment, "train": {"steps": steps}, "seeds": {"first": seeds[0], "count": len(seeds)}}
    rows = [{"metric": "policy.success", "arm": arm, "role": "seed", "step": step, "seed": seed, "granularity": "policy",
             "split": "id", "value": 0.4 if arm == "base" else 0.4 + 0.01 * steps + 0.001 * seed, "conditional_on": base}
            for seed in seeds for arm, step in (("base", 0), ("rl", steps))]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    null = columns | {"role": "null", "of": records.row_ids(columns), "null_kind": "reevaluation", "value": 0.1}
    with records.Bundle.open(path, config, records.config_hash(config), [], title="t") as bundle:
        bundle.write_rows("rows", columns)
        bundle.write_rows("nulls", null)
        return records.finish(bundle, metrics=probes.METRICS, extra={"n_seeds": len(seeds), **extra})


def test_further_seeds_are_replicates_and_other_settings_are_arms(tmp_path):
    for i, (steps, seeds) in enumerate([(10, (0, 1)), (10, (2, 3)), (20, (0, 1)), (40, (0, 1))]):
        run_with(tmp_path / "runs" / str(i), steps, seeds)
    collect.collect([tmp_path / "runs"], tmp_path / "out")
    table = records.read_measurements(tmp_path / "out")
    rows = {r["arm"]: r for r in records.select(table, role="estimate", metric="policy.success").to_pylist()}
    assert set(rows) == {"base", *(f"rl @ train.steps={n}" for n in (10, 20, 40))}
    ten = rows["rl @ train.steps=10"]
    x = 0.5 + 0.001 * np.arange(4)
    assert ten["n_units"] == 4 and (ten["value"], ten["ci_lo"]) == pytest.approx((x.mean(), stats.t_interval(x).lo))
    assert rows["base"]["n_units"] == 4  # the base of one seed is in several runs, and counts once
    seeds = set(records.select(table, role="seed")["row_id"].to_pylist())
    assert len(seeds) == 12 and seeds <= set(records.select(table, role="null")["of"].to_pylist())
    assert (tmp_path / "out" / "figures" / "responses.png").stat().st_size > 10_000
    assert len(storage.read_json(tmp_path / "out" / "manifest.json")["collected"]) == 4


def test_what_does_not_go_together_is_refused(tmp_path):
    with pytest.raises(UserError, match="no finished run in or below"):
        collect.collect([tmp_path], tmp_path / "out")
    run_with(tmp_path / "a", 10, (0, 1))
    run_with(tmp_path / "b", 10, (0, 1), experiment="study")
    with pytest.raises(UserError, match="different experiments"):
        collect.collect([tmp_path], tmp_path / "out")
    run_with(tmp_path / "c", 10, (0, 1), kind="compare")
    with pytest.raises(UserError, match="c is a comparison of checkpoints and has no seeds"):
        collect.collect([tmp_path / "c"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_arms_name_with_settings_is_read_back():
    given = {"train.learning_rates": "(1e-05, 0.0001)", "seeds.first": "3"}
    assert settings.parsed(settings.named("rlvr-lr1", given)) == ("rlvr-lr1", given)
    assert settings.parsed("rlvr") == ("rlvr", {}) and settings.named("rlvr", {}) == "rlvr"


@pytest.mark.slow
def test_ray_runs_points_on_a_local_cluster_of_two(tmp_path, fake, monkeypatch):
    """Two workers; one is killed while its run goes on, Ray starts another, and the run is carried to its end."""
    pytest.importorskip("ray")
    python = fake("import os, signal\nif path.name == 'b' and begun.read_text() == 'x': os.kill(os.getppid(), signal.SIGKILL)")

    def through(given, directory, retries):
        return worker.carry_out(given, directory, retries, python=python)

    monkeypatch.setattr(engines, "carry_out", through)
    found = {o.name: o for o in engines.ray_cluster([point("a"), point("b"), point("c")], tmp_path, workers=2, retries=2,
                                                    stop=threading.Event(), say=lambda *_: None)}
    assert {o.state for o in found.values()} == {worker.FINISHED}, found
    assert (Path(tmp_path) / "b" / "begun").read_text() == "xx" and os.path.exists(tmp_path / "logs" / "b.log")
