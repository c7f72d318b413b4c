"""Gradient suppression: the closed null, the rules against numpy, drawn labels, one finished run, refusals."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import run
from experiments.gradient_suppression import experiment, rules
from experiments.harness import claims
from experiments.harness import config as configs
from jaxpost import records
from jaxpost.records.verify import verify

from .conftest import keys_read

TINY = ("--config.train.steps=40", "--config.train.examples=16", "--config.train.batch=4", "--config.train.test=64",
        "--config.train.percent=30.0", "--config.clusters.separation=2.0", "--config.measure.grid_points=6",
        "--config.clusters.width=8", "--config.clusters.features=4", "--config.clusters.classes=4",
        "--config.arms=('plain','winsorised')")


def arguments(workdir, *more):
    return ["--config=gradient_suppression:smoke", f"--workdir={workdir}", *TINY, *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(directory, keys read) of an undisturbed run."""
    path = tmp_path_factory.mktemp("suppression") / "run"
    return path, keys_read(arguments(path))


def test_the_null_is_that_of_every_permutation():
    said, label = np.array([0, 0, 1, 2, 1, 0]), np.array([0, 1, 1, 2, 2, 2])
    shares = [np.mean(said == label[list(order)]) for order in itertools.permutations(range(6))]
    assert experiment.permuted(said, label, 4) == pytest.approx((np.mean(shares), np.std(shares)), abs=1e-12)


@pytest.mark.parametrize("name", rules.NAMES)
def test_a_rule_follows_numpy_and_its_control_has_its_length_along_the_mean(name):
    rng, batches = np.random.default_rng(0), 3
    grads = rng.normal(size=(batches, 6, 5))
    mean = {"winsorise": grads[-1].mean(0), "mean": grads[-1].mean(0)}.get(name, grads.mean((0, 1)))
    low, high = (np.percentile(grads[-1], q, axis=0, method="nearest") for q in (25, 75))
    wanted = {"mean": mean, "winsorise": np.clip(grads[-1], low, high).mean(0)}.get(name, np.median(grads.mean(1), axis=0))
    with jax.enable_x64(True):
        for suppressed in (True, False):
            rule = rules.make(name, suppressed=suppressed, percent=25.0)
            state = rule.transform.init({"w": jnp.zeros(5)})
            for batch in grads:
                found, state = rule.transform.update(rule.reduce({"w": jnp.asarray(batch)}), state)
            length = np.linalg.norm(wanted) / np.linalg.norm(mean)
            np.testing.assert_allclose(found["w"], wanted if suppressed else length * mean, rtol=1e-12)


def test_random_labels_are_permuted_among_themselves_and_the_rest_is_one_drawing():
    setup = experiment.Setup(configs.load("gradient_suppression:smoke", {}), ())
    data = jax.tree.map(np.asarray, setup.draw(jax.random.key(3)))
    assert {split: len(x["label"]) for split, x in data.items()} == {"random": 64, "clean": 64, "id": 128}
    clean, noisy = data["clean"], data["random"]
    centre = np.stack([np.concatenate([clean["x"], data["id"]["x"]])[np.concatenate([clean["label"], data["id"]["label"]]) == c
                                                                     ].mean(0) for c in range(8)])
    own = ((noisy["x"][:, None] - centre) ** 2).sum(-1).argmin(1)
    assert (own == noisy["label"]).mean() < 0.3 < 0.5 < (((clean["x"][:, None] - centre) ** 2).sum(-1).argmin(1)
                                                         == clean["label"]).mean()


def test_a_run_compares_arms_where_they_first_had_equal_accuracy(finished):
    path, _ = finished
    assert not verify(path)[1]
    table = records.read_measurements(path)
    fit = {"metric": "fit.agreement"}
    curves = {arm: {split: claims.curves(table, fit | {"arm": arm, "split": split})[None, 350].value
                    for split in experiment.SPLITS} for arm in ("base", "plain", "winsorised")}
    both = [arm for arm in curves if arm != "base"]
    found = records.select(table, role="seed", seed=350, split="random", metric="fit.agreement").to_pylist()
    matched = {row["arm"]: row["value"] for row in found if "among=winsorised+plain" in (row["params"] or "")}
    every = [claims.curves(table, fit | {"arm": arm, "split": "id"}) for arm in both]
    start = claims.curves(table, fit | {"arm": "base", "split": "id"})
    target = min(max(start[run].value[0], *curve.value) for curve_of in every for run, curve in curve_of.items())
    for arm in both:
        path_of = [np.concatenate([curves["base"][split], curves[arm][split]]) for split in ("id", "random")]
        assert matched[arm] == pytest.approx(first(target, *path_of), abs=1e-9)
    judged = [c["id"] for c in json.loads((path / "manifest.json").read_text())["claim_results"]]
    assert "winsorised-fits-fewer" in judged and "m3-fits-fewer" not in judged


def first(level, x, y):
    """y where x first is at a level, by hand."""
    if x[0] == level:
        return y[0]
    for (x0, y0), (x1, y1) in itertools.pairwise(zip(x, y, strict=True)):
        if min(x0, x1) <= level <= max(x0, x1):
            return y0 + (level - x0) / (x1 - x0) * (y1 - y0) if x1 != x0 else y0
    raise AssertionError("never")


def test_every_key_is_read(finished):
    keys = set(configs.leaves(configs.module("gradient_suppression").get_config()))
    unread = {key for key in keys - finished[1] if not key.startswith("arm.")}
    assert unread <= {"experiment", "checkpoint.every_seconds", "wandb.project"}, unread


@pytest.mark.parametrize(("override", "expected"), [
    ("arms=('plane',)", "did you mean 'plain'"), ("arm.winsorised.rule=winsorize", "did you mean 'winsorise'"),
    ("train.noise=1.0", "at least one of each kind"), ("train.percent=50.0", "outside [0, 50)"),
    ("mesh.ensemble=2", "runs on one device"), ("arm.plain.rate=0.0", "a positive share"),
])
def test_a_mistake_is_one_line_with_the_fix(capsys, tmp_path, override, expected):
    assert run.main([*arguments(tmp_path / "run"), f"--config.{override}"]) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1 and not (tmp_path / "run").exists()
