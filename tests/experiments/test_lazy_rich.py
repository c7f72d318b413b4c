"""The lazy and rich experiment: its models against closed forms, one finished run, a stop, refusals, claims."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import run
from experiments.harness import config as configs
from experiments.lazy_rich import experiment as lazy_rich
from experiments.lazy_rich import models, problems
from jaxpost import records
from jaxpost.records.verify import verify

from .conftest import keys_read

TINY = ("--config.polynomial.steps=6", "--config.polynomial.grid_points=2", "--config.polynomial.width=6",
        "--config.polynomial.inputs=3", "--config.polynomial.train=8", "--config.polynomial.test=8", "--config.modular.steps=6",
        "--config.modular.grid_points=2", "--config.modular.width=6", "--config.modular.modulus=5",
        "--config.modular.train_fraction=0.6", "--config.kernel.rows=8")
ARMS = "('poly-rich','poly-lazy','poly-kernel','mod-linear')"


def arguments(workdir, *more):
    return ["--config=lazy_rich:smoke", f"--workdir={workdir}", f"--config.arms={ARMS}", *TINY, *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(directory, keys read) of an undisturbed run."""
    path = tmp_path_factory.mktemp("lazy") / "run"
    return path, keys_read(arguments(path))


def small(name):
    section = configs.load("lazy_rich:smoke", dict(text.removeprefix("--config.").split("=", 1) for text in TINY))[name]
    problem = problems.MAKERS[name](section)
    params, data = jax.jit(lambda key: (problem.init(key), problem.draw(key)))(jax.random.key(0))
    return section, problem, params, data


@functools.partial(jax.jit, static_argnums=(0, 1))
def said_by(problem, kind, scale, params0, params, x):
    return models.outputs(problem, kind, scale, params0, params, x)


def test_a_run_gives_a_verified_bundle_with_kernels_of_networks_only(finished):
    path, _ = finished
    assert not verify(path)[1]
    table = records.read_measurements(path)
    drift = records.select(table, metric="kernel.drift", role="seed")
    assert set(drift["arm"].to_pylist()) == {"poly-rich", "poly-lazy"}
    assert sorted(set(drift["step"].to_pylist())) == [0, 1, 6] and set(drift["null_kind"].to_pylist()) == {"shuffled"}
    fit = records.select(table, metric="fit.r2", role="seed", split="id")
    assert {(row["arm"], row["step"]) for row in fit.to_pylist()} >= {("poly-kernel", 0), ("mod-linear", 6), ("poly-rich", 0)}
    lazy, rich = (max(records.select(drift, arm=arm, step=6)["value"].to_pylist()) for arm in ("poly-lazy", "poly-rich"))
    assert lazy < 0.3 * rich
    assert (path / "figures" / "kernel_progress.png").exists()
    stated = [c["id"] for c in configs.module("lazy_rich").CLAIMS]
    judged = [c["id"] for c in json.loads((path / "manifest.json").read_text())["claim_results"]]
    assert set(judged) < set(stated) and "delay-grows" in judged and "lazy-memorises" not in judged


def test_every_key_is_read(finished):
    keys = set(configs.leaves(configs.module("lazy_rich").get_config()))
    unread = {key for key in keys - finished[1] if not key.startswith("arm.")}
    assert unread <= {"experiment", "checkpoint.every_seconds", "wandb.project"}, unread


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_it_was_and_ends_the_same(finished, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    real, calls = lazy_rich._trained, []

    def dying(*given):
        calls.append(given)
        if len(calls) == 4:
            raise Killed
        return real(*given)

    monkeypatch.setattr(lazy_rich, "_trained", dying)
    with pytest.raises(Killed):
        run.main(arguments(tmp_path / "run"))
    assert run.main(arguments(tmp_path / "run")) == 0
    assert len(calls) == 4 + 8 - 3  # three seeds of arms were kept
    ids = [json.loads((p / "manifest.json").read_text())["bundle_id"] for p in (tmp_path / "run", finished[0])]
    assert ids[0] == ids[1]


def test_the_problems_are_what_they_say():
    section, problem, params, data = small("polynomial")
    h = np.asarray(data["id"]["x"], np.float64) @ np.asarray(params["w"], np.float64).T
    said = said_by(problem, "network", 2.0, params, params, data["id"]["x"])
    np.testing.assert_allclose(said[:, 0], 2 * (h + section.curve / 2 * h**2).mean(1), rtol=1e-5)
    x = np.concatenate([data[split]["x"] for split in problems.SPLITS])
    y = np.concatenate([data[split]["y"] for split in problems.SPLITS])[:, 0]
    beta = np.linalg.lstsq(np.stack([x[:, i] * x[:, j] for i in range(3) for j in range(i, 3)], 1), y, rcond=None)
    assert beta[1][0] < 1e-9  # a quadratic form

    _, problem, params, data = small("modular")
    pairs = np.concatenate([data[split]["x"] for split in problems.SPLITS])
    assert len(pairs) == 25 == len(np.unique(pairs, axis=0)) and len(data["train"]["x"]) == 15
    label = np.concatenate([data[split]["y"] for split in problems.SPLITS])
    np.testing.assert_array_equal(label.argmax(1), pairs.sum(1) % 5)
    np.testing.assert_allclose(label.sum(1), 0, atol=1e-6)
    np.testing.assert_allclose(said_by(problem, "network", 2.0, params, params, data["id"]["x"]), 0, atol=1e-6)  # centred


def test_the_linearised_model_is_the_network_of_a_small_step_and_regression_is_its_end():
    _, problem, params, data = small("polynomial")
    near = jax.tree.map(lambda x: x + 1e-3, params)
    said = [said_by(problem, kind, 1.0, params, near, data["id"]["x"]) for kind in ("network", "linearised")]
    np.testing.assert_allclose(said[0], said[1], atol=1e-6)

    x = np.concatenate([data[split]["x"] for split in problems.SPLITS]).astype(np.float64)
    w, curve = np.asarray(params["w"], np.float64), 0.05
    j = ((1 + curve * x @ w.T)[:, :, None] * x[:, None, :]).reshape(16, -1) / len(w)
    h = x @ w.T
    start = (h + curve / 2 * h**2).mean(1)
    residual = np.asarray(data["train"]["y"], np.float64)[:, 0] - start[:8]
    ridge = 1e-3 * np.trace(j[:8] @ j[:8].T) / 8
    step = j[:8].T @ np.linalg.solve(j[:8] @ j[:8].T + ridge * np.eye(8), residual)
    found = models.regression(problem, 1.0, params, data, 1e-3)
    for split, wanted in zip(problems.SPLITS, np.split(start + j @ step, 2), strict=True):
        np.testing.assert_allclose(found[split][:, 0], wanted, rtol=1e-6, atol=1e-8)


def test_outputs_of_lazy_arms_move_at_one_pace():
    config = configs.load("lazy_rich:smoke", dict(text.removeprefix("--config.").split("=", 1) for text in TINY))
    _, problem, params, data = small("modular")
    program = lazy_rich.Program(problem, "network", config)
    said = [program.outputs(scale, params, program.advance(params, params, data["train"], scale, 0, 3), data["id"]["x"])
            for scale in (jnp.float32(1e2), jnp.float32(2e2))]
    assert np.abs(said[0]).max() > 1e-3
    np.testing.assert_allclose(said[0], said[1], rtol=0.05, atol=1e-4)


@pytest.mark.parametrize(("override", "expected"), [
    ("--config.arms=('mod-ritch',)", "did you mean 'mod-rich'"),
    ("--config.kernel.rows=9", "nearest valid: 8"),
    ("--config.kernel.rows=1", "kernel.rows is too small"),
    ("--config.arm.poly-rich.scale=0.0", "expected a positive number"),
    ("--config.arm.poly-rich.problem=polynom", "did you mean 'polynomial'"),
    ("--config.mesh.ensemble=2", "runs on one device"),
])
def test_a_mistake_is_one_line_with_the_fix(capsys, tmp_path, override, expected):
    assert run.main(arguments(tmp_path / "run", override)) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1 and not (tmp_path / "run").exists()
