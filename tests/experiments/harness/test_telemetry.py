"""Mirrors as they are used: real W&B offline files and real TensorBoard event files, read back record by record."""

import json
import os
import struct
import sys
import time

import numpy as np
import pytest

from experiments.harness import telemetry
from experiments.harness.telemetry.sink import probe_scalars
from experiments.harness.telemetry.tensorboard_sink import markdown

CLAIMS = [{"id": "sparser", "statement": "A changes | less than B.", "verdict": "supported", "estimate": 0.2, "ci_lo": 0.1,
           "ci_hi": 0.3, "threshold": 0.05, "p_holm": 0.01, "n_units": 2, "note": ""}]
MANIFEST = {"bundle_id": "ab" * 32, "claim_results": CLAIMS}
HISTORY = {"loss": np.asarray([[3.0, 2.0, 1.0], [6.0, 5.0, 4.0]]), "grads": np.zeros((2, 3, 7))}  # two seeds, three steps
ROWS = {"metric": ["policy.success", "weight.sparsity.bf16", "weight.sparsity.bf16"], "role": "seed", "seed": [0, 0, 1],
        "granularity": ["policy", "global", "tensor"], "value": [0.5, 0.9, 0.8], "null_value": [0.1, None, 0.7],
        "split": ["id", None, None], "dtype": [None, "bf16", "bf16"]}


def carried_out(config, folder):
    """A study of one arm and two seeds, eight steps in segments, measured once, published."""
    bundle = folder / "bundle"
    bundle.mkdir()
    (bundle / "report.html").write_text("<html>")
    (bundle / "manifest.json").write_text(json.dumps(MANIFEST))
    said = []
    found = telemetry.opened(config | {"seeds": {"count": 2}}, "tiny", bundle, said.append)
    for before in (0, 3, 6):
        part = {name: x[:, :2] if before == 6 else x for name, x in HISTORY.items()}
        found.steps("grpo", [0, 1], before, part)
    found.measured("grpo", 3, ROWS)
    found.table("grpo", 1, 3, "completions", ("prompt", "answer", "reward"), [("1+1=", "2", 1.0)])
    found.ended("grpo", [0, 1])
    found.published(bundle, MANIFEST)
    found.close(failed=False)
    return bundle, said


def log_records(data):
    """Records of a `.wandb` file: 7 bytes of header, then the log format of LevelDB (blocks of 32 KiB, parts of records)."""
    assert data[:4] == b":W&B"
    place, parts = 7, []
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place:place + 7])
        parts.append(data[place + 7:place + 7 + size])
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def wandb_records(folder):
    """run name -> (run record, history as a list of dicts, summaries, artifacts) of every offline run."""
    from wandb.proto import wandb_internal_pb2

    found = {}
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        records = [wandb_internal_pb2.Record.FromString(data) for data in log_records(path.read_bytes())]
        run = next(record.run for record in records if record.WhichOneof("record_type") == "run")
        history = [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
                   for record in records if record.WhichOneof("record_type") == "history"]
        summary = {item.key or "/".join(item.nested_key): item.value_json for record in records
                   if record.WhichOneof("record_type") == "summary" for item in record.summary.update}
        artifacts = [record.artifact if record.WhichOneof("record_type") == "artifact" else record.request.log_artifact.artifact
                     for record in records if record.WhichOneof("record_type") == "artifact"
                     or record.WhichOneof("record_type") == "request" and record.request.HasField("log_artifact")]
        found[run.display_name] = run, history, summary, artifacts
    return found


@pytest.mark.slow
def test_wandb_offline_has_a_run_an_arm_and_seed_with_every_step_rows_tables_claims_and_the_report(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    bundle, said = carried_out({"wandb": {"mode": "offline", "project": "p"}}, tmp_path)
    assert said == [] and "WANDB_DATA_DIR" not in os.environ
    found = wandb_records(bundle / "telemetry" / "wandb")
    assert set(found) == {"study", "grpo-seed-0", "grpo-seed-1"}
    groups = {run.run_group for run, *_ in found.values()}
    assert len(groups) == 1 and groups.pop().startswith("tiny-")
    run, history, *_ = found["grpo-seed-1"]
    assert run.job_type == "arm" and list(run.tags) == ["tiny", "grpo", "seed 1"] and run.project == "p"
    losses = [(row["step"], row["train/loss"]) for row in history if "train/loss" in row]
    assert losses == [(1, 6), (2, 5), (3, 4), (4, 6), (5, 5), (6, 4), (7, 6), (8, 5)]  # every step that was computed
    table = next(row for row in history if "completions/nrows" in row)
    assert table["completions/_type"] == "table-file" and table["completions/nrows"] == 1 and table["step"] == 3
    rows = next(row for row in found["grpo-seed-0"][1] if "probe/policy.success/id" in row)
    assert rows["probe/policy.success/id"] == 0.5 and rows["probe/policy.success/id/null"] == 0.1 and rows["step"] == 3
    assert rows["probe/weight.sparsity.bf16/bf16"] == 0.9
    _, history, summary, artifacts = found["study"]
    assert history[0]["claims/nrows"] == 1 and json.loads(summary["claims/sparser"]) == "supported"
    report = next(artifact for artifact in artifacts if artifact.type == "report")
    assert {entry.path for entry in report.manifest.contents} == {"report.html", "manifest.json"}
    assert all(entry.local_path.startswith(str(bundle)) for entry in report.manifest.contents)
    assert not (tmp_path / "home").exists() or not list((tmp_path / "home").rglob("*"))  # files of the mirror lie in the bundle


def events(folder):
    """(step, tag, value or text) of every event file, in order."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.rglob("events.out.*")):
        data = path.read_bytes()
        while data:
            size = struct.unpack("<Q", data[:8])[0]
            event = Event()
            event.ParseFromString(data[12:12 + size])
            data = data[16 + size:]
            found += [(event.step, value.tag, value.tensor.string_val[0].decode() if value.HasField("tensor")
                       else value.simple_value) for value in event.summary.value]
    return found


def test_tensorboard_has_the_same_through_the_same_sink(tmp_path):
    bundle, said = carried_out({"tensorboard": True}, tmp_path)
    folder = bundle / "telemetry" / "tensorboard"
    assert said == [] and {path.name for path in (folder / "grpo").iterdir()} == {"seed-0", "seed-1"}
    found = events(folder / "grpo" / "seed-1")
    assert [(step, value) for step, tag, value in found if tag == "train/loss"] == [
        (1, 6), (2, 5), (3, 4), (4, 6), (5, 5), (6, 4), (7, 6), (8, 5)]
    assert any("1+1=" in text for _, tag, text in found if tag.startswith("completions"))
    rows = {tag: value for _, tag, value in events(folder / "grpo" / "seed-0") if tag.startswith("probe/")}
    assert rows["probe/policy.success/id/null"] == pytest.approx(0.1) and len(rows) == 3
    assert any("supported" in text and r"changes \| less" in text for _, _, text in events(folder / "study"))


def test_tensorboard_has_on_disk_what_was_told_before_a_kill(tmp_path):
    found = telemetry.opened({"tensorboard": True}, "tiny", tmp_path, print)
    found.steps("grpo", [0], 0, {"loss": np.asarray([[3.0, 2.0, 1.0]])})
    folder, until = tmp_path / "telemetry" / "tensorboard" / "grpo" / "seed-0", time.monotonic() + 10
    while len(seen := events(folder)) < 3 and time.monotonic() < until:  # nothing is closed
        time.sleep(0.1)
    found.close(failed=True)
    assert [(step, value) for step, _, value in seen] == [(1, 3), (2, 2), (3, 1)]


def test_rows_of_single_matrices_and_without_a_value_are_no_curves():
    found = list(probe_scalars(ROWS))
    assert found == [(0, "probe/policy.success/id", 0.5), (0, "probe/policy.success/id/null", 0.1),
                     (0, "probe/weight.sparsity.bf16/bf16", 0.9)]
    assert markdown(("a",), [("x|y\nz",), (0.12345,)]).splitlines() == ["| a |", "| --- |", r"| x\|y z |", "| 0.1235 |"]


def test_what_is_not_installed_or_fails_is_said_once_and_nothing_else_happens(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    said = []
    found = telemetry.opened({"tensorboard": True}, "tiny", tmp_path, said.append)
    found.steps("a", [0], 0, {"loss": np.ones((1, 1))})
    assert said == ["TensorBoard mirror is off: tensorboardX is not installed (pip install tensorboardX)"]

    class Broken:
        name = "Broken"

        def scalars(self, *given):
            raise OSError("disk\nfull")

    said = []
    found = telemetry.Telemetry([Broken()], said.append)
    for step in range(3):
        found.steps("a", [0], step, {"loss": np.ones((1, 1))})
    found.close(failed=False)
    assert said == ["Broken mirror ended: OSError: disk"]
