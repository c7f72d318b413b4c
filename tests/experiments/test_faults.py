"""The campaign of faults: what it counts as survived and lost, and, slow, the campaign itself with small counts."""

import dataclasses
import random

import pytest

from experiments import tiny_hf
from experiments.faults import __main__ as faults
from experiments.faults import attempts, kinds
from experiments.smollm2 import __main__ as smollm2
from experiments.sweep import __main__ as sweep


@dataclasses.dataclass(frozen=True)
class Shell(attempts.Subject):
    """A shell command in the place of a study."""

    def command(self, directory, *more):
        return ["sh", "-c", self.config.format(directory=directory)]


@pytest.mark.parametrize(("equal", "survived"), [(True, 3), (False, 0)])
def test_kills_are_counted_until_the_run_ends_and_are_lost_where_its_rows_differ(tmp_path, monkeypatch, equal, survived):
    monkeypatch.setattr(kinds, "same", lambda run, expected: equal)
    subject = Shell("mkdir -p {directory}/rows; sleep 0.2; touch {directory}/rows/a-$$; sleep 0.2")
    tally = kinds.killed(subject, "", tmp_path, 3, random.Random(0), 0.3)
    assert tally.tried == 3 and tally.survived == survived and len(tally.lost) >= 3 - survived
    assert any(tmp_path.iterdir()) != equal  # what lost something is kept


def test_a_moment_is_met_where_its_path_appears_and_not_after_the_end(tmp_path):
    subject = Shell("mkdir -p {directory}/rows; sleep 0.1; touch {directory}/rows/b; sleep 5")
    process = subject.start(tmp_path / "run")
    assert attempts.Moment("rows", ("rows/*",)).reached(process, tmp_path / "run", random.Random(0))
    process.kill()
    process.wait()
    assert (tmp_path / "run" / "rows" / "b").exists()
    assert not attempts.Moment("rows", ("rows/c",)).reached(process, tmp_path / "run", random.Random(0))


def test_a_directory_that_exists_and_a_negative_count_are_refused(tmp_path, capsys):
    assert faults.main([f"--workdir={tmp_path}"]) == 2 and "exists; give a new directory" in capsys.readouterr().err
    assert faults.main([f"--workdir={tmp_path / 'new'}", "--kills=-1"]) == 2 and "--kills=-1" in capsys.readouterr().err


@pytest.mark.parametrize(("main", "arguments"), [
    (faults.main, ["--workdir={}"]), (tiny_hf.main, ["{}"]), (smollm2.main, ["{}", "--problems"]),
    (sweep.main, ["--config=rlvr_sparsity:smoke", "--over=train.steps=1", "--directory={}"])])
def test_a_directory_that_cannot_be_made_is_one_line(tmp_path, capsys, main, arguments):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "below", "/proc/none"):
        assert main([argument.format(place) for argument in arguments]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and err.startswith(f"error: {place}: ") and "one can be made" in err


@pytest.mark.slow
def test_a_small_campaign_loses_nothing(tmp_path, capsys):
    counts = ("--kills=3", "--damaged=2", "--full=1", "--together=1", "--processes=1", "--sweeps=2")
    assert faults.main([f"--workdir={tmp_path / 'faults'}", *counts]) == 0, capsys.readouterr().out
