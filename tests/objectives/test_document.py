"""The printed table and the generated page."""

import pathlib

import pytest

from jaxpost import objectives
from jaxpost.objectives import __main__ as command
from jaxpost.objectives import document

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "objectives.md"


def test_the_page_is_what_the_code_says():
    assert PAGE.read_text() == document.markdown(), "run `python -m jaxpost.objectives --markdown > docs/objectives.md`"


def test_the_command_prints_every_row_with_its_paper(capsys):
    assert command.main([]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in objectives.RECIPES)


def test_the_command_shows_one_row_in_full_and_knows_the_nearest(capsys):
    assert command.main(["grpo"]) == 0
    assert "kl_estimator=k3" in capsys.readouterr().out
    assert command.main(["grpoo"]) == 2
    assert "did you mean 'grpo'" in capsys.readouterr().err


def test_the_table_gives_defaults_and_what_differs():
    row = next(r for r in objectives.table() if r["name"] == "dapo")
    assert row["parts"]["clip_high"] == 0.28 == row["defaults"]["clip_high"]
    assert row["defaults"]["kl_place"] == "none" and "kl_place" not in row["parts"] and row["needs"] == ["truncated"]


@pytest.mark.parametrize("row", objectives.table(), ids=lambda row: row["name"])
def test_a_row_is_rebuilt_by_its_parts(row):
    assert objectives.get(row["name"], **row["defaults"]) == objectives.RECIPES[row["name"]]
