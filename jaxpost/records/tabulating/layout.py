"""How wide the columns of a LaTeX table must and may be, so that a table never leaves the text block.

Widths are estimates in points of the `article` class (text 345 pt wide, 550 pt high; columns set at \\footnotesize, what stands
below a value at \\scriptsize). A column needs its longest word; what is left of the text width goes to those that would use it.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from jaxpost.records.tabulating.cells import Cell, Table

TEXT_WIDTH, TEXT_HEIGHT = 345.0, 430.0  # the height leaves room for a caption
GAP = 6.0  # twice \tabcolsep
_LETTER, _SMALL = 4.75, 4.3  # mean width of a letter at \footnotesize and \scriptsize
_LINE = 10.0
_COMFORT = 0.55  # of the way from its longest word to its longest line that a column gets before another table is begun
_WORDY = 110.0  # a column of sentences need not be wider to be readable
_POWER = re.compile(r"\d[\d.]*e[+-]\d+")


@dataclass(frozen=True)
class Column:
    """Points that a column needs (its longest word) and would use (its longest line)."""

    least: float
    most: float


def lines(cell: Cell) -> list[tuple[str, float]]:
    """(text, width of a letter) of what stands below each other in a cell."""
    small = [f"({cell.null})" if cell.null else "", cell.interval, cell.note]
    return [(text, width) for text, width in ((cell.text, _LETTER), *((text, _SMALL) for text in small)) if text]


def _width(text: str, letter: float) -> float:
    return letter * len(_POWER.sub(lambda power: power[0] + "xx", text))


def words(text: str) -> list[str]:
    """Where TeX may break a line: at spaces, after hyphens, and where `latex` allows it inside a name."""
    return [word for word in re.split(r"\s+|(?<=[-/_.=;])(?=[A-Za-z])", text) if word]


def column(table: Table, i: int) -> Column:
    """What column i of a table needs and would use."""
    heads = [(table.header[i], _LETTER), (table.variants[i], _SMALL)]
    texts = [*heads, *(line for cells in table.body for line in lines(cells[i]))]
    least = max((_width(word, letter) for text, letter in texts for word in words(text)), default=0.0)
    cells = [line for cells in table.body for line in lines(cells[i])]
    return Column(max(least, 12.0), max([least, *(_width(text, letter) for text, letter in cells)]))


def blocks(columns: Sequence[Column]) -> list[list[int]]:
    """Columns 1, 2, ... in groups, each of which fits beside column 0."""
    need = [GAP + min(c.least + _COMFORT * (c.most - c.least), max(c.least, _WORDY)) for c in columns]
    groups: list[list[int]] = []
    for i in range(1, len(columns)):
        if groups and need[0] + sum(need[j] for j in groups[-1]) + need[i] <= TEXT_WIDTH:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def shares(columns: Sequence[Column]) -> list[float]:
    """Widths of columns in points that fill at most the text width: what each needs, and of the rest in proportion to want."""
    room = TEXT_WIDTH - GAP * len(columns)
    need, want = sum(c.least for c in columns), sum(c.most - c.least for c in columns)
    if need >= room:  # a word that is wider than the page: squeezed, and TeX says so
        return [c.least * room / need for c in columns]
    spare = min(1.0, (room - need) / want) if want else 0.0
    return [c.least + spare * (c.most - c.least) for c in columns]


def height(cells: Sequence[Cell], widths: Sequence[float]) -> float:
    """Points that a line of a table takes: its highest cell."""
    def of(cell: Cell, width: float) -> int:
        return sum(math.ceil(1.15 * _width(text, letter) / width) for text, letter in lines(cell))

    return max(1, *(of(cell, width) for cell, width in zip(cells, widths, strict=True))) * _LINE + 3


def pages(body: Sequence[Sequence[Cell]], widths: Sequence[float]) -> list[list[Sequence[Cell]]]:
    """The lines of a table in groups that are no higher than a page."""
    pages: list[list[Sequence[Cell]]] = [[]]
    used = 0.0
    for cells in body:
        need = height(cells, widths)
        if pages[-1] and used + need > TEXT_HEIGHT:
            pages.append([])
            used = 0.0
        pages[-1].append(cells)
        used += need
    return pages
