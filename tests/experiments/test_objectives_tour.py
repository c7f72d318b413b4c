"""The tour: bad input before any compute, the rule, the base's own noise, one finished run with a diverged row, kills."""

import csv
import dataclasses
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats as scipy_stats

from experiments import run
from experiments.harness import config as configs
from experiments.harness import precompile as ahead
from experiments.objectives_tour import experiment as objectives_tour
from experiments.objectives_tour import rows as tour_rows
from experiments.objectives_tour import verdicts as tour_verdicts
from jaxpost import models, objectives, records, stats, training
from jaxpost.objectives.recipes import RECIPES
from jaxpost.records import storage
from jaxpost.records.report import rerender
from jaxpost.records.verify import verify

from .conftest import keys_read

TINY = Path(__file__).with_name("tiny_tour.py")


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code under test catches it."""


def arguments(workdir, *more: str) -> list[str]:
    return [f"--config={TINY}", f"--workdir={workdir}", *more]


def tiny(**overrides) -> objectives_tour.Setup:
    return objectives_tour.Setup(configs.load(str(TINY), overrides))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(directory, keys read) of an undisturbed run in which one row diverges and one has no data."""
    path = tmp_path_factory.mktemp("tour") / "run"
    with pytest.MonkeyPatch.context() as patch:
        without_data(patch)
        return path, keys_read(arguments(path))


def without_data(patch):
    """Let every source refuse the row `reinforce`."""
    real = tour_rows.training.source

    def source(task, spec, prompts):
        if spec.objective.name == "reinforce":
            raise ValueError("objective 'reinforce' needs outside, which no source gives")
        return real(task, spec, prompts)

    patch.setattr(tour_rows.training, "source", source)


def rows(path, **wanted):
    return records.select(records.read_measurements(path), **wanted)


@pytest.mark.parametrize(("override", "expected"), [
    ("--config.rows=('grpoo',)", "rows: objective 'grpoo' is not known; did you mean 'grpo'?"),
    ("--config.rows=('grpo','grpo')", "none twice"),
    ("--config.rows=()", "needs at least one entry"),
    ("--config.overrides=('rloo.clip_hig=0.3',)", "objective 'rloo' has no part 'clip_hig'; did you mean 'clip_high'?"),
    ("--config.overrides=('dr_grpo.aggregation=tokn',)", "aggregation='tokn' is unknown; choose one of token, sequence"),
    ("--config.overrides=('cross_entropy.clip_high=0.3',)", "objective 'cross_entropy' has no part 'clip_high'"),
    ("--config.overrides=('grpo.clip_high=0.3',)", "row 'grpo' of 'grpo.clip_high=0.3' is not trained in this run; did you "
     "mean 'dr_grpo'?"),
    ("--config.overrides=('clip_high=0.3',)", "is not of the form 'row.part=value'"),
    ("--config.overrides=(3,)", "'overrides[0]' is 3: expected a text"),
    ("--config.overrides=('rloo.learning_rate=0',)", "rloo.learning_rate=0: a learning rate must be a number greater than 0"),
    ("--config.overrides=('rloo.learning_rate=fast',)", "rloo.learning_rate='fast'"),
    ("--config.margins.held=-0.1", "margins.held=-0.1: must be between 0.0 and 1.0"),
    ("--config.train.minibatches=3", "train.minibatches=3 does not divide train.prompts=4: an update takes whole groups; "
     "nearest valid: 2"),
    ("--config.train.minibatches=0", "train.minibatches=0: must be at least 1"),
    ("--config.train.learning_rates.rl=0.0", "a learning rate must be greater than 0"),
    ("--config.train.learning_rates.pl=0.1", "did you mean 'train.learning_rates.rl'?"),
    ("--config.train.optimization_level=4", "between 0 and 3"),
    ("--config.measure.reevaluations=1", "at least 2"),
])
def test_a_mistake_is_one_line_with_the_fix(monkeypatch, capsys, tmp_path, override, expected):
    def compute(*given):
        raise AssertionError("a mistake must be found before anything is trained")

    monkeypatch.setattr(objectives_tour, "_train", compute)
    assert run.main(arguments(tmp_path / "run", override)) == 2
    err = capsys.readouterr().err
    assert expected in err and err.startswith("error: ") and err.count("\n") == 1, err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("argument", ["default", "smoke"])
def test_the_shipped_forms_are_built_and_share_the_base_of_rlvr_sparsity(argument):
    config = configs.load(f"objectives_tour:{argument}", {})
    setup = objectives_tour.Setup(config)
    names = [row.name for row in setup.rows]
    assert names == list(RECIPES if argument == "default" else config.rows)
    assert [claim["id"] for claim in setup.claims] == names
    other = configs.load(f"rlvr_sparsity:{argument}", {})
    assert all(config[section] == other[section] for section in ("model", "task", "second", "pretrain"))
    assert config.seeds.base == other.seeds.base
    assert not [(row.name, row.reason) for row in setup.rows if row.arm is None]  # every row has a source


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_row_trains(tmp_path, name):
    workdir = tmp_path / "run"
    assert run.main(arguments(workdir, f"--config.rows=('{name}',)", "--config.overrides=()", "--config.train.steps=2")) == 0
    [claim] = json.loads((workdir / "manifest.json").read_text())["claim_results"]
    assert claim["verdict"] not in ("not trained", "diverged"), claim


@pytest.mark.parametrize(("lo", "hi", "verdict"), [
    (0.06, 0.2, "improved"), (0.05, 0.2, "held"), (0.0, 0.01, "held"), (-0.04, -0.01, "held"), (-0.05, 0.3, "undecided"),
    (-0.3, -0.01, "lost"), (-0.3, -0.2, "lost"), (-0.3, 0.0, "undecided"), (np.nan, np.nan, "undecided")])
def test_the_rule(lo, hi, verdict):
    assert tour_verdicts.rule(stats.Interval((lo + hi) / 2, lo, hi), improved=0.05, held=0.05) == verdict


def test_the_rule_and_its_margins_are_in_the_claims_hash():
    one, other = tiny(), tiny(**{"margins.held": "0.02"})
    assert all(not claim["primary"] and "lo > -0.05" in claim["rule"] for claim in one.claims)
    assert records.provenance.claims_hash(one.claims) != records.provenance.claims_hash(other.claims)


def test_the_ahead_of_time_table_refuses_a_tour(capsys, tmp_path):
    assert run.main(["--config=objectives_tour", f"--workdir={tmp_path}", "--compile_for=v5e-16"]) == 2
    err = capsys.readouterr().err
    assert "objectives_tour" in err and err.count("\n") == 1


def test_lengths_in_tokens_become_the_completion_length():
    assert tour_rows.lengths("dr_grpo", 5) == {"aggregation_length": 5}
    assert tour_rows.lengths("dapo", 40) == {"overlong_limit": 40, "overlong_cache": 8}
    assert tour_rows.lengths("dapo", 3)["overlong_cache"] == 1
    assert tour_rows.lengths("grpo", 5) == {}
    setup = tiny(overrides="('dr_grpo.aggregation_length=7','rloo.clip_high=0.5','rloo.learning_rate=1e-4')")
    _, dr_grpo, rloo, _ = setup.rows
    assert dr_grpo.objective.aggregation_length == 7 and rloo.objective.clip_high == 0.5
    assert (dr_grpo.arm.scalars.learning_rate, rloo.arm.scalars.learning_rate) == (3e-4, 1e-4)
    assert rloo.arm.spec.minibatches == 2 and rloo.arm.scalars.kl_coef is None


def test_a_family_without_a_learning_rate_is_refused(monkeypatch):
    monkeypatch.setitem(RECIPES, "rloo", dataclasses.replace(RECIPES["rloo"], family="flow"))
    with pytest.raises(objectives_tour.UserError, match="none for the family 'flow' of row 'rloo'; it has hybrid, preference"):
        tiny()


def test_the_band_of_the_base_is_the_prediction_interval_of_one_more_evaluation():
    p, problems, R = 0.3, 400, 200
    x_R = np.random.default_rng(0).binomial(problems, p, R) / problems
    base = {"metric": ["policy.success", "policy.entropy"], "arm": ["base"] * 2, "role": ["seed"] * 2, "step": [0] * 2,
            "seed": [5] * 2, "granularity": ["policy"] * 2, "split": ["id", None], "conditional_on": ["b"] * 2}
    null = objectives_tour.null_columns(base, {"id": x_R})
    assert null["of"] == records.row_ids(base)[:1] and null["null_kind"] == ["re-evaluation"]
    normal = scipy_stats.norm.ppf(0.975) * np.sqrt(p * (1 - p) / problems)
    half = (null["null_hi"][0] - null["null_lo"][0]) / 2
    assert half == pytest.approx(normal, rel=4 / np.sqrt(2 * R)) and null["null_value"][0] == pytest.approx(p, abs=0.01)
    few = objectives_tour.null_columns(base, {"id": np.asarray([0.2, 0.4])})
    assert few["null_hi"][0] == pytest.approx(0.3 + 12.7062047 * 0.1 * np.sqrt(2) * np.sqrt(1.5))


def test_a_finished_tour_lists_every_row_with_what_became_of_it(finished):
    path, _ = finished
    good, bad = verify(path)
    assert not bad and good
    with open(path / "tables" / "changes.csv") as file:
        table = {row["row"]: row for row in csv.DictReader(file)}
    assert list(table) == ["cross_entropy", "dr_grpo", "rloo", "reinforce"]
    assert table["rloo"]["verdict"].startswith("diverged: the loss of seed 20") and not table["rloo"]["after"]
    assert table["reinforce"]["verdict"] == "not trained: needs outside, which no source gives"
    assert table["dr_grpo"]["seeds"] == "2" and table["dr_grpo"]["steps"] == "4"
    assert table["dr_grpo"]["verdict"] in tour_verdicts.VERDICTS[:4]
    assert (path / "tables" / "changes.tex").exists() and (path / "figures" / "changes.png").exists()
    assert "Evaluated once more, the base itself would read 0." in (path / "tables" / "changes.tex").read_text()
    report = (path / "report.html").read_text()
    assert "Every arm against the start" in report and "Without a curve: reinforce (not trained)" in report
    rerender(path)
    assert (path / "report.html").read_text() == report and not verify(path)[1]


@pytest.mark.slow
def test_the_numbers_of_the_table_are_those_of_the_rows(finished):
    path, _ = finished
    results = {r["id"]: r for r in storage.read_json(path / "manifest.json")["claim_results"]}
    success = {(r["arm"], r["step"], r["seed"]): r["value"]
               for r in rows(path, metric="policy.success", split="id", role="seed").to_pylist()}
    change = np.asarray([success["dr_grpo", 4, seed] - success["base", 0, seed] for seed in (200, 201)])
    half = scipy_stats.t.ppf(0.975, 1) * change.std(ddof=1) / np.sqrt(2)
    assert results["dr_grpo"]["estimate"] == pytest.approx(change.mean(), abs=1e-12)
    assert results["dr_grpo"]["ci_hi"] == pytest.approx(change.mean() + half, abs=1e-12)
    loss = rows(path, metric="train.loss", role="seed", arm="cross_entropy")
    assert sorted(set(loss["step"].to_pylist())) == [1, 4] and min(loss["value"].to_pylist()) > 0
    null = rows(path, role="null", arm="base", split="id", null_kind="re-evaluation", seed=None).to_pylist()
    assert len(null) == 1 and null[0]["null_lo"] < null[0]["null_value"] < null[0]["null_hi"]
    assert "train.loss" in records.read_metrics(path)["metric"].to_pylist()


@pytest.mark.slow
def test_a_diverged_row_keeps_what_was_measured_before(finished):
    path, _ = finished
    found = rows(path, metric="policy.success", split="id", role="seed", arm="rloo").to_pylist()
    assert {(r["step"], r["status"]) for r in found} >= {(4, "nan")}
    assert all("not finite at step" in r["status_reason"] and r["value"] is None for r in found if r["step"] == 4)


@pytest.mark.slow
def test_every_config_key_is_read_by_something(finished):
    keys = set(configs.leaves(configs.load(str(TINY), {})))
    assert keys - finished[1] <= {"wandb.project"} and not finished[1] - keys


@pytest.mark.slow
def test_a_kill_at_any_write_loses_nothing(finished, tmp_path, monkeypatch):
    path, real, left = tmp_path / "run", storage.write_atomic, [0, ""]
    without_data(monkeypatch)

    def write(target, writer):
        left[0] -= 1
        if left == [0, "before"]:
            raise Killed(target)
        real(target, writer)
        if left[0] == 0:
            raise Killed(target)

    monkeypatch.setattr(storage, "write_atomic", write)
    stops = []
    for budget, where in zip((5, 11, 24, 10_000), itertools.cycle(("before", "after"))):
        left[:] = budget, where
        try:
            assert run.main(arguments(path)) == 0
            break
        except Killed as kill:
            stops.append(str(kill))
    assert len(stops) == 3, stops
    assert rows(path).equals(rows(finished[0])), stops
    one, other = (json.loads((p / "manifest.json").read_text())["bundle_id"] for p in (path, finished[0]))
    assert one == other and not verify(path)[1]
    assert "rows-replaced" not in (path / "events.jsonl").read_text()


@pytest.mark.slow
def test_seeds_are_added_to_a_finished_tour(finished, tmp_path, capsys, monkeypatch):
    path, _ = finished
    without_data(monkeypatch)
    before = {r["row_id"]: r for r in rows(path, role="seed").to_pylist()}
    assert run.main(arguments(path, "--config.seeds.count=4")) == 0
    assert "adding seeds: 2 are finished, 4 are asked for" in capsys.readouterr().out
    after = {r["row_id"]: r for r in rows(path, role="seed").to_pylist()}
    assert all(after[name] == row for name, row in before.items()) and len(after) > len(before)
    assert not verify(path)[1]
    assert run.main(arguments(path, "--config.seeds.count=4")) == 0
    assert "is finished (4 seeds" in capsys.readouterr().out


def test_a_program_compiled_ahead_is_the_one_that_would_have_been(tmp_path):
    class Bundle:
        costs = []

        def cost(self, phase, **given):
            Bundle.costs.append((phase, given))

    setup = tiny()
    arm = next(arm for arm in setup.arms if arm.name == "cross_entropy")
    params = models.init(setup.model, training.stream(0, "init", 0))
    members = training.stack([training.Member(jnp.uint32(s), arm.scalars) for s in (1, 2)])

    def trained(program):
        states = training.stack([training.create(arm.spec, params, arm.source.curriculum.init(jax.random.key(0)))] * 2)
        return training.run_segment(program, states, members, 2, None)[0].params

    with ahead.Ahead(jax.eval_shape(lambda: params), 2, 0, Bundle()) as compiler:  # level 0: that of all tests
        compiler.begin(arm, 2)
        found = trained(compiler.program(arm, 2))
    expected = trained(training.segment_program(arm.source, arm.spec, 2))
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)))
    assert Bundle.costs[0][0] == "compile" and Bundle.costs[0][1]["compile_s"] > 0


def test_a_row_that_refuses_its_batch_while_it_is_traced_is_untrainable():
    setup = tiny()
    arm = next(arm for arm in setup.arms if arm.name == "cross_entropy")
    spec = dataclasses.replace(arm.spec, objective=objectives.get("dapo"))
    arm = dataclasses.replace(arm, spec=spec)  # its source gives no `truncated`
    params = jax.eval_shape(lambda: models.init(setup.model, jax.random.key(0)))
    with ahead.Ahead(params, 2, 0, None) as compiler, pytest.raises(ahead.Untrainable, match="needs Batch.truncated_N"):
        compiler.program(arm, 2)
