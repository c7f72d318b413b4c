"""The pathway experiment: bad input before any compute, its arms, claims on planted rows, one finished run, a stop."""

import json
import re

import chex
import jax
import numpy as np
import pytest

from experiments import run
from experiments.harness import claims, one_arm, tables
from experiments.harness import config as configs
from experiments.harness import trends as trend_rows
from experiments.harness.claims.statistics import window_start
from experiments.study import setup_of
from jaxpost import models, records, tasks, training
from jaxpost.probes import trends
from jaxpost.records.verify import verify

from .conftest import keys_read

TINY = {"seeds.first": "200", "train.steps": "12", "train.steps_per_call": "6", "model.width": "8", "arm.moe.model.ff": "4",
        "measure.grid_points": "3", "measure.even_points": "6", "measure.problems": "8", "probe.routing.draws": "1",
        "trend.draws": "9", "task.modulus": "5"}


LEADER, CONTROL, FROZEN = "moe", "moe-no-decay-random", "moe-frozen-router"
ARMS = (LEADER, CONTROL, "dense", FROZEN)


def arguments(workdir, *more):
    tiny = [f"--config.{key}={value}" for key, value in TINY.items()]
    return ["--config=grokking_pathways:smoke", f"--workdir={workdir}", *tiny, *more]


def tiny(**more):
    """The checked study, with overrides a__b=value."""
    overrides = {key.replace("__", "."): value for key, value in more.items()}
    return setup_of(configs.load("grokking_pathways:smoke", TINY | overrides), ())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(directory, keys read) of an undisturbed run."""
    path = tmp_path_factory.mktemp("pathways") / "run"
    return path, keys_read(arguments(path))


def test_a_run_gives_a_verified_bundle_with_routing_trends_and_claims(finished):
    path, _ = finished
    assert not verify(path)[1]
    table = records.read_measurements(path)
    steps = {0, 1, 2, 3, 4, 6, 8, 10, 12}
    for arm in ARMS:
        fit = records.select(table, arm=arm, role="seed", metric="fit.accuracy", split="id")
        assert set(fit["step"].to_pylist()) == steps and set(fit["seed"].to_pylist()) == {200, 201}
        routed = records.select(table, arm=arm, role="seed", metric="pathway.distance")
        assert set(routed["split"].to_pylist()) == (set() if arm == "dense" else {"train"})
        trend = records.select(table, arm=arm, role="seed", metric="trend.correlation")
        outcomes = {records.parse_params(text)["y"] for text in trend["params"].to_pylist()}
        wanted = {"dense": [], CONTROL: [CONTROL, LEADER]}.get(arm, [arm])
        assert outcomes == {f"test_accuracy_{outcome}" for outcome in wanted}
    manifest = json.loads((path / "manifest.json").read_text())
    assert [c["id"] for c in manifest["claim_results"]] == [c["id"] for c in configs.module("grokking_pathways").CLAIMS]
    assert (path / "figures" / "pathway_trajectories.png").stat().st_size > 10_000


def test_trend_rows_are_the_correlation_of_the_rows_they_name(finished):
    table = records.read_measurements(finished[0])
    x = claims.curves(table, {"metric": "pathway.distance", "arm": LEADER, "params": {"over": "all"}})
    y = claims.curves(table, {"metric": "fit.accuracy", "arm": LEADER, "split": "id"})
    read = {"x": "distance", "y": f"test_accuracy_{LEADER}", "at": "all", "reading": "change", "method": "pearson"}
    found = {row["seed"]: row["value"] for row in records.select(table, role="seed", metric="trend.correlation").to_pylist()
             if row["arm"] == LEADER and read.items() <= records.parse_params(row["params"]).items()}
    for one, (step, x_P) in x.items():
        own = trends.correlation(step, x_P, y[one].value, reading="change", draws=9)
        assert (found[one[1]] == pytest.approx(own.value)) if own.status == "ok" else found[one[1]] is None


def test_every_key_is_read(finished):
    keys = set(configs.leaves(configs.module("grokking_pathways").get_config()))
    unread = keys - finished[1]
    assert unread <= {"experiment", "checkpoint.every_seconds", "wandb.project"}, unread


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_it_was_and_ends_the_same(finished, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    real, calls = trend_rows.rows, []

    def dying(*given):
        calls.append(given)
        if len(calls) == 2:
            raise Killed
        return real(*given)

    monkeypatch.setattr(trend_rows, "rows", dying)
    with pytest.raises(Killed):
        run.main(arguments(tmp_path / "run"))
    assert run.main(arguments(tmp_path / "run")) == 0
    ids = [json.loads((p / "manifest.json").read_text())["bundle_id"] for p in (tmp_path / "run", finished[0])]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(("override", "expected"), [
    ("--config.arms=('mo',)", "did you mean 'moe'"),
    ("--config.arm.moe.model.experts=0", "experts"),
    ("--config.arm.moe.model.experts_per_token=9", "nearest valid: 4"),
    ("--config.arm.dense.probes=('routing',)", "probe 'routing' needs 'route'"),
    ("--config.probe.routing.eps=0.0", "eps"),
    ("--config.trend.block=0", "trend.block=0"),
    ("--config.gate.level=1.5", "gate.level=1.5"),
    ("--config.task.modulus=2", "modulus"),
])
def test_a_mistake_is_one_line_with_the_fix(capsys, tmp_path, override, expected):
    assert run.main(arguments(tmp_path / "run", override)) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1 and not (tmp_path / "run").exists()


def test_the_dense_arm_has_the_multiplications_of_a_tokens_experts():
    made = {arm.name: arm.spec.model for arm in setup_of(configs.load("grokking_pathways", {}), ()).arms}
    mixture, dense = made[LEADER], made["dense"]
    assert dense.experts == 0 and dense.ff == mixture.experts_per_token * mixture.ff + mixture.shared_ff
    assert all(getattr(dense, field) == getattr(mixture, field) for field in ("vocab", "width", "layers", "heads", "head_dim"))


def test_frozen_routers_stay_bit_for_bit_and_the_rest_moves():
    made = next(arm for arm in tiny().arms if arm.name == FROZEN)
    start = made.fresh(models.init(made.spec.model, jax.random.key(3)), 3)
    program = training.segment_program(made.source, made.spec, 6)
    states, members = training.stack([start] * 2), training.stack([training.Member(np.uint32(3), made.scalars)] * 2)
    before = jax.device_get(start.params)
    after = jax.tree.map(lambda x: np.asarray(x)[0], training.run_segment(program, states, members, 2, None)[0].params)
    np.testing.assert_array_equal(before["layers"].pop("router"), after["layers"].pop("router"))
    assert all((a != b).any() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))


def test_paired_arms_start_equal_and_the_control_has_random_answers_and_no_decay():
    setup = tiny()
    arms, measured = {arm.name: arm for arm in setup.arms}, setup.measured
    starts = [one_arm.ends(arms[name].start, {}, arms[name], None, [5])(5) for name in (LEADER, CONTROL, FROZEN)]
    for other in starts[1:]:
        chex.assert_trees_all_equal(starts[0], other)
    np.testing.assert_array_equal(measured[LEADER].batch.prompt, measured[CONTROL].batch.prompt)
    assert (measured[LEADER].batch.answer != measured[CONTROL].batch.answer).mean() > 0.5
    assert dict(arms[CONTROL].spec.optimizer)["weight_decay"] == 0 < dict(arms[LEADER].spec.optimizer)["weight_decay"]


def test_the_route_is_the_models_routing_and_the_answers_outcome():
    arm = tiny().arms[0]
    task, model = arm.task, arm.spec.model
    params, rows = models.init(model, jax.random.key(1)), tables.training_rows(task, 10)
    routed = tables.route_of(model, task.pad)(params, rows)
    out = models.teacher_forced(model, params, rows.prompt, rows.answer[:, None], task.pad)
    logits = np.asarray(out.logits[:, 0], np.float64)
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(routed.loss_N, -logp[np.arange(10), rows.answer], rtol=1e-5)
    np.testing.assert_array_equal(routed.correct_N, logits.argmax(1) == rows.answer)
    np.testing.assert_array_equal(routed.logits_NxLxTxE[3, 1], out.router["logits"][1, 3])
    assert routed.logits_NxLxTxE.shape == (10, 2, 4, 4) and (np.asarray(routed.mask_NxT) == 1).all()
    shown = tasks.table(task, "train")
    table = {(tuple(p), int(a)) for p, a in zip(shown.prompt_NxP.tolist(), shown.answer_NxT[:, 0], strict=True)}
    assert {(tuple(p), int(a)) for p, a in zip(rows.prompt.tolist(), rows.answer, strict=True)} <= table


STEPS = (0, *range(10, 210, 10))


def planted(link, control_link=0.0, shared=False, generalises=4, seeds=4):
    """Rows of both arms: accuracy rises with wiggles, each seed's own or `shared`; distance falls with `link` of them. So many
    seeds generalise.
    """
    rng, found = np.random.default_rng(0), []
    clock = np.log1p(STEPS) / np.log1p(STEPS[-1])
    common = rng.normal(size=len(STEPS))
    for seed in range(seeds):
        wiggle = common if shared else rng.normal(size=len(STEPS))
        test = np.clip(clock * 0.5 + 0.05 * wiggle, 0, 1)
        test[-1] = 1.0 if seed < generalises else test[-1]
        for arm, strength in ((LEADER, link), (CONTROL, control_link)):
            distance = 10 - clock - strength * wiggle + 0.3 * rng.normal(size=len(STEPS))
            for i, step in enumerate(STEPS):
                at = {"arm": arm, "role": "seed", "seed": seed, "step": step, "params": None, "split": None, "status": "ok"}
                found.append(at | {"metric": "fit.accuracy", "granularity": "experiment", "split": "train", "value": 1.0})
                found.append(at | {"metric": "fit.accuracy", "granularity": "experiment", "split": "id",
                                   "value": float(test[i]) if arm == LEADER else 0.05})
                for over in ("all", "memorised"):
                    absent = over == "memorised" and step < 20
                    found.append(at | {"metric": "pathway.distance", "granularity": "global", "params": f"over={over}",
                                       "value": None if absent else float(distance[i]), "status": "absent" if absent else "ok"})
    return records.measurement_table({name: [r[name] for r in found] for name in found[0]})


def verdict(name, table):
    claim = {c["id"]: c for c in configs.module("grokking_pathways").CLAIMS}[name]
    gate = claims.gates.runs_reached("fit.accuracy", 0.9, never=(CONTROL,))
    return claims.judge([claim], table, dict.fromkeys((LEADER, CONTROL), STEPS[-1]), gate)[0]


@pytest.mark.parametrize(("name", "planting", "expected"), [
    ("distance-falls", {"link": 1.0}, "supported"),
    ("distance-falls", {"link": -1.0}, "contradicted"),
    ("distance-falls", {"link": 1.0, "generalises": 3}, "supported"),
    ("distance-falls", {"link": 1.0, "generalises": 2}, "inconclusive"),  # too few seeds
    ("distance-beats-control", {"link": 1.0}, "supported"),
    ("distance-beats-control", {"link": 1.0, "control_link": 2.0}, "contradicted"),
    ("distance-is-its-own", {"link": 1.0}, "supported"),
    ("labels-are-needed", {"link": 0.0}, "supported"),
])
def test_claims_follow_planted_links(name, planting, expected):
    assert verdict(name, planted(**planting))["verdict"] == expected


def test_a_seed_that_does_not_generalise_counts_in_no_trend_but_in_the_gap():
    table = planted(1.0, generalises=3)
    result, gap = verdict("distance-falls", table), verdict("labels-are-needed", table)
    assert result["n_units"] == 3 and "moe: 3 of 4 seeds count" in result["note"] and gap["n_units"] == 4
    assert verdict("distance-falls", planted(1.0, generalises=2))["note"].startswith("2 seeds count, at least 3 are needed")


def test_a_link_that_all_seeds_share_is_not_a_runs_own():
    table = planted(1.0, shared=True)
    assert verdict("distance-falls", table)["verdict"] == "supported"
    assert verdict("distance-is-its-own", table)["verdict"] != "supported"


def test_estimates_of_a_trend_claim_are_fishers_mean():
    table = planted(1.0)
    result = verdict("distance-falls", table)
    x = claims.curves(table, {"metric": "pathway.distance", "arm": LEADER, "params": {"over": "memorised"}})
    y = claims.curves(table, {"metric": "fit.accuracy", "arm": LEADER, "split": "id"})
    r = [trends.correlation(step[2:], x_P[2:], y[one].value[2:], method="spearman", reading="given_time").value
         for one, (step, x_P) in x.items()]
    assert result["estimate"] == pytest.approx(float(trends.over_runs(r).value)) and result["n_units"] == len(r) == 4
    assert re.search("spearman, given_time, all steps", result["contrast"])


def test_the_window_begins_where_something_is_memorised_and_accuracy_rises():
    x, y = np.array([np.nan, np.nan, 1, 2, 3.0]), np.array([0, 0, 0, 0.5, 1.0])
    assert window_start(x, y, "all") == 2 and window_start(x, y, "rising") == 2
    assert window_start(x[2:], y[2:], "rising") == 0
    assert window_start(np.full(5, np.nan), y, "all") == 5
