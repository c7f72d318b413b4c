"""Docstrings as Markdown: what they indent, align or run is set as code instead of running into the text.

Google's sections (Args, Returns, Raises, ...) are left to mkdocstrings.
"""

import io
import itertools
import re
import textwrap
import tokenize

_SECTION = re.compile(r"(Args|Arguments|Attributes|Examples?|Raises|Returns|Yields):$")
_ALIGNED = re.compile(r"\S+ {2,}\S|\S.*\S {3,}\S")
_TAG = re.compile(r"(`[^`]*`)|<(?=[A-Za-z/])")  # an angle bracket that Markdown would take for HTML


def beside(source: str) -> str:
    """The comment beside a field; empty if there is none.

    >>> beside('level: str = "top"  # element: counts; top: subspaces')
    'element: counts; top: subspaces'
    """
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return next((token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT), "")


def _kind(line: str, before: str) -> str:
    """What a line belongs to, after a line of kind `before`: text, section or code."""
    if not line.strip():
        return "text" if before == "doctest" else before
    if before == "doctest" or line.startswith(">>>"):
        return "doctest"
    if line.startswith(" "):
        return "section" if before == "section" else "code"
    if _SECTION.match(line):
        return "section"
    return "code" if _ALIGNED.match(line) else "text"


def laid_out(text: str) -> str:
    """The docstring with its indented and aligned lines as blocks of code, and its doctests as a section of examples.

    >>> laid_out("A loss.\\n  a   one\\n  b   two\\nIts <name>.")
    'A loss.\\n\\n    a   one\\n    b   two\\n\\nIts &lt;name>.'
    """
    lines = text.splitlines()
    kinds = list(itertools.accumulate(lines, lambda before, line: _kind(line, before), initial="text"))[1:]
    parts = []
    for kind, group in itertools.groupby(zip(kinds, lines, strict=True), lambda pair: pair[0].replace("section", "text")):
        plain = [line for _, line in group]
        if kind == "text":
            parts.append("\n".join(_TAG.sub(lambda match: match[1] or "&lt;", line) for line in plain))
        else:
            block = textwrap.indent(textwrap.dedent("\n".join(plain)).strip("\n"), "    ")
            parts.append("Examples:\n" * (kind == "doctest") + block)
    return "\n\n".join(parts)
