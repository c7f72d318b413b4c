"""The label experiment: bad input before any compute, its problems and verdicts, one finished run, a stop, added seeds."""

import json

import jax
import numpy as np
import pytest

from experiments import run
from experiments.coherence_labels import experiment as coherence_labels
from experiments.coherence_labels import problems as label_problems
from experiments.harness import claims
from experiments.harness import config as configs
from jaxpost import records
from jaxpost.records.verify import verify

from .conftest import keys_read

TINY = ("--config.train.steps=6", "--config.train.examples=16", "--config.train.batch=4", "--config.probe.examples=8",
        "--config.probe.microbatch=4", "--config.probe.grid_points=2", "--config.clusters.width=8", "--config.addition.width=8",
        "--config.addition.layers=2", "--config.addition.digits=1")


def arguments(workdir, *more):
    return ["--config=coherence_labels:smoke", f"--workdir={workdir}", *TINY, *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(directory, keys read) of an undisturbed run."""
    path = tmp_path_factory.mktemp("labels") / "run"
    return path, keys_read(arguments(path))


def test_a_run_gives_a_verified_bundle_with_rows_nulls_and_claims(finished):
    path, _ = finished
    assert not verify(path)[1]
    table = records.read_measurements(path)
    for arm in coherence_labels.ARMS:
        rows = records.select(table, arm=arm, role="seed", metric="gradient.m_coherence.plug_in", granularity="global")
        assert sorted(set(rows["step"].to_pylist())) == [0, 1, 6] and set(rows["seed"].to_pylist()) == {300, 301}
        assert set(rows["null_value"].to_pylist()) == {1.0}
        null = records.select(table, arm=arm, role="null", metric="gradient.m_coherence.plug_in", granularity="global")
        assert set(null["null_kind"].to_pylist()) == {"label_permuted"}
        layers = records.select(table, arm=arm, role="seed", metric="gradient.alpha.unbiased", granularity="layer", step=6)
        assert set(layers["layer"].to_pylist()) == {0, 1, *([2] if arm.startswith("clusters") else [])}
    manifest = json.loads((path / "manifest.json").read_text())
    assert [c["id"] for c in manifest["claim_results"]] == [c["id"] for c in configs.module("coherence_labels").CLAIMS]
    verdicts = {"supported", "practically equivalent", "contradicted", "inconclusive"}
    assert {c["verdict"] for c in manifest["claim_results"]} <= verdicts


def test_labels_reach_the_loss_and_the_gradients(finished):
    table = records.read_measurements(finished[0])
    for problem in label_problems.MAKERS:
        real, random = ([claims.values(table, {"metric": metric, "arm": f"{problem}-{labels}"}, 0)[None, 300]
                         for metric in ("fit.loss", "gradient.norm2_sum")] for labels in ("real", "random"))
        assert real[0] != random[0] and real[1] != random[1]


def test_every_key_is_read(finished):
    keys = set(configs.leaves(configs.module("coherence_labels").get_config()))
    unread = keys - finished[1]
    assert unread <= {"experiment", "checkpoint.every_seconds", "wandb.project"}, unread


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_it_was_and_ends_the_same(finished, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    real, calls = coherence_labels._columns, []

    def dying(*given):
        calls.append(given)
        if len(calls) == 8:
            raise Killed
        return real(*given)

    monkeypatch.setattr(coherence_labels, "_columns", dying)
    with pytest.raises(Killed):
        run.main(arguments(tmp_path / "run"))
    assert run.main(arguments(tmp_path / "run")) == 0
    assert len(calls) == 8 + 24 - 6  # two seeds of the first arm were kept
    ids = [json.loads((p / "manifest.json").read_text())["bundle_id"] for p in (tmp_path / "run", finished[0])]
    assert ids[0] == ids[1]


@pytest.mark.slow  # of a study: test_grokking_modular.py
def test_seeds_are_added_and_finished_ones_kept(tmp_path, capsys):
    few = ("--config.arms=('clusters-real','clusters-random')",)
    assert run.main(arguments(tmp_path, *few)) == 0
    before = records.read_measurements(tmp_path)
    assert run.main(arguments(tmp_path, *few, "--config.seeds.count=3")) == 0
    after = records.select(records.read_measurements(tmp_path), role="seed", seed=[300, 301])
    assert after.equals(records.select(before, role="seed", seed=[300, 301]))
    assert run.main(arguments(tmp_path, *few)) == 0
    assert "is finished" in capsys.readouterr().out


@pytest.mark.parametrize(("override", "expected"), [
    ("--config.arms=('cluster-real',)", "did you mean 'clusters-real'"),
    ("--config.probe.examples=1024", "more than the train.examples"),
    ("--config.probe.microbatch=3", "nearest valid: 2"),
    ("--config.probe.examples=2", "probe.examples is too small"),
    ("--config.mesh.ensemble=2", "runs on one device"),
])
def test_a_mistake_is_one_line_with_the_fix(capsys, tmp_path, override, expected):
    assert run.main(arguments(tmp_path / "run", override)) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1 and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", label_problems.MAKERS)
def test_random_labels_are_the_real_ones_of_other_examples(name):
    config = configs.load("coherence_labels:smoke", {})
    problem = label_problems.MAKERS[name](config[name], 16)
    real, random = (problem.examples(jax.random.key(0), x) for x in (False, True))
    fields = [x._asdict() if hasattr(x, "_asdict") else x for x in (real, random)]
    for field in fields[0]:
        a, b = (np.asarray(x[field]) for x in fields) if fields[0][field] is not None else (np.zeros(1), np.zeros(1))
        if field in problem.targets:
            np.testing.assert_array_equal(np.sort(a.reshape(16, -1), 0), np.sort(b.reshape(16, -1), 0))
        else:
            np.testing.assert_array_equal(a, b)
    moved = [np.asarray(x[problem.targets[0]]).reshape(16, -1) for x in fields]
    assert (moved[0] != moved[1]).any(axis=1).mean() > 0.5


def table(real, random, fall=0.5):
    """Rows of two arms and three seeds, m-coherence constant over the steps after the first."""
    rows = []
    for arm, value_S in (("clusters-real", real), ("clusters-random", random)):
        for seed, value in enumerate(value_S):
            for step in (0, 1, 2):
                shared = {"arm": arm, "role": "seed", "seed": seed, "step": step}
                rows.append(shared | {"metric": "gradient.m_coherence.plug_in", "granularity": "global", "value": value})
                rows.append(shared | {"metric": "fit.loss", "granularity": "experiment",
                                      "value": 1.0 - fall * step / 2 * (1 + 0.01 * seed)})
    return records.measurement_table({name: [r[name] for r in rows] for name in rows[0]})


@pytest.mark.parametrize(("real", "random", "fall", "verdict"), [
    ((5.0, 5.1, 5.2), (2.0, 2.0, 2.1), 0.5, "supported"),
    ((5.0, 5.1, 5.2), (2.0, 2.0, 2.1), 0.05, "inconclusive"),  # did not learn
    ((2.0, 2.1, 2.2), (2.0, 2.0, 2.1), 0.5, "practically equivalent"),
    ((2.0, 2.1, 2.2), (5.0, 5.0, 5.1), 0.5, "contradicted"),
    ((2.0, 9.0, 2.2), (2.0, 2.0, 2.1), 0.5, "inconclusive"),
])
def test_verdicts_follow_the_interval_and_the_gate(real, random, fall, verdict):
    claim = configs.module("coherence_labels").CLAIMS[0]
    (result,) = claims.judge([claim], table(real, random, fall), {}, claims.gates.fell("fit.loss", 0.1))
    assert result["verdict"] == verdict and result["n_units"] == 3
    difference = np.mean(real) - np.mean(random)
    assert result["estimate"] == pytest.approx(difference)
