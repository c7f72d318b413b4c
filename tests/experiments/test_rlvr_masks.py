"""RLVR under masks and adapters at its smallest: complete, extended by seeds, true to its masks; what is refused."""

from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import run
from experiments.harness import config as configs
from experiments.harness import ensemble, trainable
from experiments.harness.base_model import Pretraining
from experiments.harness.session import Session, StopSignals
from experiments.study import Setup
from jaxpost import models, records
from jaxpost.records import storage
from jaxpost.records.verify import verify
from jaxpost.training import masking

from .conftest import record_reads

LINEAR = tuple(kind for kind in masking.LINEAR if not kind.startswith("shared_"))  # of a dense model

TINY = Path(__file__).resolve().parent / "tiny_masks.py"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run of two seeds; beside it the config keys that were read."""
    path = tmp_path_factory.mktemp("masks") / "run"
    with pytest.MonkeyPatch.context() as patch:
        seen = record_reads(patch)
        assert run.main([f"--config={TINY}", f"--workdir={path}"]) == 0
    (path.parent / "reads.txt").write_text("\n".join(sorted(seen)))
    return path


@pytest.fixture(scope="module")
def setup():
    return Setup(configs.load(str(TINY), {}), configs.module(str(TINY)).CLAIMS)


@pytest.fixture(scope="module")
def trained(done, setup):
    """(the base's parameters, arm -> final parameters [S, ...])."""
    c = setup.config
    with StopSignals() as signals, Session(signals, {}, "name", done) as session:
        pretraining = Pretraining(c.pretrain, setup.model, setup.task, setup.second, c.seeds.base)
        base = pretraining.run(done / "base-0", session, 1e9)
    plan = ensemble.Plan(base, "", setup.grid, 2, 1e9, None, None)
    finals = {arm.name: ensemble.final_params(arm, ensemble.begun(done / "base-0" / "arms", arm.name), plan)
              for arm in setup.arms}
    return base.params, finals


def rows(path, **wanted):
    return records.select(records.read_measurements(path), **wanted)


@pytest.mark.slow
def test_the_bundle_is_complete_and_verifies(done, setup):
    assert not verify(done)[1]
    assert set(rows(done, role="seed")["arm"].to_pylist()) == {"base", *setup.config.arms}
    results = storage.read_json(done / "manifest.json")["claim_results"]
    known = set(setup.config.arms)
    assert [r["id"] for r in results] == [c["id"] for c in configs.module(str(TINY)).CLAIMS if set(c["arms"]) <= known]
    assert "at=matched_norm" in "".join(filter(None, rows(done, arm="lora-high")["params"].unique().to_pylist()))


@pytest.mark.slow
def test_every_config_key_is_read_by_something(done):
    read, keys = set((done.parent / "reads.txt").read_text().split()), set(configs.leaves(configs.load(str(TINY), {})))
    assert keys - read <= {"wandb.project"} and not read - keys


@pytest.mark.slow
def test_only_what_an_arm_may_train_has_changed(setup, trained):
    base, finals = trained
    found = masking.references(setup.model, base, 4, 0.5)
    for i, seed in enumerate(setup.seeds):
        for arm in setup.arms:
            after = jax.tree.map(lambda x, i=i: x[i], finals[arm.name])
            changed = {n: np.asarray(w) != np.asarray(models.matrices(base, setup.model)[n])
                       for n, w in models.matrices(after, setup.model).items()}
            assert not changed["embed"].any() and not changed["head"].any()
            if arm.name in ("principal", "safe"):
                kept = masking.pattern(arm.name, found)
                assert all(not (changed[n] & ~kept[n]).any() and changed[n].any() for n in kept)
            elif arm.name == "random":
                kept = arm.trainable(base, seed).kept["layers"]
                assert all(not (changed[f"layers/0/{k}"] & ~kept[k][0]).any() for k in LINEAR)
    masks = [setup.arms[2].trainable(base, seed).kept["layers"]["q"] for seed in setup.seeds]
    assert (masks[0] != masks[1]).any() and masks[0].sum() == masks[1].sum()
    for kind in LINEAR:
        ends = base["layers"][kind][0], finals["lora-high"]["layers"][kind][0, 0]
        before, after = (np.asarray(w, np.float64) for w in ends)
        s = np.linalg.svd(after - before, compute_uv=False)
        assert s[2] < 1e-4 * s[0] and s[0] > 0  # rank 2, to rounding


@pytest.mark.slow
def test_budgets_are_reported(done, setup, trained):
    base, _ = trained
    found = {(r["arm"], r["params"]): r["value"] for r in rows(done, metric=trainable.TRAINED.id).to_pylist()}
    linear = sum(x.size for k, x in base["layers"].items() if k in LINEAR)
    assert found["principal", "of=linear"] == pytest.approx(0.5) and found["principal", None] == linear / 2
    assert found["safe", None] == found["random", None] > linear / 2
    assert found["lora-high", None] == found["pissa-high", None] == 2 * sum(
        sum(base["layers"][k].shape[1:]) for k in LINEAR)
    start = {r["arm"]: r["value"] for r in rows(done, metric=trainable.START.id).to_pylist()}
    assert start["lora-high"] == 0.0 < start["pissa-high"] < 1e-6


def test_arms_of_a_kind_share_a_program(setup):
    by_kind = {}
    for arm in setup.arms:
        by_kind.setdefault(arm.name in ("lora-high", "pissa-high"), set()).add((arm.source, arm.spec))
    assert all(len(x) == 1 for x in by_kind.values())


@pytest.mark.parametrize("override, message", [
    ("tune.rank=40", "rank=40 is not between 1 and 16, the largest that every matrix of"),
    ("tune.k=16", "k=16 is above the smallest matrix; at most 15"),
    ("tune.alpha=1.5", "alphas must lie in (0, 1)"),
    ("tune.modules=('q','qq')", "module 'qq' is no matrix of this model"),
    ("arms=('safe','saef')", "arm 'saef' is not known; did you mean 'safe'?"),
    ("train.adapter_learning_rate=0.0", "a learning rate must be greater than 0"),
])
def test_what_cannot_run_is_one_line(override, message, tmp_path, capsys):
    assert run.main([f"--config={TINY}", f"--workdir={tmp_path}/run", f"--config.{override}"]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1, err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_adding_a_seed_keeps_the_finished_ones(done):
    before = {r["row_id"]: r for r in rows(done, role="seed").to_pylist() if "at=" not in (r["params"] or "")}
    assert run.main([f"--config={TINY}", f"--workdir={done}", "--config.seeds.count=3"]) == 0
    after = {r["row_id"]: r for r in rows(done, role="seed").to_pylist()}
    assert all(after[i] == r for i, r in before.items()) and {r["seed"] for r in after.values()} == {100, 101, 102}
    assert not verify(done)[1] and len(rows(done, metric=trainable.START.id)) == 2
