"""Shards, arrays and costs of an unfinished bundle: what was written is what is read, sealed and kept."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from jaxpost import records
from jaxpost.records import digests, provenance
from tests.flips import flip, tried
from tests.records.test_bundle import columns

FLIPS = [20, pytest.param(300, marks=pytest.mark.slow)]


@pytest.fixture
def written(tmp_path, run):
    path = tmp_path / "sound" / "b"
    with run.open_bundle(path) as bundle:
        bundle.write_rows("a-1", columns())
        bundle.write_rows("a-2", columns(step=2))
        bundle.write_arrays("masks", {"q": np.eye(3)})
        bundle.cost("train", arm="a", step=1, wall_s=2.5)
    return path


@pytest.mark.parametrize("count", FLIPS)
@pytest.mark.filterwarnings("ignore:.*is not what was written")
def test_a_flipped_bit_of_a_shard_is_found_or_changes_nothing(written, tmp_path, run, monkeypatch, count):
    whole = run.open_bundle(written).read_rows()
    monkeypatch.setattr(provenance, "code_state", lambda *given: {})  # asks git: slow

    def read(rows):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(written, tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy" / "rows")
        shutil.copytree(rows, tmp_path / "copy" / "rows")
        with run.open_bundle(tmp_path / "copy") as bundle:
            if not (bundle.has_rows("a-1") and bundle.has_rows("a-2")):
                return "detected" if records.read_events(tmp_path / "copy/events.jsonl")[-1]["phase"] == "damaged" else "unsaid"
            return "harmless" if bundle.read_rows().equals(whole) else "silent"

    seen = tried(written / "rows", tmp_path / "rows", count, read)
    assert set(seen) <= {"detected", "harmless"} and seen["detected"] >= count // 2


def test_what_is_damaged_is_moved_aside_and_can_be_written_again(written, run):
    for name in ("rows/a-2.parquet", "arrays/masks.safetensors", "costs/train-a-1.json"):
        flip(written / name, 8 * 40)
    with pytest.warns(UserWarning, match="is not what was written; it is moved to"):
        bundle = run.open_bundle(written)
    assert bundle.has_rows("a-1") and not bundle.has_rows("a-2") and not list((written / "arrays").glob("[!.]*"))
    bundle.write_rows("a-2", columns(step=2))
    assert len(bundle.read_rows()) == 4


@pytest.mark.parametrize("name", ["rows/a-2.parquet", "arrays/masks.safetensors", "costs/train-a-1.json"])
def test_what_changes_while_the_run_goes_on_is_never_sealed(written, run, name):
    bundle = run.open_bundle(written)
    flip(written / name, 8 * 40)
    with pytest.raises(records.BundleError, match="is not what was written .*run the same command again"):
        bundle.close(run.metrics(["weight.update_norm"]))
    assert bundle.manifest["status"] == "running"


def test_the_rows_of_finished_seeds_are_refused_when_damaged(written, run):
    shutil.copy(written / "rows/a-1.parquet", written / "rows/finished.parquet")
    (written / "rows/.finished.parquet.sha256").write_text("0  finished.parquet\n")
    with pytest.raises(records.BundleError, match="holds the rows of the seeds that were finished before"):
        run.open_bundle(written)


def test_a_shard_of_an_earlier_version_is_read_with_a_note(written, run):
    (written / "rows/.a-1.parquet.sha256").unlink()
    with pytest.warns(UserWarning, match="files in .*rows were written before there were digests"):
        assert len(run.open_bundle(written).read_rows()) == 4


def test_the_measurements_of_a_sealed_bundle_are_compared_with_the_manifest(written, run):
    run.open_bundle(written).close(run.metrics(["weight.update_norm"]))
    assert not list(written.rglob(".*.sha256")) and len(records.read_measurements(written)) == 4
    flip(written / "measurements.parquet", 8 * 60)
    with pytest.raises(records.BundleError, match="is not what was sealed"):
        records.read_measurements(written)


def test_another_base_than_the_one_recorded_is_refused(written, run):
    with run.open_bundle(written) as bundle:
        bundle.require_base("base-0", "aa")
        bundle.require_base("base-0", "aa")
    with run.open_bundle(written) as again, pytest.raises(records.BundleError, match="base-0 is bb, .*began with aa"):
        again.require_base("base-0", "bb")


def test_the_digest_is_one_that_sha256sum_checks(written):
    line = (written / "rows/.a-1.parquet.sha256").read_text()
    assert line == f"{provenance.file_digest(written / 'rows/a-1.parquet')}  a-1.parquet\n" and digests.sound(
        written / "rows/a-1.parquet")
    if sys.platform == "linux" and shutil.which("sha256sum"):
        command = ["sha256sum", "-c", ".a-1.parquet.sha256"]
        assert subprocess.run(command, cwd=written / "rows", capture_output=True).returncode == 0


def test_a_flipped_bit_of_the_manifest_is_said(written, run):
    text = (written / "manifest.json").read_text()
    flip(written / "manifest.json", 8 * (text.index('"created": "') + len('"created": "20')))
    with pytest.raises(records.BundleError, match="manifest.json is not what was written"):
        run.open_bundle(written)
