"""The page and the command of the task families."""

import inspect
import pathlib
import re

import pytest

from jaxpost import tasks
from jaxpost.tasks import __main__ as command
from jaxpost.tasks import document

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "tasks.md"


def test_the_page_is_what_the_code_says():
    assert PAGE.read_text() == document.markdown(), "run `python -m jaxpost.tasks --markdown > docs/tasks.md`"


def test_every_family_says_its_paper_its_verifier_and_its_guess():
    for make in tasks.FAMILIES.values():
        module = inspect.getmodule(make)
        assert module.PAPER and module.VERIFIER and document.guess(module), module.__name__


def test_the_families_with_a_closed_loop_are_those_that_announce_it_and_those_that_the_page_of_studies_lists():
    announced = {name for name, make in tasks.FAMILIES.items() if "closed loop" in inspect.getdoc(inspect.getmodule(make))}
    section = (PAGE.parent / "study.md").read_text().split("## Closed loops")[1].split("```")[0]
    listed = re.search(r"The families (.*?) have such a world", section, re.S)[1]
    assert announced == set(tasks.LOOPS) == {name for name in tasks.FAMILIES if f"`{name}`" in listed}


def test_the_command_lists_families_and_shows_problems(capsys):
    assert command.main([]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in tasks.FAMILIES)
    assert command.main(["addition", "digits=1"]) == 0
    assert capsys.readouterr().out.count("\n") == 12
    assert command.main(["modular", "modulus=5"]) == 0  # a family with tokens of its own
    first = capsys.readouterr().out.splitlines()[0].split()
    assert (first[0], first[2], first[6]) == ("train", "add", "$")
    assert (int(first[1]) + int(first[3])) % 5 == int(first[5])
    assert command.main(["addition", "digts=1"]) == 2 and "did you mean 'digits'" in capsys.readouterr().err
    assert command.main(["adition"]) == 2 and command.main(["addition", "digits"]) == 2


@pytest.mark.slow
def test_problems_a_second(capsys):
    """Reported, not held to a bound: generation and verification of 4,096 problems a family, after compilation."""
    from tests.tasks import speed

    with capsys.disabled():
        print()
        for line in speed.table():
            print(line)
