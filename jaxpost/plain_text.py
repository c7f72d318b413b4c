"""Text that came with somebody's file, made safe to show: in a terminal, a page, a table for a spreadsheet.

Parquet and JSON hold names as they are; what is shown escapes what would act instead of being read.
"""

import re

# Control characters (escape sequences), and what turns, hides or breaks a line: bidirectional controls, zero-width characters,
# line separators, lone surrogates.
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
_LINES = re.compile("[\t\n]")
_FORMULA = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")
_NUMBERS = r"[\d.,e\[\]%\u00b1\u2212 +-]*"
_ONLY_NUMBERS = re.compile(rf"[-+]{_NUMBERS}(\(null {_NUMBERS}\))?")


def _escaped(match: re.Match) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def visible(text: str, lines: bool = False) -> str:
    r"""The text with every character that acts on a terminal or page as its escape; tabs and line ends too unless `lines`.

    >>> print(visible("a\u202eb\x1b[31m"))
    a\u202eb\x1b[31m
    """
    escaped = _ACTING.sub(_escaped, text)
    return escaped if lines else _LINES.sub(_escaped, escaped)


def spreadsheet_cell(text: str) -> str:
    """The text of a CSV cell that a spreadsheet shows and does not run: a formula gets an apostrophe before it.

    >>> spreadsheet_cell("=1+1"), spreadsheet_cell("-0.3 [-0.5, -0.1]")
    ("'=1+1", '-0.3 [-0.5, -0.1]')
    """
    begins = text.lstrip(" ").startswith(_FORMULA) and not _ONLY_NUMBERS.fullmatch(text)
    return ("'" if begins else "") + visible(text)
