"""The experiment on distances of rewards: a finished run, its nulls and floors, what a disguise keeps, and refusals."""

import json

import numpy as np
import pytest

from experiments import reward_distances, run
from experiments.harness import config as configs
from jaxpost import records
from jaxpost.probes import rewards
from jaxpost.records.verify import verify

from .conftest import keys_read

TINY = ("--config.process.states=4", "--config.process.actions=2", "--config.pairs=12", "--config.permutations=40",
        "--config.seeds.count=2")


def arguments(workdir, *more):
    return ["--config=reward_distances:smoke", f"--workdir={workdir}", *TINY, *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(directory, keys read) of an undisturbed run."""
    path = tmp_path_factory.mktemp("rewards") / "run"
    return path, keys_read(arguments(path))


def test_a_run_gives_a_verified_bundle_with_nulls_floors_and_claims(finished):
    path, seen = finished
    assert not verify(path)[1]
    assert set(configs.leaves(configs.module("reward_distances").get_config())) - seen <= {"experiment", "wandb.project"}
    found = records.select(records.read_measurements(path), role="seed").to_pylist()
    assert len(found) == 2 * 6 * (2 + 4)
    for row in found:
        assert row["null_lo"] <= row["null_value"] <= row["null_hi"] and row["noise_floor"] < 1e-5
    value = {(r["arm"], r["params"], r["seed"]): r["value"] for r in found}
    for seed in (700, 701):
        assert value["starc", "regret=optimal", seed] > 0.5
        assert value["starc", "disguise=all", seed] < 1e-12 < 0.1 < value["value_potential", "disguise=all", seed]
        assert value["epic", "disguise=shaping", seed] < 1e-12 < 0.1 < value["direct", "disguise=shaping", seed]
        assert value["dard", "disguise=scale", seed] < 1e-12 < 0.1 < value["unscaled", "disguise=scale", seed]
    results = json.loads((path / "manifest.json").read_text())["claim_results"]
    assert [c["id"] for c in results] == [c["id"] for c in configs.module("reward_distances").CLAIMS]
    assert {c["id"]: c["verdict"] for c in results}["starc-sees-through"] == "supported"


def test_a_disguise_moves_no_preference_and_a_permutation_no_correlation():
    rng = np.random.default_rng(0)
    mdp = reward_distances.random_process(rng, {"states": 4, "actions": 2, "discount": 0.9, "concentration": 0.5})
    true, learned = rng.normal(size=(2, 4, 2, 4))
    hidden = reward_distances.disguised(rng, mdp, learned, 1.0)
    assert np.abs(hidden - learned).max() > 0.5
    assert abs(rewards.worst_regret(mdp, true, hidden) - rewards.worst_regret(mdp, true, learned)) < 1e-7
    x = rng.normal(size=500)
    row = reward_distances.correlation_rows(rng, x, x, 2 * x + rng.normal(size=500), 400)
    assert row["value"] == pytest.approx(2 / 5**0.5, abs=0.03) and row["noise_floor"] == 0
    assert abs(row["null_hi"] - 1.96 / 500**0.5) < 0.02 and abs(row["null_lo"] + 1.96 / 500**0.5) < 0.02


def test_a_finished_run_is_not_overwritten(finished, capsys):
    path, _ = finished
    assert run.main(arguments(path)) == 0 and "is finished" in capsys.readouterr().out


@pytest.mark.parametrize(("override", "expected"), [
    ("--config.arms=('strac',)", "did you mean 'starc'"),
    ("--config.pairs=2", "pairs=2: must be at least 3"),
    ("--config.process.discount=1.0", "must lie in [0, 1)"),
    ("--config.mesh.ensemble=2", "runs on one device"),
])
def test_a_mistake_is_one_line_with_the_fix(capsys, tmp_path, override, expected):
    assert run.main(arguments(tmp_path / "run", override)) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1 and not (tmp_path / "run").exists()
