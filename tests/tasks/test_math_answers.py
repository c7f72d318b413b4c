"""Final answers: found in text and compared by value, against tables by hand and exact arithmetic; total on any text."""

import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxpost.tasks import math_answers, math_judge, math_latex, math_units, verifiers
from jaxpost.tasks.verifiers import Problem

pytest.importorskip("math_verify")

NOTATIONS = [tuple(part.strip() for part in line.split(" | "))
             for line in (Path(__file__).parent / "notations.txt").read_text(encoding="utf-8").splitlines()
             if line and not line.startswith("#")]


def reward(gold, text):
    return verifiers.get("math").reward(Problem("q", gold, gold), text)


@pytest.mark.parametrize(("text", "wanted"), [
    (r"first \boxed{3}, no: \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
    (r"\boxed{4} and then \boxed{unfinished", "4"),
    (r"\boxed 5", "5"), (r"\fbox{\sqrt{2}}", r"\sqrt{2}"), (r"\boxed{}", None), (r"\boxed{ }", None),
    ("He pays 3 * 6 = 18 dollars.\n#### 1,234\nchecked 9 times", "1,234"), ("#### ", None),
    ("9 - 4 = 5.", "5"), ("the answer is -3.", "-3"), ("5-3", "3"), ("a-4", "4"), ("from 2,000.50 on", "2,000.50"),
    ("x = 3/4", "3/4"), ("−7", "−7"), (r"\boxed{\boxed{2}+1}", "2"), (r"{ \boxed{6} }", "6"),
    ("", None), ("no idea", None), (r"\boxed{" * 9, None), ("about 1.5e3 of them", "1.5e3"), ("10{,}000 in all", "10{,}000"),
    (r"so it is $\frac{3}{4}$.", r"\frac{3}{4}"), (r"it is \(2^{10}\)", "2^{10}"), ("$5 and then $18", "18"),
    ("for $x$ it is 7", "7"),
])
def test_the_answer_that_a_text_ends_with(text, wanted):
    assert math_answers.final_answer(text) == wanted


@pytest.mark.parametrize(("gold", "answer", "wanted"), NOTATIONS)
def test_every_notation_has_its_verdict(gold, answer, wanted):
    assert math_answers.compare(gold, answer) == math_answers.compare(answer, gold) == wanted
    assert reward(gold, f"so \\boxed{{{answer}}}") == (wanted == "right")
    assert reward(gold, f"so \\boxed{{{gold}}}") == reward(gold, gold) == 1


def test_the_table_is_as_large_as_it_says():
    assert len(NOTATIONS) >= 200 and {verdict for *_, verdict in NOTATIONS} == {"right", "wrong", "unreadable"}


NUMBER = st.one_of(st.integers(-999, 9999).map(str), st.builds("{}.{}".format, st.integers(0, 99), st.integers(0, 999)),
                   st.builds(r"\frac{{{}}}{{{}}}".format, st.integers(-9, 99), st.integers(1, 99)),
                   st.builds(r"\frac {}{}".format, st.integers(1, 9), st.integers(1, 9)),
                   st.builds(r"{}\sqrt{{{}}}".format, st.integers(2, 9), st.sampled_from([2, 3, 5, 7])),
                   st.builds(r"\sqrt {}".format, st.sampled_from([2, 3, 5, 7])),
                   st.builds(r"\log {}".format, st.integers(2, 9)),
                   st.builds(r"{}\pi".format, st.integers(2, 9)),
                   st.builds("{}x+{}".format, st.integers(2, 9), st.integers(1, 9)))
LIST = st.builds(lambda parts, joint: joint.join(parts), st.lists(NUMBER, min_size=2, max_size=4, unique=True),
                 st.sampled_from([", ", " and ", r" \text{ or } ", ","]))
TUPLE = st.builds("({}, {})".format, NUMBER, NUMBER)
GOLD = NUMBER | LIST | TUPLE | st.builds(r"\{{{}\}}".format, LIST)


@settings(max_examples=120, deadline=None)
@given(GOLD)
@example("13 and 17")
@example("no solution")
@example("x=2, y=3")
@example(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}")
@example(r"15\text{ cm}^2")
def test_every_gold_is_right_for_itself(gold):
    assert reward(gold, gold) == reward(gold, f"\\boxed{{{gold}}}") == reward(gold, f"Thus $\\boxed{{ {gold} }}$.") == 1


@settings(max_examples=150, deadline=None)
@given(st.text(min_size=1, max_size=30))
@example("}")
@example("\\boxed{}")
@example("####")
@example("$.")
def test_any_text_at_all_is_right_for_itself(gold):
    wanted = float(bool(gold.strip()))
    assert reward(gold, gold) == wanted
    assert reward(gold, f"\\boxed{{{gold}}}") == wanted


@settings(max_examples=120, deadline=None)
@given(st.lists(st.integers(2, 99), min_size=2, max_size=4, unique=True), st.sampled_from([" and ", ", ", r"\text{ or }"]),
       st.data())
def test_no_member_of_a_list_is_right(values, joint, data):
    gold = joint.join(map(str, values))
    part = data.draw(st.sampled_from(values))
    some = data.draw(st.lists(st.sampled_from(values), min_size=1, max_size=len(values) - 1, unique=True))
    for wrong in (str(part), joint.join(map(str, some)), f"({part})"):
        assert reward(gold, f"\\boxed{{{wrong}}}") == reward(gold, wrong) == 0
    shuffled = data.draw(st.permutations(values))
    assert reward(gold, f"\\boxed{{{', '.join(map(str, shuffled))}}}") == 1


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9),
       st.sampled_from([r"\frac {}{}", r"\frac{}{}", r"-\frac {}{}", r"\dfrac{}{}", "{}/{}"]))
def test_no_piece_of_a_fraction_is_right(a, b, form):
    gold, value = form.format(a, b), Fraction(a, b) * (-1 if form.startswith("-") else 1)
    for piece in (str(a), str(b), f"{a}{b}"):
        assert reward(gold, f"\\boxed{{{piece}}}") == float(Fraction(piece) == value)
    assert reward(gold, f"\\boxed{{{value.numerator}/{value.denominator}}}") == 1


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from("xyzabn"), min_size=2, max_size=3, unique=True), st.data())
def test_names_keep_their_values(names, data):
    values = data.draw(st.lists(st.integers(-20, 20), min_size=len(names), max_size=len(names), unique=True))
    gold = ", ".join(f"{n}={v}" for n, v in zip(names, values))
    pairs = data.draw(st.permutations(list(zip(names, values))))
    assert math_answers.same(gold, " and ".join(f"{n} = {v}" for n, v in pairs))
    moved = data.draw(st.permutations(values))
    assert math_answers.same(gold, ", ".join(f"{n}={v}" for n, v in zip(names, moved))) == (list(moved) == values)


LEAF = st.integers(0, 99).map(lambda n: (Fraction(n), str(n)))


def _joined(parts):
    (x, a), sign, (y, b) = parts
    if sign == "/":
        return (x / y, rf"\frac{{{a}}}{{{b}}}") if y else (x, a)
    return {"+": x + y, "-": x - y, "*": x * y}[sign], f"({a}{sign}{b})"


TREES = st.recursive(LEAF, lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(_joined), max_leaves=6)


@settings(max_examples=60, deadline=None)
@given(TREES)
def test_expressions_have_the_value_of_exact_arithmetic(tree):
    wanted, text = tree
    assert math_answers.same(text, f"{wanted.numerator}/{wanted.denominator}")
    assert not math_answers.same(text, f"{wanted.numerator + 1}/{wanted.denominator}")


@given(st.integers(-10**20, 10**20), st.integers(-30, 30),
       st.sampled_from([r"{}e{}", r"{}\times 10^{{{}}}", r"{} \cdot 10^{{{}}}"]))
def test_numbers_are_exact(digits, power, form):
    text = form.format(digits, power)
    assert math_latex.number(text) == digits * Fraction(10) ** power
    assert math_latex.number(form.format(digits + 1, power)) != math_latex.number(text)


def test_units_are_told_apart_and_letters_are_not_units():
    for text, wanted in [("15 cm", ("15", "cm")), (r"15\text{ cm}^2", ("15", "cm^2")), ("15 sq. cm", ("15", "cm^2")),
                         ("5m", ("5m", "")), ("5 m", ("5", "m")), ("x+3t", ("x+3t", "")), ("3 apples", ("3 apples", "")),
                         (r"\text{Monday}", (r"\text{Monday}", "")), (r"\$5", ("5", "$")), ("5 dollars", ("5", "$"))]:
        assert math_units.split(text) == wanted


PIECES = [*"0123456789xy+-*/^(){}[],.=\\ %$#∞½\x00", "\\frac", "\\boxed{", "\\sqrt", "####", "\\left(", "1,000",
          " and ", "\\pm"]
ODDS = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


@settings(max_examples=120, deadline=None)
@given(ODDS | st.text(max_size=60), ODDS | st.text(max_size=60))
@example("9^" * 60 + "9", "(" * 5000)
@example("\\frac" * 2000, "-" * 100_000 + "1")
def test_any_text_is_compared_and_equality_is_symmetric(a, b):
    found = math_answers.final_answer(a)
    assert found is None or (isinstance(found, str) and found)
    assert math_answers.compare(a, b) in math_judge.VERDICTS and math_answers.same(a, b) == math_answers.same(b, a)


@pytest.mark.parametrize("hostile", ["9" * 10**6, "\\boxed{" * 10**5, "1," * 10**5, "(" * 10**6, "1+" * 10**5, "{" * 10**5,
                                     "\\frac{1}{" * 10**4, " " * 10**6, "1,000," * 10**5, "$" * 10**5, "a and " * 10**5,
                                     "x=" * 10**5, pytest.param("((((x+1)^99)^99)^99)^99", marks=pytest.mark.slow)])
def test_hostile_text_takes_bounded_work(hostile):
    """Anything quadratic in these lengths would take hours."""
    found = math_answers.final_answer(hostile)
    assert not math_answers.same(found or hostile, "-17")
    assert not math_answers.same(hostile, hostile + "0 1")


@pytest.mark.parametrize("endless", ["9^{9^{9^{9}}}", r"100000000!", r"\sum_{k=1}^{10^{12}} \frac{1}{k^3+k+1}"])
def test_a_question_without_end_is_ended_and_the_next_one_answered(endless):
    begun = time.monotonic()
    assert math_answers.compare(endless, "x+1", seconds=1) in ("timeout", "wrong", "unreadable")
    assert time.monotonic() - begun < 1 + math_judge.GRACE + 8
    assert math_answers.same("x+1", "1+x")


def test_the_judge_works_in_threads():
    found = []
    threads = [threading.Thread(target=lambda n=n: found.append(math_answers.same(f"{n}x+{n}", f"{n}(x+1)")))
               for n in range(2, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 6


@pytest.mark.slow
def test_a_child_that_dies_is_replaced():
    assert math_answers.same("y+1", "1+y")
    math_judge._child.process.kill()
    math_judge._child.process.wait()
    assert math_answers.same("y+2", "2+y")


def disagreements():
    """Rows of the page: where the package by itself says otherwise."""
    out = []
    for gold, answer, wanted in NOTATIONS:
        theirs = math_judge.verdict("math_verify", gold, f"\\boxed{{{answer}}}")
        if (theirs == "right") != (wanted == "right"):
            cells = (x.replace("|", "\\|") for x in (gold, answer))
            out.append("| `{}` | `{}` | {} | {} |".format(*cells, wanted, theirs))
    return out


def test_the_page_lists_where_the_two_engines_disagree():
    page = (Path(__file__).parents[2] / "docs" / "answers.md").read_text(encoding="utf-8")
    found = [line for line in page.splitlines() if line.startswith("| `")]
    assert found == disagreements(), "docs/answers.md: replace the table by these rows\n" + "\n".join(disagreements())
    assert f"{len(NOTATIONS) - len(found)} of {len(NOTATIONS)}" in page
