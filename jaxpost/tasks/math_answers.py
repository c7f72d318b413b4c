r"""Final answers of mathematical text: found, read as expressions, compared by value. No evaluation of foreign text.

An expression is read by a small grammar into numbers at fixed points of its variables: fractions stay exact, roots and
functions are complex floats. Two expressions are the same if their values are at every point (Schwartz and Zippel; a
chance agreement of unequal polynomials is below 1e-9). Length, depth, powers and digits are bounded, so that every
function here is total and takes bounded time, whatever a model wrote.

    expression := term (("+" | "-") term)*          term := factor (("*" | "/" | nothing) factor)*
    factor     := ("+" | "-") factor | power        power := atom ("^" factor)?
    atom       := number | letter | \pi | (expression) | \frac ab | \sqrt[n]a | function atom
"""

import cmath
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from fractions import Fraction

LONGEST = 200_000  # characters of a text that are looked at, from its end
ANSWER = 10_000  # characters of an answer; longer ones are equal only as text
SYMBOLS = 160  # of one expression
DEPTH = 24
BITS = 2_048  # of an exact number's numerator and denominator
POINTS = 4  # assignments of the variables
CLOSE = 1e-10  # relative, where roots or functions are involved

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_LAST = re.compile(rf"(?:(?<![\w.)\]}}])[-−])?(?:{_NUMBER})(?:/(?:{_NUMBER}))?")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{|[A-Za-z0-9])")
_BRACE = re.compile(r"[{}]")
_SYMBOL = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+|\\[A-Za-z]+|[A-Za-z]+|π|[-+*/^(){}\[\]])")
_FUNCTIONS: Mapping[str, Callable] = {"sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "log": cmath.log, "ln": cmath.log,
                                      "exp": cmath.exp, "sqrt": cmath.sqrt}
_SPACES = re.compile(r"\\[,;:! ]|\\q?quad\b|~")
_PLAIN = (("\\left", ""), ("\\right", ""), ("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("\\cdot", "*"), ("\\times", "*"),
          ("\\div", "/"), ("^\\circ", ""), ("^{\\circ}", ""), ("\\%", ""), ("%", ""), ("\\$", ""), ("$", ""), ("−", "-"),
          ("**", "^"))
_RAISED = re.compile("[⁰¹²³⁴-⁹⁺⁻]*[⁰¹²³⁴-⁹]")
_PAIRS = {"(": ")", "[": "]", "{": "}"}
_LETTERS = re.compile(r"[A-Za-z]")


class Unreadable(ValueError):
    """Not an expression of the grammar, or beyond its bounds."""


def final_answer(text: str) -> str | None:
    r"""The answer that a text ends with: the last whole \boxed{}, else what follows the last "####", else the last number.

    >>> final_answer(r"so 3, thus \boxed{\frac{1}{2}}."), final_answer("9 - 4 = 5."), final_answer("no idea")
    ('\\frac{1}{2}', '5', None)
    """
    text = text[-LONGEST:]
    if (boxed := _last_box(text)) is not None:
        return boxed.strip() or None
    _, mark, after = text.rpartition("####")
    if mark and after.strip():
        return after.strip().splitlines()[0].strip()
    numbers = _LAST.findall(text)
    return numbers[-1] if numbers else None


def _last_box(text: str) -> str | None:
    """What the last box holds whose brace is closed, or that has none (\\boxed 5)."""
    starts = {match.start(1): match[1] for match in _BOX.finditer(text)}
    ends = {start: start + 1 for start, symbol in starts.items() if symbol != "{"}
    opened = []
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif opened and (start := opened.pop()) in starts:
            ends[start] = brace.start()
    last = max(ends, default=None)
    return None if last is None else text[last:ends[last]].removeprefix("{")


def plain(answer: str) -> str:
    """The answer without what does not change it: dollar and percent signs, spaces of LaTeX, commas of thousands, units."""
    raised = _RAISED.sub(lambda match: f"^{{{match[0]}}}", answer)  # before NFKC makes digits of them
    text = _SPACES.sub(" ", unicodedata.normalize("NFKC", raised))
    for old, new in _PLAIN:
        text = text.replace(old, new)
    text = re.sub(r"(?<=\S)\s*\\(?:text|mathrm|mbox)\s*\{[^{}]*\}\s*$", "", text.strip())  # a unit
    text = re.sub(r"\\(?:text|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r"\1", text)
    if not text.lstrip().startswith(("(", "[", "\\{", "{")):
        text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    return re.sub(r"\s+", " ", text).strip().rstrip(".").strip()


def same(a: str, b: str) -> bool:
    r"""Whether two answers are equal: as text, as expressions, or part by part as tuples, intervals and sets.

    >>> same(r"\frac{1}{2}", "0.5"), same("x^2+2x", "x(x+2)"), same("(1, 2]", "(1,2)"), same("0.333", "1/3")
    (True, True, False, False)
    """
    if max(len(a), len(b)) > ANSWER:
        return a == b and bool(a.strip())
    a, b = plain(a), plain(b)
    if a == b:
        return bool(a)
    left, right = _parts(a), _parts(b)
    if left is None or right is None:
        return left is right is None and _equal(a, b)
    if left[0] != right[0] or len(left[1]) != len(right[1]):
        return False
    if left[0] in ("{}", ""):
        return _matched(left[1], right[1])
    return all(x == y or _equal(x, y) for x, y in zip(left[1], right[1]))


def _matched(left: list[str], right: list[str]) -> bool:
    """Whether the parts are equal in some order (equality is transitive up to rounding: the first partner will do)."""
    rest = list(right)
    for x in left:
        partner = next((y for y in rest if x == y or _equal(x, y)), None)
        if partner is None:
            return False
        rest.remove(partner)
    return True


def _parts(text: str) -> tuple[str, list[str]] | None:
    """(brackets, parts) of something with commas at the outermost level; None for a single thing."""
    text = text.replace("\\{", "{").replace("\\}", "}")
    brackets = ""
    if text[:1] in _PAIRS and text[-1:] in ")]}" and "," in text:
        brackets, text = text[0] + text[-1], text[1:-1]
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return (brackets, [part.strip() for part in parts]) if len(parts) > 1 and len(parts) <= SYMBOLS else None


def _equal(a: str, b: str) -> bool:
    """Whether two expressions have one value at every point; False where either cannot be read."""
    try:
        for point in range(POINTS):
            x, y = value(a, point), value(b, point)
            if isinstance(x, Fraction) and isinstance(y, Fraction):
                if x != y:
                    return False
            elif not _close(complex(x), complex(y)):
                return False
    except (Unreadable, ArithmeticError, ValueError):
        return False
    return True


def _close(x: complex, y: complex) -> bool:
    """Whether two floats agree; a value that overflowed agrees with nothing."""
    return cmath.isfinite(x) and cmath.isfinite(y) and abs(x - y) <= CLOSE * max(abs(x), abs(y)) + 1e-14


def value(text: str, point: int = 0) -> Fraction | complex:
    """The value of an expression with every variable at its number of `point`; of "x = ..." the right side.

    Raises:
      Unreadable: not an expression, or too long, deep or large.
      ArithmeticError, ValueError: it has no value there (a division by zero).
    """
    left, equals, right = text.partition("=")
    if equals and len(left.strip()) == 1 and left.strip().isalpha():
        text = right
    return _Reader(_symbols(text), point).whole()


def _symbols(text: str) -> list[str]:
    found, at = [], 0
    text = text.strip()
    while at < len(text):
        match = _SYMBOL.match(text, at)
        if match is None or len(found) == SYMBOLS:
            raise Unreadable(f"cannot read {text[at:at + 20]!r}")
        found.append(match[1])
        at = match.end()
    return found


class _Reader:
    """One pass over the symbols, values as they come."""

    def __init__(self, symbols: list[str], point: int):
        self.symbols, self.point, self.at, self.depth = symbols, point, 0, 0

    def whole(self) -> Fraction | complex:
        found = self.sum()
        if self.at < len(self.symbols):
            raise Unreadable(f"{self.symbols[self.at]!r} is not expected")
        return found

    def next(self) -> str:
        return self.symbols[self.at] if self.at < len(self.symbols) else ""

    def take(self, wanted: str = "") -> str:
        found = self.next()
        if not found or (wanted and found != wanted):
            raise Unreadable(f"{found!r} where {wanted or 'a symbol'} is expected")
        self.at += 1
        return found

    def sum(self) -> Fraction | complex:
        found = self.product()
        while self.next() in ("+", "-"):
            sign = self.take()
            other = self.product()
            found = _bounded(found + other if sign == "+" else found - other)
        return found

    def product(self) -> Fraction | complex:
        found, before = self.factor(), self.symbols[self.at - 1]
        while (sign := self.next()) and sign not in "+-)}]^":
            if sign in ("*", "/"):
                self.take()
                other = self.factor()
                found = _bounded(found * other if sign == "*" else found / other)
            elif sign[0].isdigit() or sign[0] == ".":
                raise Unreadable(f"the number {sign!r} follows without a sign")
            elif sign == "\\frac" and before.isdigit():  # 2\frac{1}{2} is two and a half
                found, before = _bounded(found + self.power()), ""
            else:
                found, before = _bounded(found * self.power()), ""
        return found

    def factor(self) -> Fraction | complex:
        sign = 1
        while self.next() in ("+", "-"):
            sign *= 1 if self.take() == "+" else -1
        return sign * self.power()

    def power(self) -> Fraction | complex:
        base = self.atom()
        if self.next() != "^":
            return base
        self.take()
        self.depth += 1
        if self.depth > DEPTH:
            raise Unreadable("too deep")
        exponent = self.factor()
        self.depth -= 1
        return _power(base, exponent)

    def atom(self) -> Fraction | complex:
        self.depth += 1
        if self.depth > DEPTH:
            raise Unreadable("too deep")
        found = self._atom(self.take())
        self.depth -= 1
        return found

    def _atom(self, symbol: str) -> Fraction | complex:
        name = symbol.lstrip("\\")
        if symbol[0].isdigit() or symbol[0] == ".":
            return _bounded(_number(symbol))
        if symbol in ("(", "{"):
            found = self.sum()
            self.take(_PAIRS[symbol])
            return found
        if name in ("pi", "π"):
            return complex(math.pi)
        if symbol == "\\frac":
            top = self.digit_or_atom()
            return _bounded(top / self.digit_or_atom())
        if symbol == "\\sqrt" and self.next() == "[":
            self.take()
            root = self.sum()
            self.take("]")
            return _power(self.digit_or_atom(), 1 / root)
        if name == "sqrt":
            return _power(self.digit_or_atom(), Fraction(1, 2))
        if name in _FUNCTIONS:
            return _FUNCTIONS[name](complex(self.atom()))
        if len(symbol) == 1 and _LETTERS.fullmatch(symbol):
            return Fraction(7919 + 104_729 * (ord(symbol) * (self.point + 3) % 977), 6_841 + 1_009 * self.point)
        raise Unreadable(f"{symbol!r} is not known")

    def digit_or_atom(self) -> Fraction | complex:
        r"""The argument of LaTeX: \frac12 is a half."""
        symbol = self.next()
        if symbol.isdigit() and len(symbol) > 1:
            self.symbols[self.at:self.at + 1] = [symbol[0], symbol[1:]]
        return self.atom()


def _number(text: str) -> Fraction:
    if len(text) > BITS // 4:
        raise Unreadable("too many digits")
    return Fraction(text.rstrip(".") if not text.startswith(".") else f"0{text}")


def _bounded(x: Fraction | complex) -> Fraction | complex:
    if isinstance(x, Fraction) and max(x.numerator.bit_length(), x.denominator.bit_length()) > BITS:
        raise Unreadable("too large")
    return x


def _power(base: Fraction | complex, exponent: Fraction | complex) -> Fraction | complex:
    """base ** exponent, exact where the base is rational and the exponent an integer."""
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        size = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent.numerator)
        if size > 2 * BITS:
            raise Unreadable("too large")
        return _bounded(base**exponent.numerator)
    if base == 0 and isinstance(exponent, Fraction) and exponent > 0:
        return Fraction(0)
    return complex(base) ** complex(exponent)
