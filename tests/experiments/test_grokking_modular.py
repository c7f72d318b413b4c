"""The grokking experiment: bad input before any compute, one finished run, a kill, added seeds."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import run
from experiments.harness import config as configs
from experiments.harness.errors import UserError
from experiments.study import setup_of
from jaxpost import models, records, training
from jaxpost.probes.fourier import basis as fourier_basis
from jaxpost.records.verify import verify

from .conftest import keys_read

TINY = ("--config.train.steps=6", "--config.train.steps_per_call=4", "--config.measure.grid_points=3",
        "--config.probe.fourier.sets=2", "--config.task.modulus=5", "--config.task.train_fraction=0.6",
        "--config.model.width=8", "--config.model.heads=1", "--config.model.kv_heads=1",
        "--config.model.head_dim=8", "--config.model.ff=8")
GRID, ARMS = (0, 1, 2, 6), ("grok", "no-decay", "random-labels")


def arguments(workdir, *more):
    return ["--config=grokking_modular:smoke", f"--workdir={workdir}", *TINY, f"--config.arms={ARMS}", *more]


def made(*overrides):
    """The checked study, with overrides "a.b=value"."""
    return setup_of(configs.load("grokking_modular:smoke", dict(text.split("=", 1) for text in overrides)), ())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(directory, keys read) of an undisturbed run."""
    path = tmp_path_factory.mktemp("grokking") / "run"
    return path, keys_read(arguments(path))


def bundle_id(path):
    return json.loads((path / "manifest.json").read_text())["bundle_id"]


def test_a_run_gives_a_verified_bundle_with_curves_measures_and_claims(finished):
    path, _ = finished
    assert not verify(path)[1]
    table = records.read_measurements(path)
    for arm in ARMS:
        for metric in ("fit.loss", "fit.accuracy", "fourier.restricted_loss", "fourier.gini", "fourier.sum_squares"):
            rows = records.select(table, arm=arm, role="seed", metric=metric)
            assert sorted(set(rows["step"].to_pylist())) == list(GRID) and set(rows["seed"].to_pylist()) == {200, 201}
        assert set(records.select(table, arm=arm, metric="fit.loss")["split"].to_pylist()) == {"train", "id"}
    manifest = json.loads((path / "manifest.json").read_text())
    stated = [c["id"] for c in configs.module("grokking_modular").CLAIMS]
    assert [c["id"] for c in manifest["claim_results"]] == stated
    assert {c["verdict"] for c in manifest["claim_results"]} == {"inconclusive"}  # nothing generalises in six steps
    assert (path / "figures" / "fourier_progress.png").exists()


def test_arms_of_a_seed_start_equal_and_only_the_stated_thing_differs(finished):
    table = records.select(records.read_measurements(finished[0]), role="seed", metric="fit.loss", step=0, split="train")
    start = {(row["arm"], row["seed"]): row["value"] for row in table.to_pylist()}
    assert start["grok", 200] == start["no-decay", 200] != start["random-labels", 200]
    assert start["grok", 200] != start["grok", 201]
    setup = made(f"arms={ARMS}")
    arms, stated = {arm.name: arm for arm in setup.arms}, setup.config.train.weight_decay
    decay = {name: dict(arm.spec.optimizer)["weight_decay"] for name, arm in arms.items()}
    assert decay == {"grok": stated, "no-decay": 0.0, "random-labels": stated}
    rows = [arms[name].source.table() for name in ("grok", "random-labels")]
    np.testing.assert_array_equal(rows[0].prompt_NxP, rows[1].prompt_NxP)
    assert (rows[0].completion_NxT != rows[1].completion_NxT).mean() > 0.5
    assert rows[0].completion_NxT.shape[1] == 1  # the answer token only


def test_what_was_measured_is_what_the_parameters_say(finished):
    setup = made(*(word.removeprefix("--config.") for word in TINY))
    arm, probe = setup.arms[0], setup.measured["grok"].probes[1]
    state = arm.fresh(models.init(arm.spec.model, training.stream(200, "init", 0)), 200)
    logits = np.asarray(probe.read(state.params, probe.inputs.values).logits_PxPxC, np.float64)
    batch = training.WholeTable(arm.task, "train", tokens=1).table()
    numbers = 8  # tokens before the numbers
    a, b, c = (np.asarray(x) - numbers for x in (batch.prompt_NxP[:, 0], batch.prompt_NxP[:, 2], batch.completion_NxT[:, 0]))
    np.testing.assert_array_equal((a + b) % 5, c)
    logp = training.token_logp(arm.spec, state.params, batch)[:, 0]  # over the whole vocabulary
    table = records.select(records.read_measurements(finished[0]), role="seed", arm="grok", step=0, seed=200)
    (loss,) = records.select(table, metric="fit.loss", split="train")["value"].to_pylist()
    assert loss == pytest.approx(-float(np.mean(logp)), rel=1e-5)
    assert fourier_basis.nll(logits[a, b], c).mean() < loss  # fewer answers to choose from
    (squares,) = records.select(table, metric="fourier.sum_squares")["value"].to_pylist()
    assert squares == pytest.approx(sum(float((np.asarray(x, np.float64) ** 2).sum()) for x in jax.tree.leaves(state.params)))


def test_every_key_is_read(finished):
    keys = set(configs.leaves(configs.module("grokking_modular").get_config()))
    unread = keys - finished[1]
    assert unread <= {"experiment", "wandb.project"}, unread


@pytest.mark.slow  # of a study with a base: test_run.py
@pytest.mark.parametrize("dies_at", [2, 7])
def test_a_killed_run_goes_on_where_it_was_and_ends_the_same(finished, tmp_path, monkeypatch, dies_at):
    class Killed(BaseException):
        pass

    real, calls = records.Bundle.write_rows, []

    def dying(self, name, columns):
        calls.append(name)
        if len(calls) == dies_at:
            raise Killed
        return real(self, name, columns)

    with monkeypatch.context() as patch:
        patch.setattr(records.Bundle, "write_rows", dying)
        with pytest.raises(Killed):
            run.main(arguments(tmp_path / "run", "--config.checkpoint.every_seconds=0.0"))
    assert run.main(arguments(tmp_path / "run")) == 0
    assert bundle_id(tmp_path / "run") == bundle_id(finished[0])


@pytest.mark.slow  # of a study with a base: test_run.py
def test_seeds_are_added_and_finished_ones_kept(finished, tmp_path, capsys):
    few = ("--config.arms=('grok',)",)
    assert run.main(arguments(tmp_path, *few)) == 0
    before = records.select(records.read_measurements(tmp_path), role="seed")
    assert run.main(arguments(tmp_path, *few, "--config.seeds.count=3")) == 0
    after = records.read_measurements(tmp_path)
    assert records.select(after, role="seed", seed=[200, 201]).equals(before)
    for metric in ("fit.loss", "fourier.restricted_loss"):
        assert set(records.select(after, role="seed", metric=metric)["seed"].to_pylist()) == {200, 201, 202}
    assert run.main(arguments(tmp_path, *few)) == 0
    assert "is finished" in capsys.readouterr().out


@pytest.mark.parametrize(("override", "expected"), [
    ("--config.arms=('grock',)", "arm 'grock' is not known; did you mean 'grok'"),
    ("--config.task.modulus=12", "odd modulus of at least 3"),
    ("--config.task.name=addition", "task 'addition': option 'modulus' is not known"),
    ("--config.task.train_fraction=1.5", "train_fraction=1.5, expected a number between 0 and 1"),
    ("--config.gate.level=1.5", "gate.level=1.5: an accuracy"),
    ("--config.gate.level=0.0", "gate.level=0.0: an accuracy"),
    ("--config.gate.kind=mean_reach", "did you mean 'mean_reached'"),
    ("--config.probe.fourier.reach=0.0", "reach must be in (0, 1]"),
    ("--config.measure.probes=('fit','distance')", "probe 'distance' compares with a base"),
    ("--config.arm.grok.source=tabel", "arm.grok.source='tabel' is not known; did you mean 'table'"),
    ("--config.train.objective=grpo", "takes no objective that samples ('grpo')"),
    ("--config.train.learning_rate=0.0", "a learning rate must be greater than 0"),
    ("--config.seeds.count=0", "seeds.count=0: must be at least 1"),
])
def test_a_mistake_is_one_line_with_the_fix(capsys, tmp_path, override, expected):
    assert run.main(arguments(tmp_path / "run", override)) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1 and not (tmp_path / "run").exists()


@pytest.mark.parametrize(("task", "expected"), [
    ({"name": "modular", "modulus": 13, "operators": ("add", "multiply")}, "task.operators: Fourier measures read a \\+ b"),
    ({"name": "permutations"}, "task.name='permutations': Fourier measures are of 'modular' addition"),
])
def test_a_task_without_a_sum_is_refused(task, expected):
    config = configs.load("grokking_modular:smoke", {"arms": "('grok',)"})
    config.unlock()
    config.task = ConfigDict(task)
    with pytest.raises(UserError, match=expected):
        setup_of(config, ())


def test_trajectories_are_read_on_a_grid_from_step_0():
    setup = setup_of(configs.load("grokking_modular", {}), ())
    steps = setup.steps(setup.arms[0])
    assert steps[:2] == (0, 1) and steps[-1] == setup.config.train.steps and len(steps) > 30
    assert setup.seeds == [200, 201, 202, 203, 204]
