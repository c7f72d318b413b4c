"""What a table is made of: numbers as text, cells that know their rows, columns that say which variant they show."""

import csv
import io
import math
from dataclasses import dataclass, field

from jaxpost.plain_text import spreadsheet_cell


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        text: the value, or plain words.
        interval: "[lo, hi]" or "".
        null: the primary null, or "".
        note: what a reader is told beside it, or "".
        row_ids: the rows it was read from.
    """

    text: str = ""
    interval: str = ""
    null: str = ""
    row_ids: tuple[str, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        text = " ".join(filter(None, (self.text, self.interval, f"(null {self.null})" if self.null else "")))
        return "; ".join(filter(None, (text, self.note)))


@dataclass
class Table:
    """Cells under headings.

    Attributes:
        name: file name without suffix.
        caption: plain text.
        header: headings.
        variants: what a heading needs beside it (dtype, k, ...), or ""; as long as the header.
        body: lines of cells.
    """

    name: str
    caption: str
    header: list[str]
    variants: list[str]
    body: list[list[Cell]] = field(default_factory=list)

    def headings(self) -> list[str]:
        """Heading and variant as one text each."""
        return [
            f"{heading} ({variant})" if variant else heading
            for heading, variant in zip(self.header, self.variants, strict=True)
        ]


def format_number(value: float | None, digits: int = 3) -> str:
    """Three significant digits; powers of ten below 0.001 and from 100,000 on; "n/a" for None or NaN.

    >>> format_number(0.91234), format_number(3.21e-05), format_number(0.0)
    ('0.912', '3.21e-05', '0')
    """
    if value is None or not math.isfinite(value):
        return "n/a"
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def format_interval(lo: float | None, hi: float | None) -> str:
    """Both ends in brackets, or "" where there is no interval."""
    return "" if lo is None or hi is None else f"[{format_number(lo)}, {format_number(hi)}]"


def to_csv(table: Table) -> str:
    """Headings and cells as RFC 4180 text with \\n line ends."""
    text = io.StringIO()
    lines = [[spreadsheet_cell(str(cell)) for cell in line] for line in (table.headings(), *table.body)]
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
