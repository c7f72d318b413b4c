"""The intervention end to end at its smallest: complete, resumable, extended by seeds; what is refused; its claims."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments import run
from experiments.harness import claims
from experiments.harness import config as configs
from experiments.rlvr_intervention import transforms as interventions
from experiments.rlvr_intervention.experiment import PAIRS, Setup
from jaxpost import records
from jaxpost.models import symmetries
from jaxpost.probes.updates import mask_pairs
from jaxpost.records import storage
from jaxpost.records.verify import verify

from .conftest import record_reads

TINY = Path(__file__).resolve().parent / "tiny_intervention.py"


def full_disk(*given):
    raise OSError(28, "No space left on device", "somewhere")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run that was stopped once before its pairs were compared; beside it the keys that were read."""
    path = tmp_path_factory.mktemp("intervention") / "run"
    call = [f"--config={TINY}", f"--workdir={path}"]
    with pytest.MonkeyPatch.context() as patch:
        seen, read = record_reads(patch), set()
        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(mask_pairs, "compare", full_disk)
            assert run.main(call) == 2
        read |= seen  # every call loads anew, which clears what was seen, and later ones find the base made
        assert run.main(call) == 0
        read |= seen
    (path.parent / "reads.txt").write_text("\n".join(sorted(read)))
    return path


def _term(sign, pair, group):
    against, arm, mapping = pair
    return sign, {"arm": arm, "params": {"against": against, "group": group, "map": mapping}}


def rows(path, **wanted):
    return records.select(records.read_measurements(path), **wanted)


def test_the_bundle_is_complete_and_verifies(done):
    assert not verify(done)[1]
    setup = Setup(configs.load(str(TINY), {}), configs.module(str(TINY)).CLAIMS)
    names = {info.name for info in setup.infos}
    for metric in mask_pairs.METRICS:
        found = rows(done, role="seed", metric=metric)
        keys = {tuple(records.parse_params(p)[k] for k in ("against", "map")) + (a,)
                for p, a in zip(found["params"].to_pylist(), found["arm"].to_pylist())}
        assert keys == {(against, mapping, arm) for against, arm, mapping in PAIRS}
        assert set(found["seed"].to_pylist()) == {200, 201}
        assert set(records.select(found, granularity="tensor")["tensor"].to_pylist()) == names
        assert found["null_value"].null_count == 0 and set(found["null_kind"].to_pylist()) == {"magnitude_conditioned"}
    per_seed = [len(rows(done, role="seed", seed=seed)) for seed in (200, 201)]
    assert per_seed[0] == per_seed[1]
    assert set(rows(done, metric=interventions.LOGIT_CHANGE.id)["arm"].to_pylist()) == {"transformed", "rounded"}
    results = storage.read_json(done / "manifest.json")["claim_results"]
    assert [r["id"] for r in results] == [c["id"] for c in setup.claims] and all(r["registered"] for r in results)
    assert {r["verdict"] for r in results} == {"inconclusive"} and all(r["n_units"] == 2 for r in results)


def test_every_config_key_is_read_by_something(done):
    read, keys = set((done.parent / "reads.txt").read_text().split()), set(configs.leaves(configs.load(str(TINY), {})))
    assert keys - read <= {"wandb.project"} and not read - keys


def test_mapping_back_is_no_news_where_nothing_was_done(done):
    found = records.select(rows(done, role="seed", arm="intervened"), metric="weight.pair.overlap")
    value = {(r["tensor"], r["seed"], r["params"]): r["value"] for r in found.to_pylist() if r["tensor"]}
    setup = Setup(configs.load(str(TINY), {}), ())
    moved = {name for name in (i.name for i in setup.infos) if symmetries.treatment(setup.symmetries, name) != "same"}
    assert moved == {"layers/0/q", "layers/0/k", "layers/0/v", "layers/0/o", "layers/1/v", "layers/1/o"}
    for (name, seed, params), x in value.items():
        if name not in moved and "map=back" in params:
            assert x == value[name, seed, params.replace("map=back", "map=raw")]


def test_a_transform_changes_the_function_by_rounding_only(done):
    exact, rounded = (rows(done, metric=interventions.LOGIT_CHANGE.id, arm=a).to_pylist()[0]
                      for a in ("transformed", "rounded"))
    assert 0 < exact["value"] < 2e-6 < rounded["value"] < 2e-2 and rounded["noise_floor"] == exact["value"]
    kl = {arm: np.abs(rows(done, metric="policy.kl_forward", arm=arm, role="seed")["value"].to_numpy())
          for arm in ("transformed", "rounded")}
    assert kl["transformed"].max() < 1e-5 and kl["rounded"].max() < 1e-2


def test_a_second_call_says_that_it_is_finished(done, tmp_path, capsys):
    copy = shutil.copytree(done, tmp_path / "run")
    assert run.main([f"--config={TINY}", f"--workdir={copy}"]) == 0
    assert "is finished (2 seeds" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_whose_seeds_were_added_one_by_one_has_the_same_rows(done, tmp_path):
    for count in (1, 2):
        assert run.main([f"--config={TINY}", f"--workdir={tmp_path}/run", f"--config.seeds.count={count}"]) == 0
    plain, kept = ({r["row_id"]: r for r in rows(path, role="seed").to_pylist()} for path in (tmp_path / "run", done))
    assert plain == kept


@pytest.mark.parametrize("override, message", [
    ("intervene.rotate=(0,)", "a layer is named twice"),
    ("intervene.rotate=()", "need at least one layer each"),
    ("intervene.rotate=(1,2)", "3 of 3 layers are transformed and none is left as the control; set model.layers to at"),
    ("intervene.rotate=(7,)", "layer 7 does not exist; the model has layers 0 to 2"),
    ("intervene.rotation=har", "did you mean 'haar'?"),
    ("train.learning_rate=0.0", "a learning rate must be greater than 0"),
    ("train.objective=dpo", "is of the family 'preference', and arm 'plain' takes one of 'rl'"),
])
def test_what_cannot_run_is_one_line(override, message, tmp_path, capsys):
    assert run.main([f"--config={TINY}", f"--workdir={tmp_path}/run", f"--config.{override}"]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1, err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change, message", [
    ({"terms": (_term(1, ("plain", "independent", "back"), "moved"),)}, "is not a sign and one of"),
    ({"terms": (_term(1, ("plain", "independent", "raw"), "movd"),)}, "did you mean 'moved'?"),
    ({"terms": (_term(0, ("plain", "independent", "raw"), "moved"),)}, "is not a weight"),
    ({"metric": "weight.pair.overlp"}, "did you mean 'weight.pair.overlap'?"),
    ({"threshold": 0.0}, "needs a threshold at or beyond"),
    ({"terms": ()}, "has no terms"),
])
def test_claims_are_checked_before_the_run(change, message):
    claim = configs.module("rlvr_intervention").CLAIMS[0] | change
    with pytest.raises(Exception, match=message.replace("?", r"\?")):
        Setup(configs.load(str(TINY), {}), (claim,))


def test_a_claim_is_the_signed_sum_of_its_terms():
    pair, other = ("plain", "independent", "raw"), ("plain", "intervened", "raw")
    claim = configs.module("rlvr_intervention").CLAIMS[0] | {
        "terms": (_term(1, pair, "moved"), _term(-1, other, "moved")), "excess": True}
    parts = []
    rng = np.random.default_rng(0)
    value = rng.normal(0.5, 0.01, (2, 5))
    for (against, arm, mapping), x_S in zip((pair, other), (value[0], value[1] - 0.3)):
        for seed, x in enumerate(x_S):
            parts.append({"metric": claim["metric"], "arm": arm, "role": "seed", "step": 9, "seed": seed,
                          "granularity": "body", "params": f"against={against};group=moved;map={mapping}", "value": x,
                          "null_value": 0.1, "dtype": "bf16", "conditional_on": "b"})
    for arm, success in (("base", 0.3), *((arm, 0.6) for arm in claim["arms"])):
        for seed in range(5):
            parts.append({"metric": "policy.success", "arm": arm, "role": "seed", "step": 0 if arm == "base" else 9,
                          "seed": seed, "granularity": "policy", "split": "id", "value": success + 0.001 * seed,
                          "conditional_on": "b", "dtype": None, "params": None, "null_value": None})
    table = records.measurement_table({k: [p.get(k) for p in parts] for k in parts[0]} | {
        "split": [p.get("split") for p in parts]})
    ends = dict.fromkeys(claim["arms"], claims.End(9))
    result = claims.judge([claim], table, dict.fromkeys(ends, 9), claims.gates.success_moved(ends))[0]
    expected = value[0] - value[1] + 0.3
    assert result["estimate"] == pytest.approx(expected.mean(), rel=1e-12) and result["verdict"] == "supported"
    half = 2.7764451 * expected.std(ddof=1) / np.sqrt(5)
    assert result["ci_lo"] == pytest.approx(expected.mean() - half, rel=1e-6)
    assert "- (intervened, plain, moved, raw)" in result["contrast"]


def test_the_pilot_loads_and_keeps_off_the_test_seeds():
    shipped = configs.load("rlvr_intervention", {})
    for overrides in configs.module("rlvr_intervention").sweep():
        pilot = configs.load("rlvr_intervention", overrides)
        seeds = [range(c.seeds.first, c.seeds.first + c.seeds.count) for c in (shipped, pilot)]
        assert not set(seeds[0]) & set(seeds[1]) and Setup(pilot, ()).arms[0].scalars.learning_rate == 1e-4
