"""Studies from scratch: chains and averages of arms without a base, what is measured of them, and what is refused."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import run
from experiments.harness import config as configs
from experiments.harness import ensemble, one_arm
from experiments.harness.errors import UserError
from experiments.study import setup_of
from jaxpost import records
from jaxpost.records.verify import verify

TINY = Path(__file__).resolve().parent / "tiny_scratch.py"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("scratch") / "run"
    assert run.main([f"--config={TINY}", f"--workdir={path}"]) == 0
    return path


@pytest.mark.slow  # of a study with a base: test_study.py; from scratch: test_grokking_modular.py
def test_a_chain_and_an_average_are_measured_and_judged(finished):
    assert not verify(finished)[1]
    rows = records.select(records.read_measurements(finished), role="seed", metric="policy.pass_at_k")
    steps = {arm: sorted(set(records.select(rows, arm=arm)["step"].to_pylist())) for arm in ("first", "second", "average")}
    assert steps == {"first": [0, 1, 2], "second": [0, 1, 2], "average": [0]}
    splits = {arm: set(records.select(rows, arm=arm)["split"].to_pylist()) for arm in ("first", "second")}
    assert "task" not in splits["first"] and "task" in splits["second"]  # what the arm before it was trained on
    (claim,) = json.loads((finished / "manifest.json").read_text())["claim_results"]
    kept = records.select(rows, arm="second", split="task", step=2)["value"].to_pylist()
    assert claim["estimate"] == sum(kept) / 2 and claim["n_units"] == len(kept) == 2
    work = records.select(records.read_measurements(finished), metric="work.rows").to_pylist()
    assert {row["arm"]: row["value"] for row in work} == {"first": 8.0, "second": 16.0, "average": 16.0}


@pytest.mark.slow  # of a study with a base: test_study.py
def test_an_arm_begins_where_the_one_before_it_ended(finished):
    setup = setup_of(configs.load(str(TINY), {}), ())
    arms = {arm.name: arm for arm in setup.arms}
    base = jax.eval_shape(lambda: one_arm.ends(("scratch",), {}, arms["first"], None, setup.seeds)(3))
    plan = ensemble.Plan(type("Base", (), {"params": base})(), "", (0, 1, 2), 2, 1e9, None, None)
    ends = {name: ensemble.final_params(arms[name], ensemble.begun(finished / "base-0" / "arms", name), plan)
            for name in ("first", "second")}
    starts = one_arm.ends(arms["second"].start, ends, arms["second"], None, setup.seeds)
    np.testing.assert_array_equal(starts(4)["embed"], ends["first"]["embed"][1])
    assert np.abs(starts(4)["embed"] - ends["second"]["embed"][1]).max() > 0


@pytest.mark.parametrize(("overrides", "expected"), [
    ({"arm.second.start": "base"}, "a study has a base or has none"),
    ({"train.objective": "sft_kl"}, "set reference to 'start' or to an arm"),
    ({"gate.kind": "success_moved"}, "reads policy.success, which no probe"),
    ({"probe.samples.sample": "2"}, "config key 'probe.samples.sample' is not known"),
    ({"measure.completions": "-1"}, "measure.completions=-1: must be at least 0"),
    ({"measure.even_points": "-2"}, "measure.even_points=-2: must be at least 0"),
])
def test_a_mistake_is_one_line_with_the_fix(overrides, expected):
    with pytest.raises(UserError, match=expected) as error:
        setup_of(configs.load(str(TINY), overrides), ())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("section", "value", "expected"), [
    ("gate", {"kind": "fell", "metric": "fit.losss", "share": 0.1}, "gate.metric='fit.losss' is not measured"),
    ("gate", {"kind": "mean_reached", "metric": "policy.pass_at_k", "split": "ids", "level": 0.1}, "gate.split='ids'"),
    ("trend", {"outcome": {"split": "id"}, "curves": {}}, "trend.outcome: metric None is not measured"),
    ("trend", {"outcome": {"metric": "policy.pass_at_k"}, "curves": {"steps": {"metric": "policy.losstokens"}}},
     "trend.curves.steps: metric 'policy.losstokens' is not measured"),
    ("probe", {"routing": {"pairs": 3}}, "probe 'routing' is none of measure.probes"),
])
def test_a_section_that_would_read_nothing_is_refused(section, value, expected):
    config = configs.load(str(TINY), {})
    with config.unlocked():
        config[section] = value
    with pytest.raises(UserError, match=expected):
        setup_of(config, ())


def test_what_trains_nothing_of_a_router_needs_one():
    config = configs.load(str(TINY), {})
    with config.unlocked():
        config.arm.first.trainable = "frozen_router"
    with pytest.raises(UserError, match="a model without experts"):
        setup_of(config, ())
