"""A study whose arms are chains of stages and averages: trained once, started where they say, resumed, judged."""

import re
from pathlib import Path

import numpy as np
import pytest

from experiments import run
from experiments.harness import config as configs
from experiments.study import Setup, setup_of
from jaxpost import models, records
from jaxpost.records import storage
from jaxpost.records.verify import verify

from .conftest import ROOT

TINY = Path(__file__).resolve().parent / "tiny_stages.py"
LARGER = ("grokking_modular", "grokking_pathways")  # whose claims fill more than the lines of a study
SECONDS = ("another_rule", "atomic_composite", "backtracking_dose", "board_games", "causal_axioms", "credit_of_turns",
           "curriculum_race", "gaming", "grokked_circuits", "in_context_strategies", "induction_heads", "length_generalisation",
           "phrasing", "rlvr_curvature", "step_by_step", "weight_interpolation")  # to prepare
STUDIES = [pytest.param(name, marks=[pytest.mark.slow] * (name in SECONDS)) for name in configs.names()
           if name not in LARGER and configs.load(name, {}).experiment == "study"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    path = tmp_path_factory.mktemp("stages") / "run"
    assert run.main([f"--config={TINY}", f"--workdir={path}"]) == 0
    return path


def rows(path, **wanted):
    return records.select(records.read_measurements(path), **wanted)


def test_the_bundle_verifies_and_a_shared_stage_is_trained_once(done):
    assert not verify(done)[1]
    assert sorted(p.name for p in (done / "base-0" / "arms").iterdir()) == ["ppo", "still", "warm-up"]
    events = [e for e in records.read_events(done / "events.jsonl") if e["phase"] == "warm-up"]
    assert [e["step"] for e in events] == [1, 2]


@pytest.mark.slow  # two runs each; of a study without averages and sequences: test_run.py
@pytest.mark.parametrize("name", ["tiny_stages", "tiny_scratch"])
def test_seeds_that_are_added_give_the_bundle_of_a_run_with_all_of_them(name, tmp_path):
    """Averages are measured and sequences of stages read for the new seeds alone, and everything is one bundle again."""
    config = TINY.parent / f"{name}.py"
    count = configs.load(str(config), {}).seeds.count
    calls = (("grown", count), ("grown", count + 1), ("whole", count + 1))
    assert [run.main([f"--config={config}", f"--workdir={tmp_path / path}", f"--config.seeds.count={n}"])
            for path, n in calls] == [0, 0, 0]
    grown, whole = (storage.read_json(tmp_path / path / "manifest.json")["bundle_id"] for path in ("grown", "whole"))
    assert grown == whole and not verify(tmp_path / "grown")[1]


def test_an_arm_that_cannot_move_ends_where_it_starts(done):
    """Every statistic of the weights of `still` is that of the end of `warm-up`, bit for bit."""
    def of(arm, step):
        found = rows(done, arm=arm, step=step, role="seed").to_pylist()
        return {(r["metric"], r["tensor"], r["seed"], r["params"], r["k"], r["dtype"], r["side"]): r["value"] for r in found
                if r["tensor"] and "at=" not in (r["params"] or "")
                and r["metric"] in ("weight.update_norm", "weight.sparsity.bf16")}

    before, after = of("warm-up", 2), of("still", 4)
    assert len(before) > 20 and before == after and any(v for v in before.values())


@pytest.mark.parametrize(("end", "average"), [(("ppo", 4), "average"), (("warm-up", 2), "ppo")])
def test_an_average_is_measured_as_the_mean_of_its_ends_also_where_an_arm_goes_on_from_it(end, average, done):
    """The update of the average of the base and an arm is half the arm's."""
    def norms(arm, step):
        found = rows(done, arm=arm, step=step, role="seed", metric="weight.update_norm", dtype="fp32").to_pylist()
        return {(r["tensor"], r["granularity"], r["module_kind"], r["layer"], r["seed"]): r["value"] for r in found
                if "at=" not in (r["params"] or "")}

    whole, half = norms(*end), norms(average, 0)
    assert whole.keys() == half.keys() and whole
    np.testing.assert_allclose([half[k] for k in whole], [whole[k] / 2 for k in whole], rtol=1e-4)


def test_success_is_matched_on_the_split_that_the_claim_names(done):
    found = rows(done, metric="policy.success", arm="ppo", role="seed").to_pylist()
    matched = [r for r in found if "at=matched_success;on=later" in (r["params"] or "").replace("among=ppo+still;", "")]
    assert {r["split"] for r in matched} == {"id", "second"} and {r["seed"] for r in matched} == {100, 101}
    (result,) = storage.read_json(done / "manifest.json")["claim_results"]
    assert "at matched success on later" in result["contrast"] and "success moved by" in result["note"]


def test_the_critic_is_no_part_of_what_is_measured(done):
    assert {"value"} & set(rows(done)["tensor"].to_pylist()) == set()


@pytest.mark.parametrize(("override", "expected"), [
    ("arm.still.start=warmup", "arm 'still' needs the end of 'warmup', which is not known; did you mean 'warm-up'?"),
    ("arm.ppo.objective=refd", "did you mean 'reft'?"),
    ("tasks.later.nodes=(9,2)", "nodes"),
])
def test_what_cannot_run_is_one_line(override, expected, tmp_path, capsys):
    assert run.main([f"--config={TINY}", f"--workdir={tmp_path}/run", f"--config.{override}"]) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_claim_on_microbatches_needs_two():
    claims = configs.module("why_curricula").CLAIMS
    with pytest.raises(run.UserError, match=r"needs 'gradient\.\S+', which compares .* has one: set train\.microbatches to 2"):
        Setup(configs.load("why_curricula", {"train.microbatches": "1"}), claims)


@pytest.mark.parametrize(("change", "expected"), [
    ({"arms": ("ppo", "stil")}, "claim 'keeps-more': arm 'stil' is not known; did you mean 'still'?"),
    ({"matched_on": "latter"}, "matched_on='latter'; did you mean 'later'?"),
    ({"arms": ("ppo",)}, "takes 2 arms, found 1"),
    ({"metric": "interpolation.loss"}, "no probe of measure.probes gives"),
])
def test_a_claim_that_cannot_be_judged_is_refused(change, expected):
    (claim,) = configs.module(str(TINY)).CLAIMS
    with pytest.raises(run.UserError, match=expected.replace("?", r"\?")):
        Setup(configs.load(str(TINY), {}), [claim | change])


@pytest.mark.parametrize("name", STUDIES)
def test_a_claim_of_a_paper_is_one_file_of_eighty_lines(name):
    assert len((ROOT / "configs" / f"{name}.py").read_text().splitlines()) <= 80
    setup = setup_of(configs.load(name, {}), configs.module(name).CLAIMS)
    assert [c["id"] for c in setup.claims] == [c["id"] for c in configs.module(name).CLAIMS]
    assert all(isinstance(arm.spec.model, models.TransformerConfig) for arm in setup.arms)


def test_an_arm_that_goes_on_starts_at_the_end_of_the_one_before_and_one_from_an_average_at_its_own_step_0():
    setup = Setup(configs.load("soup_reference", {}), ())
    starts = {name: end.start for name, end in setup.ends.items()}
    assert starts["sft-a"] == ("base", 0) and starts["own"] == ("sft-a", 75) and starts["from-soup"] == ("from-soup", 0)


def test_a_sum_of_added_skills_is_gated_on_its_adapters():
    """Each has its own task's split, and every claim is about their sum."""
    setup = Setup(configs.load("added_skills", {}), configs.module("added_skills").CLAIMS)
    assert {name: (end.split, end.made_of) for name, end in setup.ends.items()} == {
        "sums": ("id", ()), "copying": ("copying", ()), "in-turn": ("copying", ()), "added": ("id", ("sums", "copying")),
        "averaged": ("id", ("sums", "copying"))}
    assert len(setup.claims) == 4 and all("added" in claim["arms"] for claim in setup.claims)
    with pytest.raises(run.UserError, match=r"arm 'averaged': start=\('sums',\) names 1 place, and an average is"):
        Setup(configs.load("added_skills", {"arm.averaged.start": "('sums',)"}), ())


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_smoke_form_judges_what_its_arms_allow(name):
    setup = setup_of(configs.load(f"{name}:smoke", {}), configs.module(name).CLAIMS)
    arms = {arm.name for arm in setup.arms}
    assert setup.claims and all(set(claim.get("arms", ())) <= arms for claim in setup.claims)


def test_the_study_of_the_documentation_is_one():
    """Its config passes every check, and its grid, reward and average are what the text says."""
    code, *_ = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "study.md").read_text(), re.M | re.S)
    given = {}
    exec(compile(code, "study.md", "exec"), given)
    setup = Setup(given["get_config"](), given["CLAIMS"])
    found = {arm.name: arm for arm in setup.arms}
    assert (found["grpo-0"].scalars.learning_rate, found["grpo-0"].start) == (3e-5, ("base",)) and found["soup"].steps == 0
    assert [term.kind for term in found["brief"].source.reward] == ["correct", "soft_overlong"] and len(setup.claims) == 1
