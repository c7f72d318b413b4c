r"""Final answers of mathematical text: found, taken apart, and compared by value.

What a text answers is found by `final_answer`; a gold answer is never searched, it is compared whole. math-verify reads and
judges single expressions (`math_judge`: in a process of its own, within a time limit). Ours is what it lacks:

  names      x=2, y=3 is not x=3, y=2, and is y=3, x=2 (there a set of equations, ordered by their right sides)
  lists      "13 and 17" is 17 and 13, and not 17; tuples keep their order, an open interval is not the set of its ends
  units      `math_units`: 15 cm^2 is 15 and not 15 m (its table of units holds t, o and "by": x + 3t would be x + 3)
  notation   `math_latex`: 10{,}000, 1.5e3, 2 1/2, 0.\overline{3}, 2/3x; what would be left out is not an expression
  words      compared as text (there a product of their letters: "no" is "on")
"""

import re
import time
import unicodedata

from jaxpost.tasks import math_judge, math_units
from jaxpost.tasks.math_latex import latex, number
from jaxpost.tasks.math_parts import Answer
from jaxpost.tasks.math_worker import JOINTS

LONGEST = 200_000  # characters of a text that are looked at, from its end
ANSWER = 1_000  # characters of an answer; longer ones are equal only as text
PARTS = 40  # of a list; longer ones are equal only as text

_DIGITS = r"(?:\d{1,3}(?:(?:,|\{,\}|,\\!|\\,|\\!)\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = rf"(?:{_DIGITS})(?:[eE][-+]?\d+(?![\w.])|\s*\\times\s*10\s*\^\s*(?:\{{\s*[-+]?\d+\s*\}}|\d))?"
_LAST = re.compile(rf"(?:(?<![\w.)\]}}])[-−])?(?:{_NUMBER})(?:/(?:{_NUMBER}))?")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{|[A-Za-z0-9])")
_BRACE = re.compile(r"[{}]")
_SPAN = re.compile(r"\$\$([^$]+)\$\$|(?<![\\\d])\$([^$\n]{1,400}?[^$\n\\])\$(?!\d)|"
                   r"\\\(([^\n]{1,400}?)\\\)|\\\[(.{1,400}?)\\\]", re.DOTALL)

_SPACES = re.compile(r"(?<!\\)\\[;: ]|\\q?quad(?![A-Za-z])|~|\\hspace\{[^{}]*\}")
_NOTHING = re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits)(?![A-Za-z])|"
                      r"\\!|\\,(?=\d{3}(?!\d))|\*\*$|^\*\*")
_UNICODE = {"−": "-", "–": "-", "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "÷": "/", "∞": "\\infty ", "π": "\\pi ",
            "≤": "\\le ", "≥": "\\ge ", "≠": "\\neq ", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "∅": "\\emptyset ",
            "±": "\\pm ", "∓": "\\mp ", "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "°": "^\\circ ", "θ": "\\theta ",
            "α": "\\alpha ", "β": "\\beta ", "⁄": "/", "’": "'", "≈": "\\approx "}
_RAISED = re.compile("[⁰¹²³⁴-⁹⁺⁻]*[⁰¹²³⁴-⁹]")
_PREFIX = re.compile(r"^(?:the\s+)?(?:final\s+|correct\s+)?answer(?:\s+is|\s*:|\s*=)\s*:?\s*", re.IGNORECASE)
_RELATION = re.compile(r"[<>=]|\\(?:le|ge|leq|geq|lt|gt|ne|neq|leqslant|geqslant)(?![A-Za-z])")
_WORDS = re.compile(r"(?:\\text\s*\{)?[A-Za-z][A-Za-z' -]{2,}\}?|no|on")


def final_answer(text: str) -> str | None:
    r"""The answer that a text ends with: the last whole \boxed{}, else what follows the last "####", else the last number, with
    the whole formula around it.

    >>> final_answer(r"so 3, thus \boxed{\frac{1}{2}}."), final_answer("9 - 4 = 5."), final_answer("no idea")
    ('\\frac{1}{2}', '5', None)
    >>> final_answer(r"it is $\frac{3}{4}$.")
    '\\frac{3}{4}'
    """
    text = text[-LONGEST:]
    if (boxed := _last_box(text)) is not None:
        return boxed.strip() or None
    _, mark, after = text.rpartition("####")
    if mark and after.strip():
        return after.strip().splitlines()[0].strip()
    last = max(_LAST.finditer(text), key=re.Match.start, default=None)
    if last is None:
        return None
    for span in _SPAN.finditer(text[-ANSWER:]):
        if span.end() + max(len(text) - ANSWER, 0) >= last.end():
            return next(part for part in span.groups() if part).strip()
    return last[0]


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
    """The answer without what does not change it: signs of mathematics mode, spaces, commas of thousands, a full stop."""
    text = re.sub("(\\d?)([\u00bc-\u00be\u2150-\u215e])", _vulgar, answer)
    text = _RAISED.sub(lambda match: f"^{{{unicodedata.normalize('NFKC', match[0]).replace('−', '-')}}}", text)
    for old, new in _UNICODE.items():
        text = text.replace(old, new)
    text = unicodedata.normalize("NFKC", text).replace("⁄", "/")
    text = re.sub(r"√\s*(\([^()]*\)|\w+)", lambda m: f"\\sqrt{{{m[1].strip('()')}}}", text)
    text = _PREFIX.sub("", text.strip())
    text = _undelimited(text)
    text = _NOTHING.sub("", _SPACES.sub(" ", text))
    text = re.sub(r"(?<=\d)(?:\{,\}|,\\!)\s*(?=\d{3}(?!\d))", "", text)
    if not text.lstrip().startswith(("(", "[", "\\{", "{")):
        text = re.sub(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?!\d|,\d)", lambda m: m[0].replace(",", ""), text)
        text = re.sub(r"(?<![\d.])\d{1,3}(?: \d{3})+(?![\d.]| \d)", lambda m: m[0].replace(" ", ""), text)
    text = re.sub(r"[\[(]\s*\\begin\{array\}\s*\{[^{}]*\}(.*)\\end\{array\}\s*[\])]", r"\\begin{pmatrix}\1\\end{pmatrix}", text,
                  flags=re.DOTALL)
    text = re.sub(r"\s+", " ", text).strip()
    text = text if text.endswith("...") else text.rstrip(".").strip()
    return text[1:-1].strip() if re.fullmatch(r"\{(?!.*\\choose)[^{}]*\}", text) else text


def _vulgar(match: re.Match) -> str:
    top, bottom = unicodedata.normalize("NFKC", match[2]).split("⁄")
    return f"{match[1]}\\frac{{{top}}}{{{bottom}}}"


def _undelimited(text: str) -> str:
    """Without signs of mathematics mode; a lone dollar sign, which is money, stays."""
    text = re.sub(r"(?<!\\)\\[()\[\]]", "", text)
    dollars = len(re.findall(r"(?<!\\)\$", text))
    if dollars and dollars % 2 == 0:
        text = re.sub(r"(?<!\\)\$", " ", text)
    return text


def is_expression(text: str) -> bool:
    """Whether a text is nothing but one expression, with a name or a unit, so that no other answer is to be found in it.

    >>> is_expression("5 km"), is_expression("x = 3"), is_expression("so he pays 18 dollars")
    (True, True, False)
    """
    if len(text) > ANSWER:
        return False
    answer = Answer(plain(text))
    return answer.kind == "one" and latex(math_units.split(answer.parts[0])[0]) is not None


def same(gold: str, answer: str, seconds: float = math_judge.SECONDS) -> bool:
    r"""Whether two answers are equal: as text, as expressions, or part by part as lists, tuples, intervals, sets and by name.

    >>> same(r"\frac{1}{2}", "0.5"), same("(1, 2]", "(1,2)"), same("0.333", "1/3"), same("x=2, y=3", "x=3, y=2")
    (True, False, False, False)
    """
    return compare(gold, answer, seconds) == "right"


def compare(gold: str, answer: str, seconds: float = math_judge.SECONDS) -> str:
    """One of `math_judge.VERDICTS`; symmetric. "unreadable": a part that decides is no expression, on either side.

    Raises:
      ValueError: math-verify is missing and the answers are not equal as text.
    """
    if gold.strip() == answer.strip():
        return "right" if gold.strip() else "wrong"
    if max(len(gold), len(answer)) > ANSWER:
        return "unreadable"
    a, b = plain(gold), plain(answer)
    if not (a and b):
        return "unreadable"
    return _Comparison(time.monotonic() + seconds).answers(*sorted((a, b)))


class _Comparison:
    """Compares until its time is over; `unread` says whether a part could not be read."""

    def __init__(self, until: float):
        self.until, self.verdict = until, "wrong"

    def answers(self, a: str, b: str) -> str:
        if _text(a) == _text(b):
            return "right"
        left, right = Answer(a), Answer(b)
        if max(len(left.parts), len(right.parts)) > PARTS:
            return "unreadable"
        return "right" if self.structures(left, right) else self.verdict

    def structures(self, a: Answer, b: Answer) -> bool:
        if a.names and b.names:
            return self.named(a, b)
        if a.names or b.names:
            a, b = (a, b) if a.names else (b, a)
            return self.unnamed(a, b)
        if a.kind == b.kind == "one":
            return self.expressions(a.parts[0], b.parts[0])
        kinds = {a.kind, b.kind}
        if "list" in kinds and kinds != {"list"} and (verdict := self.unions(a, b)) is not None:
            return verdict
        if kinds <= {"list", "{}", "one"}:
            if "one" in kinds:  # {2} and 2, or 2 and the list of itself
                return len(a.parts) == len(b.parts) == 1 and self.expressions(a.parts[0], b.parts[0])
            return self.matched(a.parts, b.parts)
        if a.kind == b.kind and len(a.parts) == len(b.parts):
            return all(self.parts(x, y) for x, y in zip(a.parts, b.parts))
        sets = {"(]", "[)", "()", "[]", "one"}
        if "one" in kinds and kinds <= sets and any(_RELATION.search(x.text) or "\\cup" in x.text for x in (a, b)):
            return self.expressions(a.text, b.text)  # an inequality and an interval
        return False

    def unions(self, a: Answer, b: Answer) -> bool | None:
        """Inequalities joined by "or" or "and" against a set; None where it is not that."""
        a, b = (a, b) if a.kind == "list" else (b, a)
        joint = {"or": JOINTS[0], "and": JOINTS[1]}.get((re.findall(r"(?<![A-Za-z])(or|and)(?![A-Za-z])", a.text) or [""])[0])
        if joint is None or not all(re.search(r"[<>]|\\[lg]e", part) for part in a.parts):
            return None
        return self.judged([*map(latex, a.parts)], [latex(b.text)], joint)

    def named(self, a: Answer, b: Answer) -> bool:
        """Each name with its values, in any order; x and 2 in both "x=2" and "2=x"."""
        if sorted(map(_text, a.names)) != sorted(map(_text, b.names)):
            return a.kind == b.kind == "one" and self.expressions(a.text, b.text)
        values = [{n: [p for m, p in zip(x.names, x.parts) if _text(m) == n] for n in map(_text, x.names)} for x in (a, b)]
        return all(self.matched(values[0][n], values[1][n]) for n in values[0])

    def unnamed(self, a: Answer, b: Answer) -> bool:
        """Named values against a single one, a list (of values of one name) or a tuple (of names in their order)."""
        if len(a.parts) == 1:
            value = Answer(a.parts[0])
            if not value.names and self.structures(value, b):
                return True
            return bool(_RELATION.search(b.text)) and self.expressions(a.text, b.text)
        if len(set(a.names)) == 1:
            return b.kind in ("list", "{}") and self.matched(a.parts, b.parts)
        if b.kind != "()" or len(b.parts) != len(a.parts) or len(set(a.names)) < len(a.names):
            return False
        ordered = [part for _, part in sorted(zip(a.names, a.parts))]
        return all(self.parts(x, y) for x, y in zip(ordered, b.parts))

    def matched(self, left: list[str], right: list[str]) -> bool:
        """Whether the parts are equal in some order (equality is transitive up to units: the first partner will do)."""
        if len(left) != len(right):
            return False
        rest = list(right)
        for x in left:
            partner = next((y for y in rest if _text(x) == _text(y)), None)
            partner = next((y for y in rest if self.parts(x, y)), None) if partner is None else partner
            if partner is None:
                return False
            rest.remove(partner)
        return True

    def parts(self, a: str, b: str) -> bool:
        """Two members, which may be tuples themselves."""
        if _text(a) == _text(b):
            return bool(a)
        return bool(a and b) and self.structures(Answer(a), Answer(b))

    def expressions(self, a: str, b: str) -> bool:
        (x, unit), (y, other) = math_units.split(a), math_units.split(b)
        if not math_units.agree(unit, other):
            return False
        if self.values(x, y):
            return True
        if unit != other and "degree" in (unit, other) and "\\pi" in x + y:  # 45 degrees are pi/4
            return self.values(*(rf"\frac{{\pi}}{{180}}({v})" if u == "degree" else v for v, u in ((x, unit), (y, other))))
        if "%" in (unit, other) and unit != other:  # 50 % is one half too
            return self.values(*(rf"({v})/100" if u == "%" else v for v, u in ((x, unit), (y, other))))
        return False

    def values(self, a: str, b: str) -> bool:
        a, b = (_arithmetic(x) for x in (a, b))
        if _text(a) == _text(b):
            return bool(a)
        left, right = number(a), number(b)
        if left is not None and right is not None:
            return left == right
        left, right = _based(a), _based(b)
        if left or right or (_WORDS.fullmatch(a) and _WORDS.fullmatch(b)):
            return left is not None and left == right
        return self.judged([latex(a)], [latex(b)])

    def judged(self, left: list[str | None], right: list[str | None], joint: str = "") -> bool:
        """What math-verify says of two expressions, either of which may be several with a joint."""
        if None in left + right:
            self.verdict = "unreadable"
            return False
        if (left_over := self.until - time.monotonic()) <= 0:
            self.verdict = "timeout"
            return False
        verdict = math_judge.verdict("latex", joint.join(left), joint.join(right), seconds=max(round(left_over), 1))
        if verdict in ("timeout", "unreadable"):
            self.verdict = verdict
        return verdict == "right"


def _arithmetic(text: str) -> str:
    """The last side of an equation between numbers, 1 + 2 = 3; a ratio as a fraction."""
    sides = text.split("=")
    if len(sides) > 1 and not re.search(r"[A-Za-z<>!\\]", "".join(sides[:-1])):
        text = sides[-1].strip()
    return re.sub(r"^\s*(\d+)\s*:\s*(\d+)\s*$", r"\1/\2", text)


def _based(text: str) -> tuple[int, int] | None:
    """(value, base) of a number with its base: 1011_2 is not 1011, and not 11."""
    bare = re.sub(r"[\s()]|\\text(?=\{)", "", text)
    match = re.fullmatch(r"([0-9A-Za-z]+)_(?:\{(\d{1,2})\}|(\d{1,2}))", bare)
    base = int(match[2] or match[3]) if match and match[1][0].isdigit() else 0
    try:
        return (int(match[1], base), base) if 2 <= base <= 36 else None
    except ValueError:
        return None


def _text(text: str) -> str:
    """Text without spaces, `\text` and, for words, case."""
    bare = re.sub(r"\\(?:text(?:bf|it|rm)?|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r"\1", text)
    bare = re.sub(r"\\[dtc]frac", r"\\frac", bare)
    if choice := re.fullmatch(r"\s*(?:(?:option|choice)\s+)?\(?\s*([A-Za-z])\s*[.)]?\s*", bare, re.IGNORECASE):
        return choice[1]
    words = re.fullmatch(r"[A-Za-z][A-Za-z' -]+", bare.strip())
    if words:
        return re.sub(r"\s+", " ", bare.strip()).casefold()
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", bare)
