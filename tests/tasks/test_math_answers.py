"""Final answers: found in text and compared by value, against tables by hand and exact arithmetic; total on any text."""

import math
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxpost.tasks import math_answers


@pytest.mark.parametrize(("text", "wanted"), [
    (r"first \boxed{3}, no: \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
    (r"\boxed{4} and then \boxed{unfinished", "4"),
    (r"\boxed 5", "5"), (r"\fbox{\sqrt{2}}", r"\sqrt{2}"), (r"\boxed{}", None), (r"\boxed{ }", None),
    ("He pays 3 * 6 = 18 dollars.\n#### 1,234\nchecked 9 times", "1,234"), ("#### ", None),
    ("9 - 4 = 5.", "5"), ("the answer is -3.", "-3"), ("5-3", "3"), ("a-4", "4"), ("from 2,000.50 on", "2,000.50"),
    ("x = 3/4", "3/4"), ("−7", "−7"), (r"\boxed{\boxed{2}+1}", "2"), (r"{ \boxed{6} }", "6"),
    ("", None), ("no idea", None), (r"\boxed{" * 9, None),
])
def test_the_answer_that_a_text_ends_with(text, wanted):
    assert math_answers.final_answer(text) == wanted


EQUAL = [
    (r"\frac{1}{2}", "0.5"), (r"\dfrac12", "1/2"), (r"2\frac{1}{2}", "2.5"), ("1,234", "1234"), ("$18", "18"), ("50%", "50"),
    ("x=3", "3"), ("-0", "0"), ("+3", "3"), (r"3\text{ cm}", "3"), (r"90^\circ", "90"), ("12.0", "12"), (".5", "0.5"),
    (r"\sqrt{8}", r"2\sqrt{2}"), (r"\sqrt[3]{27}", "3"), ("2^{10}", "1024"), ("10^{-2}", "0.01"), ("4^{1/2}", "2"),
    ("x(x+2)", "x^2+2x"), ("(x+1)(x-1)", "x^2-1"), ("2x", r"x \cdot 2"), (r"\sin(x)^2+\cos(x)^2", "1"), (r"\pi r^2", "r^2π"),
    ("(1,2)", r"\left( 1, 2 \right)"), (r"\{1,2\}", r"\{2, 1\}"), ("1, 2", "2,1"), ("(0, \\infty)", "(0,\\infty)"),
    ("blue", "blue"), (r"\text{blue}", "blue"), ("3.", "3"), ("１２", "12"),
]
UNEQUAL = [
    ("0.333", "1/3"), (r"\pi", "3.14159"), ("(1,2)", "(1,2]"), ("(1,2)", "(2,1)"), ("1,2", "1,2,3"),
    (r"\{1,1\}", r"\{1,2\}"), ("50%", "0.5"), ("2 3", "6"), ("1e5", "100000"), ("A", "a"), ("x^2", "x^3"), ("x", "y"),
    ("1/0", "2/0"), ("", ""), ("", "0"), ("3 apples", "3"), ("12", "1 2"), ("-3", "3"), (r"\sqrt{-4}", "2"),
    ("9^9^9^9", "1"), ("((((((", "1"), ("0^{-1}", "0"),
]


@pytest.mark.parametrize(("a", "b", "wanted"), [(*pair, True) for pair in EQUAL] + [(*pair, False) for pair in UNEQUAL])
def test_answers_are_compared_by_value(a, b, wanted):
    assert math_answers.same(a, b) is math_answers.same(b, a) is wanted


LEAF = st.integers(0, 99).map(lambda n: (Fraction(n), str(n)))


def _joined(parts):
    (x, a), sign, (y, b) = parts
    if sign == "/":
        return (x / y, rf"\frac{{{a}}}{{{b}}}") if y else (x, a)
    return {"+": x + y, "-": x - y, "*": x * y}[sign], f"({a}{sign}{b})"


TREES = st.recursive(LEAF, lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(_joined), max_leaves=8)


@given(TREES)
def test_expressions_have_the_value_of_exact_arithmetic(tree):
    wanted, text = tree
    assert math_answers.value(text) == wanted
    assert math_answers.same(text, f"{wanted.numerator}/{wanted.denominator}")
    assert not math_answers.same(text, f"{wanted.numerator + 1}/{wanted.denominator}")


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=5), st.integers(-9, 9))
def test_polynomials_are_told_apart(coefficients, shift):
    """Horner's form is the sum of powers; adding a constant makes another polynomial."""
    horner = "0"
    for c in coefficients:
        horner = f"({horner})*x+({c})"
    powers = "+".join(f"({c})x^{{{len(coefficients) - 1 - i}}}" for i, c in enumerate(coefficients))
    assert math_answers.same(horner, powers)
    assert math_answers.same(horner, f"{powers}+({shift})") is (shift == 0)


@pytest.mark.parametrize("huge", [r"\exp(700)\exp(700)", r"\exp(700)\exp(700)-\exp(700)\exp(700)", "exp(700)*exp(700)x"])
def test_what_overflows_equals_nothing(huge):
    assert not any(math_answers.same(target, huge) for target in ("5", "0", r"\sqrt{2}", "x+1", r"\exp(709)\exp(709)"))


def test_raised_digits_are_exponents():
    for a, b in (("5²", "25"), ("10⁻²", "0.01"), ("2¹⁰", "1024"), ("x²+2x", "x(x+2)")):
        assert math_answers.same(a, b)
    assert not math_answers.same("5²", "52")


def test_functions_are_those_of_the_standard_library():
    for name, at in (("sin", 0.7), ("cos", 0.7), ("tan", 0.7), ("ln", 3.5), ("exp", 1.5)):
        wanted = getattr(math, {"ln": "log"}.get(name, name))(at)
        assert abs(math_answers.value(rf"\{name}({at})") - wanted) < 1e-14 * max(1, abs(wanted))


PIECES = [*"0123456789xy+-*/^(){}[],.=\\ %$#∞½\x00", "\\frac", "\\boxed{", "\\sqrt", "####", "\\left(", "1,000"]
ODDS = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)


@settings(max_examples=200, deadline=None)
@given(ODDS | st.text(max_size=80), ODDS | st.text(max_size=80))
@example("9^" * 60 + "9", "(" * 5000)
@example("\\frac" * 2000, "-" * 100_000 + "1")
def test_any_text_is_compared_and_equality_is_symmetric(a, b):
    found = math_answers.final_answer(a)
    assert found is None or (isinstance(found, str) and found)
    assert math_answers.same(a, b) in (True, False) and math_answers.same(a, b) == math_answers.same(b, a)
    if math_answers.plain(a):
        assert math_answers.same(a, a)


@pytest.mark.parametrize("hostile", ["9" * 10**6, "\\boxed{" * 10**5, "1," * 10**5, "(" * 10**6, "1+" * 10**5, "{" * 10**5,
                                     "\\frac{1}{" * 10**4, " " * 10**6, "((((x+1)^99)^99)^99)^99", "1,000," * 10**5])
def test_hostile_text_takes_bounded_work(hostile):
    """Anything quadratic in these lengths would take hours."""
    found = math_answers.final_answer(hostile)
    assert not math_answers.same(found or hostile, "-17")
    assert not math_answers.same(hostile, hostile + "0 1")
