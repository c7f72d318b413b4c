"""A verifier of the user's own: what it is given, what it may return, what is refused."""

import pytest

from jaxpost.tasks import verifier_file, verifiers
from jaxpost.tasks.verifiers import Problem

PROBLEMS = [Problem("2+2", "4", "4"), Problem("2+3", "5", "5"), Problem("1+3", "4", "4")]
HALF = """
def reward(prompt, answer, target):
    return 0.5 * (answer == target) + 0.5 * (prompt.startswith("2") and answer == "4")
"""


KEPT = """from __future__ import annotations
import dataclasses

@dataclasses.dataclass
class Kept:  # dataclasses look their module up
    x: int
"""


def written(tmp_path, code, name="mine.py"):
    path = tmp_path / name
    path.write_text(code)
    return path


def test_it_sees_prompt_answer_and_target_and_its_guess_is_by_problem(tmp_path):
    verifier = verifier_file.load(written(tmp_path, HALF))
    assert [verifier.reward(problem, "4") for problem in PROBLEMS] == [1.0, 0.5, 0.5]
    truth = verifier_file.load(written(tmp_path, "import numpy\ndef reward(p, a, t):\n    return numpy.bool_(a == t)", "b.py"))
    assert (truth.reward(PROBLEMS[0], "4"), truth.reward(PROBLEMS[0], "5")) == (1.0, 0.0)
    assert verifiers.guess(verifier, PROBLEMS) == pytest.approx(2 / 3)  # of "4"; "5" has 1/6
    other = verifier_file.load(written(tmp_path, KEPT + HALF))
    assert verifier.name.startswith("mine.py:") and other.name != verifier.name


@pytest.mark.parametrize("code, message", [
    ("def reward(prompt, answer, target):\n    return 2", "returned 2, expected a number from 0 to 1"),
    ("def reward(prompt, answer, target):\n    return float('nan')", "returned nan"),
    ("def reward(prompt, answer, target):\n    return 'yes'", "returned 'yes'"),
    ("def reward(prompt, answer, target):\n    return 1 / 0", "reward('2+2', 'x', '4') raised ZeroDivisionError"),
    ("def reward(prompt, answer, target):\n    raise SystemExit(0)", "raised SystemExit: 0"),  # ended a run in silence
])
def test_what_is_no_reward_is_named_and_not_taken_for_zero(tmp_path, code, message):
    verifier = verifier_file.load(written(tmp_path, code))
    with pytest.raises(verifiers.VerifierError, match=message.replace("(", r"\(").replace(")", r"\)").replace("+", r"\+")):
        verifier.reward(PROBLEMS[0], "x")


@pytest.mark.parametrize("code, message", [
    ("x = 1", "has no function reward"), ("import nothing_of_this_name", "does not load"),
    ("import sys\nsys.exit(0)", "does not load: SystemExit: 0"), (None, "no such file")])
def test_files_that_hold_no_verifier_are_refused(tmp_path, code, message):
    path = tmp_path / "absent.py" if code is None else written(tmp_path, code)
    with pytest.raises(ValueError, match=message):
        verifier_file.load(path)
