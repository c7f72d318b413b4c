r"""One expression as people write it -> LaTeX that math-verify reads whole, or None where a part of it would be left out.

math-verify's reader is lenient: it reads `2 3` and `2(3)` as 5, `1 000 000` as 0, `1e5` as 5 e, `10.5` as a rounded float,
`undefined` as a product of letters. Each rule here has such a case; what no rule knows is not an expression, and is compared as
text.
"""

import re
from fractions import Fraction

LONGEST = 400  # characters of one expression
DIGITS = 400  # of a number

_DECIMAL = r"(?:\d+(?:\.\d+)?|\.\d+)"
_NUMBER = re.compile(rf"([-+]?)\s*({_DECIMAL})\.?"
                     rf"(?:\s*(?:[eE]([-+]?\d+)|(?:\\times|\\cdot|\*)\s*10\s*\^\s*\{{?\s*([-+]?\d+)\s*\}}?))?")
_RATIO = re.compile(rf"([-+]?)\s*(?:\\frac\s*)?\{{?\s*([-+]?\s*{_DECIMAL})"
                    rf"\s*(?:\}}?\s*/\s*\{{?|\}}\s*\{{)\s*({_DECIMAL})\s*\}}?")
_VERBATIM = r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|bb|it|cal)|mbox|operatorname|begin|end|overline|bar|vec|hat)\s*\{[^{}]*\}"
_TOKEN = re.compile(rf"\s+|{_VERBATIM}|{_DECIMAL}|\\[A-Za-z]+\s*|\\.|[A-Za-z]+|.", re.DOTALL)
_LETTERS = re.compile(r"(?!no|on|up|am|pm|in|so|if|it|is|he|we|me|us|go|do|to|of|or|by|at|an|as)[A-Za-z]{2}|"
                      r"[b-df-hj-np-tv-zB-DF-HJ-NP-TV-Z]{3}|[abc]{3}|ABC")  # a product rather than a word
_MULTIPLIES = re.compile(r"(?:^|[^A-Za-z\\])[a-eijk-zA-EI-OQ-Z]$|[\d)]$|\\pi $")  # what a bracket after it is a factor of
_PLAIN = set("+-*/^(){}[]|!=<>,&_':")
_FUNCTIONS = {"sin", "cos", "tan", "cot", "sec", "csc", "ln", "log", "exp", "arcsin", "arccos", "arctan", "sinh", "cosh",
              "tanh", "max", "min", "gcd", "det"}
_WORDS = {"pi": "\\pi ", "infinity": "\\infty ", "inf": "\\infty ", "oo": "\\infty ", "theta": "\\theta ", "alpha": "\\alpha ",
          "beta": "\\beta ", "gamma": "\\gamma ", "lambda": "\\lambda ", "lcm": "\\operatorname{lcm} "}
_COMMANDS = {"\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac", "\\dbinom": "\\binom", "\\tbinom": "\\binom",
             "\\lvert": "|", "\\rvert": "|", "\\vert": "|", "\\varnothing": "\\emptyset", "\\leqslant": "\\le",
             "\\geqslant": "\\ge", "\\leq": "\\le", "\\geq": "\\ge", "\\lt": "<", "\\gt": ">", "\\ne": "\\neq", "\\ast": "*",
             "\\lbrace": "\\{", "\\rbrace": "\\}", "\\lbrack": "[", "\\rbrack": "]", "\\mid": "|",
             "\\lcm": "\\operatorname{lcm}", "\\land": "\\wedge", "\\backslash": "\\setminus"}


def number(text: str) -> Fraction | None:
    r"""The exact value of a number, a scientific notation or a plain fraction of numbers; None for anything else.

    >>> number("-1.50"), number(r"1.5\times 10^{3}"), number("3/4"), number("1e-5"), number("x")
    (Fraction(-3, 2), Fraction(1500, 1), Fraction(3, 4), Fraction(1, 100000), None)
    """
    if len(text) > DIGITS:
        return None
    text = text.strip()
    if match := _NUMBER.fullmatch(text):
        sign, digits, *powers = match.groups()
        power = next((p for p in powers if p), "0")
        if len(power) > 4:
            return None
        return (-1 if sign == "-" else 1) * Fraction(digits) * Fraction(10) ** int(power)
    if (match := _RATIO.fullmatch(text)) and text.count("{") == text.count("}"):
        sign, top, bottom = match.groups()
        if bottom := Fraction(bottom):
            return (-1 if sign == "-" else 1) * Fraction(re.sub(r"\s", "", top)) / bottom
    return None


def latex(text: str) -> str | None:
    r"""LaTeX for math-verify's reader.

    >>> latex("sqrt(2)/2"), latex("2xy^10"), latex(r"\frac12"), latex("2 3"), latex("no solution")
    ('\\sqrt{2}/2', '2x y^{10}', '\\frac{1}{2}', None, None)
    """
    if len(text) > LONGEST or not text.isascii():
        return None
    if re.fullmatch(r"[A-Za-z][A-Za-z .'-]*[A-Za-z.]", text) and text not in _WORDS and not _LETTERS.fullmatch(text):
        return None  # a word or several
    text = _exact(_mixed(text))
    if text is None:
        return None
    try:
        tokens = _tokens(text)
    except ValueError:
        return None
    return _Writer(tokens).whole()


def _mixed(text: str) -> str:
    r"""Mixed numbers and digits of repeating decimals as sums and fractions."""
    text = re.sub(r"(?<![\w.}])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\w.])", r"(\1+\\frac{\2}{\3})", text)
    text = re.sub(r"(?<![\w.}^_])(\d+)\s*\\[dtc]?frac\s*(?:\{(\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d))",
                  lambda m: f"({m[1]}+\\frac{{{m[2] or m[3]}}}{{{m[4] or m[5]}}})", text)
    text = re.sub(r"(\d*)\.(\d*?)(\d)\3{2,}(?:\.\.\.|\\l?dots)", _repeating, text)
    return re.sub(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?(\d+)\}?", _repeating, text)


def _repeating(match: re.Match) -> str:
    whole, fixed, period = match.groups()
    value = Fraction(f"{whole or 0}.{fixed or 0}") + Fraction(int(period), 10 ** len(fixed) * (10 ** len(period) - 1))
    return f"(\\frac{{{value.numerator}}}{{{value.denominator}}})"


def _exact(text: str) -> str | None:
    """Scientific notation as a power of ten; None where two numbers stand side by side."""
    text = re.sub(rf"(?<![A-Za-z\\\d.])({_DECIMAL})[eE]([-+]?\d+)(?![\d.])", r"\1\\times 10^{\2}", text)
    text = re.sub(r"\\([dtc]?)frac\s*(\d)\s+(\d)", r"\\\1frac{\2}{\3}", text)
    return None if re.search(r"(?<![\d._^])[\d.]+\s+[\d.]", text) else text


def _tokens(text: str) -> list[str]:
    tokens = []
    for token in (match[0].strip() or " " for match in _TOKEN.finditer(text)):
        if token[0] in "\\0123456789" or (token[0] == "." and len(token) > 1) or token in _PLAIN or token == " ":
            tokens.append(_COMMANDS.get(token, token))
        elif token in _WORDS:
            tokens.append(_WORDS[token].strip())
        elif token in _FUNCTIONS or token == "sqrt":
            tokens.append("\\" + token)
        elif re.fullmatch(r"d[a-z]", token) and "\\int" in text:
            tokens.append(token)
        elif token.isalpha() and (len(token) == 1 or _LETTERS.fullmatch(token)):
            tokens.extend(token)
        else:
            raise ValueError(token)
    return [token for i, token in enumerate(tokens) if token != " " or (i and i + 1 < len(tokens) and tokens[i - 1] == "\\")]


_CLOSES = {"{": "}", "(": ")", "[": "]"}


class _Writer:
    """Tokens as strict LaTeX: arguments in braces, decimals as fractions, a sign between a factor and a bracket."""

    def __init__(self, tokens: list[str]):
        self.tokens, self.at, self.depth = tokens, 0, 0

    def whole(self) -> str | None:
        try:
            text = self.some(None)
        except (ValueError, RecursionError):
            return None
        return text.strip() or None

    def some(self, until: str | None) -> str:
        """Everything up to a closing token, which is taken."""
        self.depth += 1
        if self.depth > 40:
            raise ValueError("too deep")
        out: list[str] = []
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            if token == until:
                self.at += 1
                self.depth -= 1
                return "".join(out)
            out.append(self.one(out[-1] if out else ""))
        if until is not None:
            raise ValueError("not closed")
        self.depth -= 1
        return "".join(out)

    def one(self, before: str) -> str:
        """The next token, with what belongs to it."""
        token = self.tokens[self.at]
        if (token in ("(", "[", "\\binom") and _MULTIPLIES.search(before)) or (token[0].isdigit() and before == ")"):
            return f"\\cdot {self.one('')}"
        self.at += 1
        if token in ("\\frac", "\\binom"):
            return f"{token}{{{self.argument()}}}{{{self.argument()}}}"
        if token == "\\sqrt":
            index = ""
            if self.next() == "[":
                self.at += 1
                index = f"[{self.some(']')}]"
            return f"\\sqrt{index}{{{self.argument(whole=True)}}}"
        if token == "{" and before[-1:].isdigit() and self.next()[:1].isdigit():
            raise ValueError("digits in braces after a number")
        if token in "^_" and token:
            if token == "^" and self.skip(("\\circ",)):
                return "\\cdot \\frac{\\pi}{180}"
            return f"{token}{{{self.argument(whole=True, signed=True)}}}"
        if token == "\\degree":
            return "\\cdot \\frac{\\pi}{180}"
        if token[0].isdigit() or token[0] == ".":
            return self.number(token, before)
        if token == "*":
            return "\\cdot " if self.skip(("*",)) is False else "^" + f"{{{self.argument(whole=True, signed=True)}}}"
        if token.isalpha():
            return f" {token}" if before[-1:].isalpha() else token
        return token + (" " if token.startswith("\\") and token[1:2].isalpha() else "")

    def number(self, token: str, before: str) -> str:
        if before[-1:].isdigit():
            raise ValueError("two numbers side by side")
        if self.next() == "/" and self.at + 1 < len(self.tokens) and self.tokens[self.at + 1].isdigit() and token.isdigit() \
                and not before.endswith(("/", "^")):
            bottom = self.tokens[self.at + 1]
            if self.at + 2 < len(self.tokens) and (self.tokens[self.at + 2].isalpha() or self.tokens[self.at + 2][0] == "\\"):
                self.at += 2
                return f"\\frac{{{token}}}{{{bottom}}}"
        if "." not in token:
            return token
        value = Fraction(token)
        return f"(\\frac{{{value.numerator}}}{{{value.denominator}}})"

    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def skip(self, tokens: tuple[str, ...]) -> bool:
        """Take these tokens, in braces or not."""
        for wanted in (tokens, ("{", *tokens, "}")):
            if tuple(self.tokens[self.at:self.at + len(wanted)]) == wanted:
                self.at += len(wanted)
                return True
        return False

    def argument(self, whole: bool = False, signed: bool = False) -> str:
        """What stands in braces, or one token: a digit (the whole number if `whole`), a letter, a bracket, a command."""
        token = self.next()
        if not token:
            raise ValueError("an argument is missing")
        if token == "{" or (whole and token == "("):
            self.at += 1
            return self.some(_CLOSES[token])
        if signed and token in "+-":
            self.at += 1
            return token + self.argument(whole)
        if token[0].isdigit() and len(token) > 1 and not whole:
            self.tokens[self.at:self.at + 1] = [token[0], token[1:]]
        if token in _PLAIN and token != "|":
            raise ValueError("an argument is missing")
        return self.one("")
