"""The printed table and the generated page."""

import pathlib

from jaxpost import curricula
from jaxpost.curricula import __main__ as command
from jaxpost.curricula import document

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "curricula.md"


def test_the_page_is_what_the_code_says():
    assert PAGE.read_text() == document.markdown(), "run `python -m jaxpost.curricula --markdown > docs/curricula.md`"


def test_the_command_prints_every_row_with_its_paper(capsys):
    assert command.main([]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in curricula.RULES)
    assert all(row.rule.paper.startswith("arXiv:") for name, row in curricula.RULES.items() if name != "uniform")
    assert command.main(["sec"]) == 2
