"""Host verifiers against tables, and their laws on any text: a number in [0, 1], no answer no reward."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpost.tasks import verifiers
from jaxpost.tasks.verifiers import Problem


def problem(target):
    return Problem("q", "a", target)


TABLE = [
    ("exact", "blue whale", " blue \n whale ", 1), ("exact", "blue", "Blue", 0), ("exact", "blue", "blue.", 0),
    ("exact", "\u00e9", "e\u0301", 1), ("exact", "blue", "", 0), ("exact", " ", "", 0), ("exact", "1/2", "0.5", 0),
    ("math", "18", "so he pays 18 dollars", 1), ("math", "18", r"3 \cdot 6 = \boxed{18}", 1), ("math", "18", "18 or 19", 0),
    ("math", "3 * 6 = 18 eggs.\n#### 18", r"\boxed{\frac{36}{2}}", 1), ("math", "#### 1,234", "1234.0", 1),
    ("math", r"Thus \boxed{x+1}", r"\boxed{1+x}", 1), ("math", r"Thus \boxed{x+1}", "x+1", 1), ("math", "no number", "", 0),
    ("math", r"\frac{3}{4}", "the answer is 0.75", 1), ("math", "0.75", r"\boxed{3/4}", 1), ("math", "0", "0", 1),
    ("math", "13 and 17", r"\boxed{17}", 0), ("math", "13 and 17", "they are 13 and 17", 0),
    ("math", "13 and 17", "13 and 17", 1),
    ("math", r"\frac 12", r"\boxed{12}", 0), ("math", r"\frac 12", "it is $0.5$", 1), ("math", "5 cm", "5 km", 0),
    ("math", "He has 18.", "18", 0), ("math", "3 * 6 = 18", "18", 1),
    ("math", "The answer is 7.", "7", 1), ("math", "0", "", 0), ("math", "", "0", 0), ("math", "(1,2)", r"\boxed{(1, 2)}", 1),
    ("math", r"\text{Monday}", r"\boxed{Monday}", 1),
]


@pytest.mark.parametrize(("name", "target", "text", "wanted"), TABLE)
def test_what_is_right_and_what_is_not(name, target, text, wanted):
    assert verifiers.get(name).reward(problem(target), text) == wanted


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["exact", "math"]), st.text(max_size=60), st.text(max_size=60))
def test_any_text_has_a_reward_and_no_answer_has_none(name, target, text):
    verifier = verifiers.get(name)
    found = verifier.reward(problem(target), text)
    assert found in (0.0, 1.0) and isinstance(found, float)
    assert verifier.reward(problem(target), "") == verifier.reward(problem(target), " \n") == 0
    if name == "exact":
        assert verifier.reward(problem(target), target) == float(bool(target.strip()))


def test_the_guess_is_the_best_constant_answer():
    found = [problem(target) for target in ("1/2", "0.5", "#### 3", r"\boxed{3}", r"\frac12", "7", "", "8")]
    assert verifiers.guess(verifiers.get("math"), found) == 3 / 8
    assert verifiers.guess(verifiers.get("exact"), found) == 1 / 8
    assert verifiers.guess(verifiers.get("exact"), []) == 0


def test_an_unknown_verifier_names_the_nearest():
    with pytest.raises(ValueError, match="verifier 'mth'.*'math'"):
        verifiers.get("mth")


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "math_verify", None)
    for name in ("math", "math_verify"):
        with pytest.raises(ValueError, match=r"pip install 'jaxpost\[hf\]'.*the verifier 'exact' needs nothing"):
            verifiers.get(name)
    assert verifiers.get("exact").reward(problem("a"), "a") == 1


def test_math_verify_agrees_with_our_reader_where_both_read():
    pytest.importorskip("math_verify")
    pair = verifiers.get("math"), verifiers.get("math_verify")
    for target, text, wanted in [("18", "so he pays 18 dollars", 1), (r"\frac{1}{2}", r"\boxed{0.5}", 1), ("18", "19", 0),
                                 (r"2\sqrt{2}", r"\boxed{\sqrt{8}}", 1), ("x^2+2x", r"\boxed{x(x+2)}", 1), ("3", "", 0),
                                 ("(1,2)", r"\boxed{(1,2)}", 1), ("5", r"\boxed{\frac{", 0)]:
        assert [verifier.reward(problem(target), text) for verifier in pair] == [wanted, wanted], (target, text)
