"""A finished run: complete, not overwritten, extended by seeds; and what happens when the disk, a file or a loss fails."""

import itertools
import os
import shutil
import types

import numpy as np
import pyarrow.compute as pc
import pytest
from rich.console import Console

from experiments import run
from experiments.harness import config as configs
from experiments.harness import ensemble, work
from experiments.harness.errors import UserError
from experiments.harness.measure import infos
from experiments.harness.session import Session, StopSignals
from experiments.study import Setup
from jaxpost import checkpoint, probes, records
from jaxpost.probes.policy import forgetting_fit
from jaxpost.records import completions, storage
from jaxpost.records.verify import verify

from .conftest import TINY, arguments, record_reads


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code under test catches it."""


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished run that a test may change."""
    return shutil.copytree(finished, tmp_path / "run")


def rows(path, **wanted):
    return records.select(records.read_measurements(path), **wanted)


def test_the_bundle_verifies_and_a_second_call_says_that_it_is_finished(finished, tiny):
    good, bad = verify(finished)
    assert not bad and good
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    code, out, err = tiny(finished)
    assert code == 0 and "is finished (2 seeds, bundle" in out and "is not overwritten" in out and not err
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}


def test_every_policy_and_the_base_are_asked_at_every_measurement(finished):
    answers, success = completions.read(finished).to_pylist(), rows(finished, metric="policy.success", role="seed", split="id")
    asked = {(row["arm"], row["seed"], row["step"]) for row in answers if row["arm"] != "base"}
    measured = success.filter(pc.and_(pc.is_valid(success["step"]), pc.not_equal(success["arm"], "base")))  # not matched points
    assert asked == set(zip(*(measured[name].to_pylist() for name in ("arm", "seed", "step"))))
    base = {row["problem"]: row["prompt"] for row in answers if row["arm"] == "base"}
    assert len(base) == 4 and all(base[row["problem"]] == row["prompt"] for row in answers)
    assert all(row["logp"] < 0 and row["tokens"] >= 1 and row["reward"] in (0, 1) for row in answers)


def test_measured_metrics_are_exactly_the_registered_ones(finished):
    measured = set(rows(finished)["metric"].unique().to_pylist())
    setup = Setup(configs.load(str(TINY), {}), ())
    assert measured == {name for probe in setup.probes for name in probe.metrics} | {
        "weight.jaccard", *(metric.id for metric in forgetting_fit.FITS), *work.METRICS}
    assert measured <= {*probes.METRICS, *work.METRICS}
    assert set(records.read_metrics(finished)["metric"].to_pylist()) == measured


def test_every_matrix_has_a_row_of_every_weight_metric(finished):
    setup = Setup(configs.load(str(TINY), {}), ())
    names = {info.name for info in infos(setup.model)}
    assert len(names) == 9  # q k v o gate up down, embed, head
    found = rows(finished, granularity="tensor")
    for metric in {"weight.jaccard", *(name for probe in setup.probes for name in probe.metrics)}:
        if metric.startswith("weight."):
            seen = set(records.select(found, metric=metric)["tensor"].unique().to_pylist())
            assert seen == names, metric


def test_every_config_key_is_read_by_something(finished):
    read = set((finished.parent / "reads.txt").read_text().split())
    keys = set(configs.leaves(configs.load(str(TINY), {})))
    conditional = {"train.sgd_learning_rate", "train.learning_rate", "wandb.project"} & keys  # where an arm or a mode asks
    assert keys - read <= conditional
    assert not read - keys


def test_a_key_that_nothing_reads_is_found(monkeypatch):
    seen = record_reads(monkeypatch)
    config = run.configs.load(str(TINY), {})
    with config.unlocked():
        config.train.idle = 3
    seen.clear()
    assert config.train.steps == 4 and config.to_dict()["train"]["idle"] == 3 and config.model.to_dict()
    assert seen == {"train.steps", *(f"model.{key}" for key in config.model)}


@pytest.mark.slow
def test_adding_seeds_reuses_the_finished_ones_bit_for_bit(finished, copy, tiny):
    code, out, err = tiny(copy, "--config.seeds.count=4")
    assert code == 0, err
    assert "adding seeds: 2 are finished, 4 are asked for" in out
    old, new = rows(finished, role="seed"), rows(copy, role="seed")
    kept = {row["row_id"]: row for row in new.to_pylist()}
    compared = [row for row in old.to_pylist() if "at=" not in (row["params"] or "")]
    assert len(compared) > 1000 and all(kept[row["row_id"]] == row for row in compared)
    assert set(new["seed"].unique().to_pylist()) == {100, 101, 102, 103}
    assert {r["n_units"] for r in rows(copy, role="estimate", metric="weight.sparsity.bf16").to_pylist()} == {4}
    per_seed = {seed: len(records.select(new, seed=seed)) for seed in (100, 101, 102, 103)}
    assert len(set(per_seed.values())) == 1, per_seed
    assert not verify(copy)[1]
    assert len(storage.read_json(copy / "manifest.json")["extensions"]) == 1
    code, out, err = tiny(copy, "--config.seeds.count=3")
    assert code == 0 and "is finished (4 seeds" in out


def test_seeds_that_cannot_be_added_leave_the_finished_run_alone(copy, refused):
    shutil.rmtree(copy / "base-0" / "arms" / "sft-lr1")
    assert "the checkpoints of the finished seed 100 are gone" in refused("--config.seeds.count=3", workdir=copy)
    assert "3 seeds" not in refused("--config.seeds.count=5", "--config.train.steps=3", workdir=copy)
    assert not verify(copy)[1]


def test_blocks_cover_gaps_in_seed_order_and_refuse_dropped_seeds(tmp_path):
    for name in ("seeds-12-13", "seeds-5-6", "other"):
        (tmp_path / "arm" / name).mkdir(parents=True)
    found = ensemble.blocks(tmp_path, "arm", range(5, 16))
    assert [(b.first, b.count) for b in found] == [(5, 2), (7, 5), (12, 2), (14, 2)]
    with pytest.raises(UserError, match=r"seeds that are not asked for now \(12 to 13 of arm 'arm'\).*at least 9"):
        ensemble.blocks(tmp_path, "arm", range(5, 8))


def test_another_config_in_the_directory_is_refused(copy, refused):
    line = refused("--config.train.steps=5", workdir=copy)
    assert "holds another config" in line and "train.steps (4 there, 5 here)" in line


@pytest.mark.parametrize("budgets", [(57,), pytest.param((6, 30, 57, 85), marks=pytest.mark.slow)])
def test_a_kill_at_any_write_loses_nothing(finished, tmp_path, monkeypatch, budgets):
    """Killed at a write, before or after it, as often as there are budgets: the rows of the undisturbed run."""
    path, real, left = tmp_path / "run", storage.write_atomic, [0, ""]

    def write(target, writer):
        left[0] -= 1
        mine = left[0]  # a digest is written inside the write of its file
        if (mine, left[1]) == (0, "before"):
            raise Killed(target)
        real(target, writer)
        if mine == 0:
            raise Killed(target)

    monkeypatch.setattr(storage, "write_atomic", write)
    stops = []
    for budget, where in zip((*budgets, 10_000), itertools.cycle(("before", "after"))):
        left[:] = budget, where
        try:
            assert run.main(arguments(path)) == 0
            break
        except Killed as kill:
            stops.append(str(kill))
    assert len(stops) == len(budgets), stops
    assert rows(path).equals(rows(finished)), stops
    assert storage.read_json(path / "manifest.json")["bundle_id"] == storage.read_json(finished / "manifest.json")["bundle_id"]
    assert "rows-replaced" not in (path / "events.jsonl").read_text()


def test_a_loss_that_is_not_finite_stops_and_keeps_what_was_there(refused, tmp_path):
    line = refused("--config.train.learning_rates=(1e-4,1e30,1e-3)", "--config.checkpoint.every_seconds=0.0", code=3)
    assert "arm rlvr-lr1, seed 10" in line and "the loss is not finite at step 2 (learning rate 1e+30)" in line
    assert "kept: the checkpoint of step 1 and all rows before; lower --config.train.learning_rates" in line
    path = tmp_path / "run"
    assert [p.name for p in (path / "rows").glob("rlvr*")] == ["rlvr-lr1-00001-seeds-100-101.parquet"]
    assert (path / "base-0" / "arms" / "rlvr-lr1" / "seeds-100-101" / "1").is_dir()
    assert not (path / ".lock").exists()


def test_a_truncated_checkpoint_and_a_full_disk_are_one_line_each_and_the_run_goes_on(copy, refused, tiny, finished,
                                                                                      monkeypatch):
    records.reopen(types.SimpleNamespace(path=copy))
    storage.release_directory(copy)
    step = copy / "base-0" / "arms" / "sft-lr1" / "seeds-100-101" / "4"
    for earlier in step.parent.glob("[0-3]"):  # a slow machine saves between measurements too, and that is gone on from
        shutil.rmtree(earlier)
    for file in (step / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:20])
    line = refused(workdir=copy)
    assert f"no checkpoint in {step.parent} is what was saved" in line and "remove the directories" in line
    shutil.rmtree(step)
    real = checkpoint.ocp.CheckpointManager.wait_until_finished

    def full(self):  # what a writer thread meets comes up at a later call
        real(self)
        if "sft-lr1" in str(self.directory):
            raise ValueError("RESOURCE_EXHAUSTED: Failed writing: [OS error 28: ENOSPC No space left on device]\nmore lines")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.ocp.CheckpointManager, "wait_until_finished", full)
        line = refused(workdir=copy)
    assert "sft-lr1" in line and "No space left on device" in line and "run the same command again" in line
    code, _, err = tiny(copy)
    assert code == 0, err
    assert rows(copy).equals(rows(finished))


def test_a_place_that_cannot_be_written_is_one_line(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused(workdir=tmp_path / "file" / "run")
    assert "cannot write" in refused(workdir=tmp_path / "file")


def test_an_os_error_anywhere_is_one_line(refused, monkeypatch):
    def full(*given, **named):
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("experiments.study._one_base", full)
    assert refused().startswith("error: No space left on device: somewhere; what was written before is intact")


def test_the_tracker_is_off_by_default_and_never_fatal(monkeypatch, capsys, tmp_path):
    class Wandb(types.ModuleType):
        calls = []

        def init(self, **named):
            Wandb.calls.append(named["mode"])
            if named["mode"] == "online":
                raise ConnectionError("no network\nmore")
            return self

        def log(self, scalars):
            raise RuntimeError("the service went away")

        def define_metric(self, *given, **named):
            pass

        def finish(self, **named):
            raise AssertionError("a mirror that ended is not finished again")

        Settings = staticmethod(dict)

    monkeypatch.setitem(os.sys.modules, "wandb", Wandb("wandb"))
    for mode in ("disabled", "online", "offline"):
        config = {"wandb": {"mode": mode, "project": "p"}}
        with StopSignals() as signals, Session(signals, config, "name", tmp_path) as session:
            for step in (0, 1):
                session.telemetry.steps("arm", [3], step, {"loss": np.ones((1, 1))})
    shown = capsys.readouterr().out
    assert Wandb.calls == ["online", "offline", "offline"]  # disabled does not even import it
    assert "W&B mirror is off: ConnectionError: no network\n" in shown
    assert shown.count("W&B mirror ended: RuntimeError: the service went away") == 1


def test_progress_is_a_bar_on_a_terminal_and_silent_elsewhere(capsys, tmp_path):
    with StopSignals() as signals, Session(signals, {}, "name", tmp_path) as session:
        session.phase("arm", 10)
        session.advance(5, "7 tokens/s")
        assert capsys.readouterr().out == ""
        session.console = Console(force_terminal=True, width=120)
        session.phase("arm", 10, 2)
        session.advance(5, "7 tokens/s")
        session._bar.refresh()
        shown = capsys.readouterr().out
        session.phase("pretraining", 90, early=True)  # it may end before
        session.advance(30)
        session._bar.refresh()
        early = capsys.readouterr().out
    assert "arm" in shown and "7/10" in shown and "ETA" in shown and "7 tokens/s" in shown and "at most" not in shown
    assert "30/at most 90" in early and "ETA at most" in early

