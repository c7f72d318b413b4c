"""The printed table and the generated page."""

import pathlib
import re

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
    printed = capsys.readouterr().out
    assert "kl_estimator=k3" in printed and "A = (R - mean_group(R)) / (std_group(R, ddof) + eps)" in printed
    assert command.main(["grpoo"]) == 2
    assert "did you mean 'grpo'" in capsys.readouterr().err


def test_the_table_gives_defaults_and_what_differs():
    row = next(r for r in objectives.table() if r["name"] == "dapo")
    assert row["parts"]["clip_high"] == 0.28 == row["defaults"]["clip_high"]
    assert row["defaults"]["kl_place"] == "none" and "kl_place" not in row["parts"] and row["needs"] == ["truncated"]


def test_every_row_has_a_formula_with_its_numbers_a_code_file_and_a_command():
    for o in objectives.RECIPES.values():
        text = "\n".join(document.formula(o))
        assert re.match(r"loss = |gradient of a step = ", text), o.name
        changed = next(row["parts"] for row in objectives.table() if row["name"] == o.name)
        for part, value in changed.items():  # a number that a row sets is in its formula, under its name and with its value
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value:
                assert len(re.findall(rf"\b{part}\b", text)) >= 2 and f"{part} = {value:g}" in text, (o.name, part)
        assert (PAGE.parents[1] / document.code_of(o)).is_file()
        assert document.command_of(o) in PAGE.read_text()


@pytest.mark.parametrize("parts", [
    {"clip_high": None}, {"clip_low": None}, {"clip": "weight"}, {"dual_clip": 3.0}, {"ratio_cap": 2.0},
    {"scale": "none"}, {"sampler_cap": 2.0}, {"kl_place": "reward", "kl_coef": 0.1}, {"entropy_coef": 0.1},
    {"kl_place": "loss", "kl_coef": 0.1, "kl_clamp": 10.0}, {"log_ratio_clamp": 20.0}, {"whiten": "row"},
    {"mask_truncated": True}, {"aggregation": "token"}, {"aggregation_empty": "counted"}, {"reward_low": -1.0},
    {"credit_unit": "token", "gamma": 0.9}], ids=str)
def test_a_replaced_part_changes_the_formula(parts):
    before, after = (document.formula(objectives.get("grpo", **given)) for given in ({}, parts))
    assert before != after
    assert all(f"{part} = " in "\n".join(after) for part, value in parts.items() if isinstance(value, float))


@pytest.mark.parametrize("row", objectives.table(), ids=lambda row: row["name"])
def test_a_row_is_rebuilt_by_its_parts(row):
    assert objectives.get(row["name"], **row["defaults"]) == objectives.RECIPES[row["name"]]
