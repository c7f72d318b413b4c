"""The command: one line for every mistake, formats for pipes, the checker on a planted pair, a full disk."""

import csv
import errno
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from jaxpost.compare import __main__ as command
from jaxpost.compare import comparison, passes, progress
from jaxpost.formats import safetensors
from jaxpost.records import storage
from jaxpost.records.verify import verify
from tests.compare import checkpoints


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    path = tmp_path_factory.mktemp("planted")
    (path / "planted.json").write_text(json.dumps(checkpoints.planted(path)))
    return path


@pytest.fixture(scope="module")
def report(planted):
    arguments = [str(planted / "base"), str(planted / "tuned"), "--out", str(planted / "report")]
    assert command.main(arguments) == 0
    return arguments


def test_the_checker_finds_planted_sparsity_rotation_and_rank(report, planted, capsys):
    assert command.main([*report, "--expect", str(planted / "planted.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and all(line.startswith("pass") for line in lines), lines
    wrong = checkpoints.planted(planted / "again")
    wrong["figures"][2]["expected"] *= 1.1
    (planted / "wrong.json").write_text(json.dumps(wrong))
    assert command.main([*report, "--expect", str(planted / "wrong.json")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line[:4] for line in lines] == ["pass", "pass", "FAIL", "pass", "pass", "pass"]


def test_the_page_has_its_figures_tables_and_flags(report, planted):
    page = (planted / "report" / "report.html").read_text()
    for text in ("Layer by module", "Rotation of the principal subspace", "Mask stripes", "Spectra of base and update",
                 "Update sparsity against tolerance", "Before reading", "stored dtypes differ", "@misc", "begin{tabular}"):
        assert text in page, text
    assert {path.stem for path in (planted / "report" / "figures").glob("*.png")} == {
        "layer_maps", "angles", "stripes", "spectra", "tolerance"}


def test_the_terminal_says_the_result_and_where_the_report_is(report, planted, capsys):
    assert command.main(report) == 0
    out = capsys.readouterr().out.splitlines()
    labels = "tuned against", "unchanged   weights equal in bf16 76.5 %", "size", "spectrum", "stands out", "left out    6 of"
    assert all(line.startswith(label) for line, label in zip(out, labels))
    assert out[-1] == str(planted / "report" / "report.html")
    assert "below its null band" in out[1] and "module q (update sparsity 0.750" in out[4]  # a quarter of q was moved by hand
    page = (planted / "report" / "report.html").read_text()
    texts = "The result in short", "Before reading", 'id="figures"', "As the papers print them"
    places = [page.index(text) for text in texts]
    assert places == sorted(places)


def test_without_out_every_pair_and_level_has_a_directory_of_its_own(planted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = [str(planted / "base"), str(planted / "tuned"), "--level", "element"]
    assert [command.main(a) for a in (run, run, [*run[1::-1], *run[2:]], [*run, "--allow-unpaired"])] == [0] * 4
    found = sorted(path.parent.name for path in tmp_path.glob("reports/*/report.html"))
    assert len(found) == 3 and found[0].startswith("base-against-tuned-") and found[2].startswith("tuned-against-base-")


def test_formats_for_pipes_hold_the_same_rows(planted, capsysbinary):
    pair = [str(planted / "base"), str(planted / "tuned"), "--level", "element"]
    found = {}
    for kind in ("json", "csv", "parquet", "latex"):
        assert command.main([*pair, "--format", kind]) == 0
        found[kind] = capsysbinary.readouterr().out
    table = pq.read_table(io.BytesIO(found["parquet"]))
    rows = [json.loads(line) for line in found["json"].splitlines()]
    assert rows == table.to_pylist() and len(rows) > 100
    assert pyarrow.csv.read_csv(io.BytesIO(found["csv"]))["row_id"].to_pylist() == table["row_id"].to_pylist()
    assert b"begin{tabular}" in found["latex"] and b"76.5" in found["latex"]


def one_line(capsys, arguments, message, code=2):
    assert command.main([str(a) for a in arguments]) == code
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and err.startswith("error: "), err


def test_mistakes_are_one_line(planted, tmp_path, capsys):
    base, tuned = planted / "base", planted / "tuned"
    one_line(capsys, [base, tmp_path / "nowhere"], "no such file or directory")
    one_line(capsys, [base], "the following arguments are required: tuned")
    one_line(capsys, [base, tuned, "--memory", "lots"], "--memory 'lots' is no size")
    one_line(capsys, [base, tuned, "--memory", "1MiB"], "the least is 0.5 GiB")
    one_line(capsys, [base, tuned, "--level", "deep"], "invalid choice: 'deep'")
    one_line(capsys, [base, tuned, "--expect", tmp_path / "none.json"], "No such file or directory")
    (tmp_path / "map.json").write_text("{}")
    one_line(capsys, [base, tuned, "--map", tmp_path / "map.json"], "expected a list of rules")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    one_line(capsys, [base, tmp_path / "old"], "pickles run code")
    one_line(capsys, [base, tmp_path / "old" / "pytorch_model.bin"], "save_pretrained(OUT) writes safetensors")
    cut = checkpoints.write(tmp_path / "cut", checkpoints.base_tensors()) / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    one_line(capsys, [base, tmp_path / "cut"], "claims bytes")
    one_line(capsys, [base, tuned, "--out", base / "report"], "lies in the checkpoint")
    one_line(capsys, [base, tuned, "--out", ""], "--out is empty")
    assert not list(tmp_path.glob("report*")) and not Path("report").exists() and not (base / "report").exists()


def test_another_pair_in_the_directory_is_refused(report, planted, capsys):
    one_line(capsys, [planted / "tuned", planted / "base", "--out", planted / "report"], "holds another config")


def test_a_full_disk_leaves_nothing_that_looks_whole_and_the_next_run_goes_on(planted, tmp_path, capsys, monkeypatch):
    plain = storage.write_atomic

    def full(path, write):
        if path.parent.name == "figures":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return plain(path, write)

    monkeypatch.setattr(storage, "write_atomic", full)
    out = tmp_path / "report"
    arguments = [planted / "base", planted / "tuned", "--out", out, "--level", "element"]
    one_line(capsys, arguments, "No space left on device")
    assert not (out / "report.html").exists() and storage.read_json(out / "manifest.json")["status"] == "running"
    monkeypatch.undo()
    assert command.main([str(a) for a in arguments]) == 0 and not verify(out)[1]


def test_the_bar_counts_the_bytes_of_both_files(planted, monkeypatch):
    prepared = comparison.prepare(planted / "base", [planted / "tuned"], comparison.Settings("element"))
    stored = sum(entry.nbytes for side in (prepared.job.base, *prepared.job.tuned) for entry in side.source.tensors.values())
    shown = io.StringIO()
    console = progress.Console
    monkeypatch.setattr(progress, "Console", lambda file: console(file=shown, force_terminal=True, width=120))
    with progress.watching(prepared) as advance:
        for pair in prepared.pairing.pairs:
            advance(pair, passes.bytes_of(prepared.job, pair))
    assert sum(passes.bytes_of(prepared.job, pair) for pair in prepared.pairing.pairs) == stored
    assert "ETA" in shown.getvalue() and "kB" in shown.getvalue()


def test_sizes():
    assert [command.bytes_of(text) for text in ("2GiB", "1500M", "1e9", "0.5 gb")] == [2**31, 1500 * 2**20, 10**9, 5 * 10**8]


@pytest.mark.slow
def test_the_command_runs_as_a_module(planted):
    done = subprocess.run([sys.executable, "-m", "jaxpost.compare", str(planted / "base"), str(planted / "tuned"), "--level",
                           "element", "--format", "json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and len(done.stdout.splitlines()) > 100 and "note: " in done.stderr


def test_names_of_tensors_act_on_no_spreadsheet_and_no_terminal(tmp_path, capsysbinary):
    evil = ("=cmd|'/C calc'!A0", "\x1b]0;owned\x07\u202ereversed")
    for side, scale in (("a", 1.0), ("b", 1.5)):
        x = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
        safetensors.write(tmp_path / f"{side}.safetensors", {f"{i}": scale * x for i in range(2)})
    rules = [{"pattern": str(i), "name": name} for i, name in enumerate(evil)]
    (tmp_path / "map.json").write_text(json.dumps(rules))
    arguments = [str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors"), "--map", str(tmp_path / "map.json"),
                 "--level", "element"]
    for kind in ("csv", "json", "latex"):
        assert command.main([*arguments, "--format", kind]) == 0
        out, err = capsysbinary.readouterr()
        for bad in (b"\x1b", b"\x07", "\u202e".encode()):
            assert bad not in out and bad not in err
        if kind == "csv":
            assert b"'=cmd" in out and not any(cell.startswith(("=", "@")) for line in csv.reader(io.StringIO(out.decode()))
                                               for cell in line)
    assert command.main([*arguments, "--out", str(tmp_path / "report")]) == 0
    for file in (tmp_path / "report").rglob("*.[hct]*"):
        text = file.read_bytes() if file.suffix in (".html", ".csv", ".tex") else b""
        assert b"\x1b" not in text and "\u202e".encode() not in text


def test_a_tuned_checkpoint_that_is_called_base_does_not_pass_for_the_base(planted, tmp_path):
    base, tuned = (checkpoints.write(tmp_path / name, checkpoints.base_tensors()) for name in ("first", "base"))
    checkpoints.write(tuned, checkpoints.changed(checkpoints.base_tensors(), lambda name, x: np.full_like(x, np.nan)
                                                 if "up_proj" in name else x))
    result = comparison.compare(base, tuned, level="element")
    assert any(flag.startswith("base-1: NaN or Inf in") for flag in result.flags)
    assert not any("not compared" in flag for flag in result.flags) and result.rows["arm"].unique().to_pylist() == ["base-1"]
