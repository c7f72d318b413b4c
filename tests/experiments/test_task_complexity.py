"""The experiment on complexity of tasks: a finished run with nulls and floors, and refusals."""

import numpy as np
import pytest

from experiments import run, task_complexity
from experiments.harness import config as configs
from jaxpost import records
from jaxpost.records.verify import verify

from .conftest import keys_read


def arguments(workdir, *more):
    return ["--config=task_complexity:smoke", f"--workdir={workdir}", "--config.problems=64", "--config.seeds.count=2", *more]


def test_a_run_gives_a_verified_bundle_with_nulls_and_floors(tmp_path, capsys):
    seen = keys_read(arguments(tmp_path / "run"))
    assert not verify(tmp_path / "run")[1]
    unread = set(configs.leaves(configs.module("task_complexity").get_config())) - seen
    assert {key for key in unread if not key.startswith("tasks.")} <= {"experiment", "wandb.project"}
    rows = records.select(records.read_measurements(tmp_path / "run"), role="seed").to_pylist()
    assert len(rows) == 2 * 4 * 3 and all(row["status"] == "ok" and row["noise_floor"] >= 0 for row in rows)
    for row in rows:
        assert row["null_lo"] <= row["null_value"] <= row["null_hi"]
    value = {(r["arm"], r["metric"], r["seed"]): r["value"] for r in rows}
    assert value["addition-2", "task.class_margin", 0] == pytest.approx(2**0.5)
    assert run.main(arguments(tmp_path / "run")) == 0 and "is finished" in capsys.readouterr().out


def test_independent_tokens_keep_what_is_at_each_place():
    points = np.eye(3)[np.random.default_rng(0).integers(0, 3, (40, 4))].reshape(40, 12)
    mixed = task_complexity._independent(np.random.default_rng(1), points, 4)
    np.testing.assert_array_equal(mixed.sum(0), points.sum(0))
    assert (mixed != points).any() and not np.array_equal(np.sort(mixed[:, :3] @ [1, 2, 3]), mixed[:, :3] @ [1, 2, 3])


@pytest.mark.parametrize(("override", "expected"), [
    ("--config.arms=('chain-3',)", "did you mean 'chains-3'"),
    ("--config.problems=10", "problems=10: must be at least 20"),
    ("--config.error=1.5", "error=1.5: a share of wrong answers"),
    ("--config.split=trian", "split='trian' of 'addition-2' is not known; did you mean 'train'"),
    ("--config.mesh.ensemble=2", "runs on one device"),
])
def test_a_mistake_is_one_line_with_the_fix(capsys, tmp_path, override, expected):
    assert run.main(arguments(tmp_path / "run", override)) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1 and not (tmp_path / "run").exists()
