r"""An answer taken apart: lists, tuples, intervals, sets, and names with their values.

    13 and 17          a list of two, in any order        x=2, y=3       a list of two with names
    (1, 2]             a pair with its brackets           (x,y)=(2,3)    the same
    \{1, 2\}           a set                              x = \pm 2      a list of two of one name
"""

import re

_NAME = re.compile(r"((?:m?\\angle\s*)?\\?(?:[A-Z]{1,3}|[A-Za-z]|(?<=\\)[A-Za-z]+)(?:_(?:\{[^{}]*\}|\w))?'?(?:\^\{-1\})?"
                   r"(?:\([A-Za-z0-9,]{1,9}\))?|\\text\{[^{}]*\}|\\frac\{d[a-z]?\}\{d[a-z]\})"
                   r"\s*(?:=|\\in(?![A-Za-z])|:)\s*(?![=<>])(\S.*)", re.DOTALL)
_NAMED_TUPLE = re.compile(r"\(\s*([A-Za-z](?:\s*,\s*[A-Za-z])+)\s*\)\s*=\s*(\(.*\))", re.DOTALL)
_CONNECTIVE = re.compile(r"\s*,?\s*(?:\\text\s*\{\s*(?:and|or)\s*\}|\b(?:and|or)\b|\\(?:lor|vee)(?![A-Za-z]))\s*")
_BUILT = re.compile(r"\\\{\s*([a-z])\s*(?:\\in\s*\\mathbb\s*\{R\}\s*)?(?:\||:|\\mid)\s*(.*)\\\}", re.DOTALL)
_OPEN, _CLOSE = "([{", ")]}"


def _split(text: str, separators: str = ",;") -> list[str]:
    """Parts at the outermost level; one part where brackets do not match."""
    parts, depth = [""], 0
    for i, letter in enumerate(text):
        escaped = i and text[i - 1] == "\\"
        depth += (letter in _OPEN) - (letter in _CLOSE)
        if letter in separators and depth == 0 and not escaped:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts] if depth == 0 else [text.strip()]


def _wrapped(text: str) -> tuple[str, str] | None:
    """(brackets, inside) of a text that one pair of brackets holds."""
    braces = text.startswith("\\{") and text.endswith("\\}")
    first, last, inside = ("{", "}", text[2:-2]) if braces else (text[:1], text[-1:], text[1:-1])
    if text.startswith(("\\langle", "⟨")) and text.endswith(("\\rangle", "⟩")):
        return "()", re.sub(r"^(\\langle|⟨)|(\\rangle|⟩)$", "", text)
    if len(text) < 2 or first not in "([{]" or last not in ")]}[" or not first or (first == "{") != (last == "}"):
        return None
    depth = 0
    for letter in inside:
        depth += (letter in _OPEN) - (letter in _CLOSE)
        if depth < 0:
            return None
    brackets = {"]": "(", "[": "["}.get(first, first) + {"[": ")"}.get(last, last)
    return (brackets, inside) if depth == 0 else None


class Answer:
    """One answer taken apart: `kind` is "one", "list", "{}" or the brackets of a tuple; `parts` are its members' texts."""

    def __init__(self, text: str):
        if (built := _BUILT.fullmatch(text)) and re.search(rf"(?<![A-Za-z]){built[1]}(?![A-Za-z])", built[2]):
            text = built[2].strip()  # {x : x > 2} is x > 2
        self.text, self.kind, self.names, self.parts = text, "one", (), [text]
        if match := _NAMED_TUPLE.fullmatch(text):
            names, inside = match[1].replace(" ", "").split(","), _split(match[2][1:-1])
            if len(names) == len(inside):
                self.kind, self.names, self.parts = "list", tuple(names), inside
                return
        if (match := _wrapped(text)) and len(parts := _split(match[1])) > 1:
            self.kind, self.parts = match[0], _signs(parts) if match[0] == "{}" else parts
            return
        if match and match[0] == "{}" and text.startswith("\\{") and match[1].strip():
            self.kind, self.parts = "{}", _signs([match[1].strip()])
            return
        with_commas = _CONNECTIVE.sub(",", text)
        parts = [part for part in _split(with_commas) if part]
        if len(parts) > 1:
            self.kind, self.parts = "list", parts
        self._name()
        self.parts = _signs(self.parts) if not self.names else self.parts
        if self.kind == "one" and len(self.parts) > 1:
            self.kind = "list"

    def _name(self) -> None:
        """Take names off where every part, or the first of them, has one."""
        matches = [_NAME.fullmatch(_forward(part)) for part in self.parts]
        if matches[0] and not any(matches[1:]) and len(matches) > 1:  # x = 1, 2 or 3
            matches = [matches[0]] + [re.fullmatch(r"()(.*)", part, re.DOTALL) for part in self.parts[1:]]
        if not all(matches):
            return
        names = [re.sub(r"\s", "", match[1]) or re.sub(r"\s", "", matches[0][1]) for match in matches]
        values = [match[2].rsplit("=", 1)[-1].strip() for match in matches]
        spread = [(name, value) for name, text in zip(names, values) for value in _signs([text])]
        self.names, self.parts = tuple(name for name, _ in spread), [value for _, value in spread]
        if len(self.parts) > 1:
            self.kind = "list"


def _forward(part: str) -> str:
    """x = 3 for 3 = x."""
    match = re.fullmatch(r"\s*([-+\d./\s]+?|\\d?frac[^=]*?)\s*=\s*([A-Za-z](?:_\{?\w+\}?)?)\s*", part)
    return f"{match[2]} = {match[1]}" if match else part


def _signs(parts: list[str]) -> list[str]:
    r"""Parts with each \pm as two."""
    out = []
    for part in parts:
        if "\\pm" not in part:
            out.append(part)
            continue
        for up, down in (("+", "-"), ("-", "+")):
            text = re.sub(r"\\pm(?![A-Za-z])", up, re.sub(r"\\mp(?![A-Za-z])", down, part)).strip()
            out.append(text.removeprefix("+").strip())
    return out
