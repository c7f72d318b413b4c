"""A directory that is claimed, resumed or finished; shards that survive a crash; a bundle id that means the science."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from jaxpost import records
from jaxpost.records import contents, storage
from jaxpost.records.schema import MEASUREMENTS


def columns(value=0.5, arm="a", step=1):
    return {
        "metric": "weight.update_norm",
        "arm": arm,
        "role": "seed",
        "granularity": "global",
        "step": step,
        "seed": [0, 1],
        "value": [value, value + 1],
        "conditional_on": "base",
    }


def test_the_hash_of_the_claims_is_on_disk_before_the_first_arm(tmp_path, run):
    run.open_bundle(tmp_path / "b")
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    assert manifest["claims"] == run.CLAIMS and len(manifest["claims_hash"]) == 64 and manifest["status"] == "running"
    assert "environment" in manifest["sessions"][0] and "bundle_id" not in manifest


def test_resume_keeps_shards_and_counts_sessions(tmp_path, run):
    with run.open_bundle(tmp_path / "b") as first:
        assert first.state == "new" and not first.has_rows("a-1")
        first.write_rows("a-1", columns())
    again = run.open_bundle(tmp_path / "b")
    assert again.state == "resumed" and again.has_rows("a-1") and len(again.manifest["sessions"]) == 2
    assert [event["phase"] for event in records.read_events(tmp_path / "b/events.jsonl")] == ["open", "resume"]


def test_the_same_shard_twice_is_one_shard_and_a_different_one_is_logged(tmp_path, run):
    bundle = run.open_bundle(tmp_path / "b")
    bundle.write_rows("a-1", columns())
    before = (tmp_path / "b/rows/a-1.parquet").stat().st_mtime_ns
    bundle.write_rows("a-1", columns())
    assert (tmp_path / "b/rows/a-1.parquet").stat().st_mtime_ns == before and len(bundle.read_rows()) == 2
    bundle.write_rows("a-1", columns(0.7))
    assert len(bundle.read_rows()) == 2 and bundle.read_rows()["value"][0].as_py() == 0.7
    assert records.read_events(tmp_path / "b/events.jsonl")[-1]["phase"] == "rows-replaced"


def test_another_config_is_refused_with_both_hashes_and_the_difference(tmp_path, run):
    run.open_bundle(tmp_path / "b").release()
    other = run.CONFIG | {"train": {"lr": 1e-2, "steps": 400}}
    with pytest.raises(records.BundleError) as refused:
        run.open_bundle(tmp_path / "b", config=other)
    hashes = [records.config_hash(config, ["workdir"])[:12] for config in (run.CONFIG, other)]
    assert all(text in str(refused.value) for text in (*hashes, "train.lr (0.001 there, 0.01 here)"))


def test_fields_that_change_no_result_do_not_change_the_config(tmp_path, run):
    run.open_bundle(tmp_path / "b").release()
    assert run.open_bundle(tmp_path / "b", config=run.CONFIG | {"workdir": "elsewhere"}).state == "resumed"
    with pytest.raises(ValueError, match="hashes to"):
        records.Bundle.open(tmp_path / "c", run.CONFIG, "0" * 64, [])


def test_a_run_that_goes_on_in_another_place_keeps_the_config_that_it_began_with(tmp_path, run):
    """What else differs is refused all the same, and a new directory has the place that is given."""
    began, now = (run.CONFIG | {"mesh": {"data": size}} for size in (1, 2))
    with run.open_bundle(tmp_path / "b", config=began, config_place=("mesh",)) as bundle:
        digest = bundle.manifest["config_hash"]
    with run.open_bundle(tmp_path / "b", config=now, config_place=("mesh",)) as again:
        assert (again.state, again.manifest["config"], again.manifest["config_hash"]) == ("resumed", began, digest)
    with pytest.raises(records.BundleError, match="differing: seeds"):
        run.open_bundle(tmp_path / "b", config=now | {"seeds": 6}, config_place=("mesh",))
    with run.open_bundle(tmp_path / "c", config=now, config_place=("mesh",)) as other:
        assert other.manifest["config"] == now and other.manifest["config_hash"] != digest


def test_a_changed_claim_is_refused_on_opening_and_at_the_end(tmp_path, run):
    bundle = run.open_bundle(tmp_path / "b")
    bundle.write_rows("a-1", columns())
    softer = [run.CLAIMS[0] | {"threshold": 0.01}, run.CLAIMS[1]]
    with pytest.raises(records.BundleError, match="a changed claim is a new config"):
        run.open_bundle(tmp_path / "b", claims=softer)
    with pytest.raises(records.BundleError, match="threshold was 0.05 before the run and is 0.01 now"):
        run.finish(bundle, claims=[run.RESULTS[0] | {"threshold": 0.01}, run.RESULTS[1]])
    with pytest.raises(records.BundleError, match="off-principal.*no result"):
        run.finish(bundle, claims=run.RESULTS[:1])


def test_a_living_owner_keeps_the_directory_and_a_dead_one_loses_it(tmp_path, run):
    path = tmp_path / "b"
    code = (
        "import sys; from pathlib import Path; from jaxpost.records import storage;"
        "storage.claim_directory(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert owner.stdout.readline() == b"held\n"
    with pytest.raises(records.BundleError, match=f"in use by process {owner.pid}"):
        run.open_bundle(path)
    owner.kill()
    owner.communicate()
    assert run.open_bundle(path).state == "new"
    (path / ".lock").write_text(json.dumps({"pid": 1, "host": "another-host"}))
    with pytest.raises(records.BundleError, match="another-host.*delete"):
        run.open_bundle(path)


def test_a_reused_pid_is_not_the_owner(tmp_path, run):
    (tmp_path / "b").mkdir()
    lock = {"pid": os.getppid(), "host": storage.socket.gethostname(), "started": "-1"}
    (tmp_path / "b/.lock").write_text(json.dumps(lock))
    if storage._started(os.getppid()) is not None:
        assert run.open_bundle(tmp_path / "b").state == "new"


def test_a_torn_event_is_left_out_on_reading_and_cut_on_appending(tmp_path):
    path = tmp_path / "events.jsonl"
    storage.append_event(path, {"phase": "train", "step": np.int64(3), "loss": np.float32(0.5), "gap": float("nan")})
    with open(path, "ab") as handle:
        handle.write(b'{"phase": "train", "st')
    assert storage.read_events(path) == [{"phase": "train", "step": 3, "loss": 0.5, "gap": "nan"}]
    storage.append_event(path, {"phase": "next"})
    assert [event["phase"] for event in storage.read_events(path)] == ["train", "next"]
    path.write_bytes(b"broken\n" + path.read_bytes())
    with pytest.raises(records.BundleError, match="line 1 is not JSON"):
        storage.read_events(path)


def test_a_full_disk_is_one_line_and_the_old_file_stays(tmp_path, run, monkeypatch):
    bundle = run.open_bundle(tmp_path / "b")
    bundle.write_rows("a-1", columns())

    def full(table, path, **kwargs):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(contents.pq, "write_table", full)
    with pytest.raises(records.BundleError, match="No space left on device.*intact") as refused:
        bundle.write_rows("a-1", columns(0.9))
    assert "\n" not in str(refused.value)
    monkeypatch.undo()
    assert bundle.read_rows()["value"][0].as_py() == 0.5 and not list((tmp_path / "b/rows").glob(".*.tmp"))


def test_arrays_round_trip_and_names_are_checked(tmp_path, run):
    bundle = run.open_bundle(tmp_path / "b")
    bundle.write_arrays("masks.safetensors", {"a/q": np.eye(3, dtype=np.float32)[:, ::-1]})
    np.testing.assert_array_equal(load_file(tmp_path / "b/arrays/masks.safetensors")["a/q"], np.eye(3)[:, ::-1])
    for write in (bundle.write_arrays, bundle.write_rows):
        with pytest.raises(ValueError, match="cannot name a file"):
            write("../x", {})


def test_two_shards_with_one_row_are_named(tmp_path, run):
    bundle = run.open_bundle(tmp_path / "b")
    bundle.write_rows("a-1", columns())
    bundle.write_rows("copy", columns())
    with pytest.raises(records.BundleError, match=r"\['a-1', 'copy'\] hold the same row"):
        bundle.read_rows()


def test_costs_are_updated_by_key_and_stay_out_of_the_rows(tmp_path, run):
    bundle = run.open_bundle(tmp_path / "b")
    bundle.cost("train", arm="a", step=1, wall_s=2.0)
    bundle.cost("train", arm="a", step=1, wall_s=3.0, peak_bytes=10)
    with pytest.raises(ValueError, match="cost 'wal_s' has no unit; did you mean 'wall_s'"):
        bundle.cost("train", wal_s=1.0)
    bundle.write_rows("a-1", columns())
    bundle.close(run.metrics(["weight.update_norm"]))
    costs = pq.read_table(tmp_path / "b/costs.parquet").to_pylist()
    assert [(row["quantity"], row["value"], row["unit"]) for row in costs] == [
        ("peak_bytes", 10, "B"),
        ("wall_s", 3.0, "s"),
    ]
    assert "wall" not in str(records.read_measurements(tmp_path / "b").to_pylist())


def test_bundle_id_does_not_depend_on_shards_time_or_machine(tmp_path, run):
    ids = []
    for name, shuffle in (("one", False), ("two", True)):
        bundle = run.open_bundle(tmp_path / name, devices={"platform": name})
        run.fill(bundle, steps=(10,), shuffle=shuffle)
        bundle.event("train", 10, loss=float(shuffle))
        ids.append(bundle.close(run.metrics(set(bundle.read_rows()["metric"].to_pylist()))))
    assert ids[0] == ids[1]
    bundle = run.open_bundle(tmp_path / "three")
    run.fill(bundle, steps=(10,))
    bundle.write_arrays("spectra", {"a/q": np.ones(3, np.float32)})
    assert bundle.close(run.metrics(set(bundle.read_rows()["metric"].to_pylist()))) != ids[0]


def test_closing_merges_names_what_is_undefined_and_may_be_repeated(tmp_path, run):
    bundle = run.open_bundle(tmp_path / "b")
    bundle.write_rows("a-1", columns())
    bundle.write_rows("b-1", columns(arm="b"))
    with pytest.raises(records.BundleError, match="weight.update_norm.*did you mean 'weight.update_nom'"):
        bundle.close(run.metrics(["weight.update_nom"]))
    first = bundle.close(
        run.metrics(["weight.update_norm", "policy.success"]),
        tensors={"checkpoint": ["base"], "tensor": ["q"], "shape": ["4x4"], "n_elements": [16]},
    )
    assert bundle.close({}) == first and bundle.state == "finished"
    table = pq.read_table(tmp_path / "b/measurements.parquet")
    assert len(table) == 4 and table.schema.equals(MEASUREMENTS) and b"bundle_id" not in table.schema.metadata
    assert pq.read_table(tmp_path / "b/metrics.parquet")["metric"].to_pylist() == ["weight.update_norm"]
    assert not (tmp_path / "b/rows").exists() and not (tmp_path / "b/.lock").exists()
    again = run.open_bundle(tmp_path / "b")
    assert again.state == "finished" and again.has_rows("a-1") and len(again.read_rows()) == 4
    with pytest.raises(records.BundleError, match="is finished"):
        again.write_rows("c-1", columns(arm="c"))


def test_a_null_without_its_row_is_refused(tmp_path, run):
    bundle = run.open_bundle(tmp_path / "b")
    bundle.write_rows("a-1", columns() | {"role": "null", "of": "0" * 16, "null_kind": "isotropic"})
    with pytest.raises(records.BundleError, match="belong to rows that do not exist"):
        bundle.close(run.metrics(["weight.update_norm"]))


def test_a_bundle_of_another_schema_is_read_but_not_added_to(tmp_path, run):
    bundle = run.open_bundle(tmp_path / "b")
    run.fill(bundle, steps=(10,))
    bundle.release()
    manifest = tmp_path / "b" / "manifest.json"
    older = storage.read_json(manifest) | {"schema": "1.0"}
    storage.write_manifest(manifest, older)
    with pytest.raises(records.BundleError, match="schema 1.0, this version writes 1.1"):
        run.open_bundle(tmp_path / "b")
    storage.write_manifest(manifest, older | {"status": "complete"})
    finished = run.open_bundle(tmp_path / "b")
    assert finished.state == "finished"
    with pytest.raises(records.BundleError, match="schema 1.0"):
        records.reopen(finished)
    assert storage.read_json(manifest)["status"] == "complete"


def test_a_changed_machine_is_announced_and_recorded(tmp_path, run):
    run.open_bundle(tmp_path / "b", devices={"count": 1}).release()
    with pytest.warns(UserWarning, match="devices: {'count': 1} -> {'count': 8}"):
        bundle = run.open_bundle(tmp_path / "b", devices={"count": 8})
    assert bundle.manifest["sessions"][1]["changes"] == ["devices: {'count': 1} -> {'count': 8}"]
