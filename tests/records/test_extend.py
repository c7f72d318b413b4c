"""A finished bundle reopened for further replicates: nothing is lost at any moment, old rows stay as they are."""

import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jaxpost import records
from jaxpost.records import extend, storage
from jaxpost.records.verify import verify


class Killed(BaseException):
    """Stands for SIGKILL."""


def opened(run, path):
    """The made-up run's bundle, on the machine that the finished one says it was made on."""
    return run.open_bundle(path, devices={"platform": "cpu", "kind": "cpu", "count": 1})


@pytest.fixture
def bundle_copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "b")


def test_replicates_are_seed_rows_and_their_nulls_without_what_is_made_of_others(run):
    columns = run.measurement("sft-lr1", 10, 2)
    table = records.measurement_table(columns)
    at = records.measurement_table({"metric": "weight.update_norm", "arm": "sft-lr1", "role": "seed", "granularity": "global",
                                    "seed": [0, 1, 0], "value": [1.0, 2.0, 3.0],
                                    "params": ["at=matched_norm", "alpha=0.5;at=x", "stages=sft+rl"]})
    both = records.summarise(table)
    mixed = pa.concat_tables([table, at, both])
    assert records.measurement_table(extend.replicates(mixed)).equals(table)
    assert len(extend.replicates(mixed, derived=())) == len(table) + 3


def test_reopening_keeps_the_rows_and_costs_and_drops_what_follows_from_them(bundle_copy, run):
    before = records.read_measurements(bundle_copy)
    costs = pq.read_table(bundle_copy / "costs.parquet").to_pylist()
    first = opened(run, bundle_copy)
    records.reopen(first)
    bundle = opened(run, bundle_copy)
    assert bundle.state == "resumed" and bundle.manifest["status"] == "running"
    assert bundle.read_rows().equals(records.measurement_table(extend.replicates(before)))
    for name in ("measurements.parquet", "report.html", "tables", "figures", "arrays"):
        assert not (bundle_copy / name).exists()
    assert bundle.has_rows("rlvr-lr1-10") and bundle.sealed_rows("rlvr-lr1-10") and not bundle.has_rows("new")
    assert not {"bundle_id", "claim_results", "files", "closed"} & bundle.manifest.keys()
    bundle.write_arrays("masks", run.masks(("sft-lr1",)))
    run.finish(bundle)
    assert not verify(bundle_copy)[1]
    after = records.read_measurements(bundle_copy)
    assert after.equals(before)  # estimates and claims come out the same from the same replicates
    assert pq.read_table(bundle_copy / "costs.parquet").to_pylist() == costs
    assert bundle.manifest["extensions"][0]["bundle_id"] == first.manifest["bundle_id"]


def test_added_replicates_may_be_added_to_again(bundle_copy, run):
    old = extend.replicates(records.read_measurements(bundle_copy))
    for seed in (3, 4):
        records.reopen(opened(run, bundle_copy))
        bundle = opened(run, bundle_copy)
        more = records.measurement_table(run.measurement("rlvr-lr1", 10, 5))
        more = more.filter(pc.equal(more["seed"], seed))
        bundle.write_rows(f"rlvr-lr1-10-seed-{seed}", more)
        bundle.close(run.metrics(bundle.read_rows()["metric"].to_pylist()))
        assert bundle.sealed_rows("rlvr-lr1-10") and bundle.sealed_rows(f"rlvr-lr1-10-seed-{seed}") is False
    kept = {row["row_id"]: row for row in records.read_measurements(bundle_copy).to_pylist()}
    assert all(kept[row["row_id"]] == row for row in old.to_pylist())
    assert {row["seed"] for row in kept.values()} == {0, 1, 2, 3, 4}


def test_a_kill_at_any_moment_leaves_the_finished_bundle_or_the_running_one(finished, tmp_path, run, monkeypatch):
    whole = records.measurement_table(extend.replicates(records.read_measurements(finished)))
    real, writes = storage.write_atomic, []

    def write(path, writer):
        if len(writes) == at and when == "before":
            raise Killed
        real(path, writer)
        writes.append(path)
        if len(writes) == at + 1:
            raise Killed

    seen = set()
    for at in (*range(0, 7), *range(7, 40, 3)):
        for when in ("before", "after"):
            path = shutil.copytree(finished, tmp_path / f"{at}-{when}")
            bundle = opened(run, path)
            writes.clear()
            with monkeypatch.context() as patch:
                patch.setattr(storage, "write_atomic", write)
                try:
                    records.reopen(bundle)
                    opened(run, path)
                except Killed:
                    pass
            again = opened(run, path)
            seen.add(again.state)
            if again.state == "finished":
                assert not verify(path)[1]
                records.reopen(again)
                again = opened(run, path)
            assert again.read_rows().equals(whole), (at, when)
            assert not (path / "report.html").exists()
    assert seen == {"finished", "resumed"}


def test_a_kill_between_sealing_and_clearing_up_does_not_double_the_rows(bundle_copy, run):
    whole = records.measurement_table(extend.replicates(records.read_measurements(bundle_copy)))
    (bundle_copy / "rows").mkdir()
    pq.write_table(whole, bundle_copy / "rows" / "rlvr-lr1-10.parquet")
    records.reopen(opened(run, bundle_copy))
    assert opened(run, bundle_copy).read_rows().equals(whole)


def test_only_a_finished_bundle_is_reopened(tmp_path, bundle_copy, run):
    running = opened(run, tmp_path / "running")
    with pytest.raises(records.BundleError, match="is not finished .status 'running'.: it can be resumed as it is"):
        records.reopen(running)
    (bundle_copy / "measurements.parquet").write_bytes(b"PAR1")
    with pytest.raises(records.BundleError, match="measurements.parquet is not what was sealed"):
        records.reopen(opened(run, bundle_copy))
    assert storage.read_json(bundle_copy / "manifest.json")["status"] == "complete"
    assert not (bundle_copy / ".lock").exists()
