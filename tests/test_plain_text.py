"""Text of somebody's file that would act on a terminal, a page or a spreadsheet."""

import csv
import io

import pytest

from jaxpost.plain_text import spreadsheet_cell, visible
from jaxpost.records.report import _shown
from jaxpost.records.tabulating.cells import Cell, Table, to_csv
from jaxpost.records.tabulating.latex import tex_escape

ACTING = ("\x1b[31m", "\x00", "\x07", "\x7f", "\x9b", "\u202e", "\u2066", "\u200f", "\u061c", "\u2028", "\ufeff", "\ud800",
          "\r")


@pytest.mark.parametrize("bad", ACTING)
def test_what_acts_is_shown_as_its_escape(bad):
    for shown in (visible(f"a{bad}b"), spreadsheet_cell(f"a{bad}b"), tex_escape(f"a{bad}b"), _shown(f"a{bad}b")):
        assert bad[0] not in shown and shown.startswith("a") and shown.isprintable()
    assert visible("Größe · μ − ± 中文\n", lines=True) == "Größe · μ − ± 中文\n"


@pytest.mark.parametrize("text", ["=cmd|'/C calc'!A0", "+cmd|x", "-2+cmd|x", "@SUM(A1)", "\t=1", "\r=1", "  =1+1", "\uff1d1",
                                  "-x"])
def test_no_cell_begins_a_formula(text):
    assert spreadsheet_cell(text).startswith("'")
    table = Table("t", "", ["a"], [""], [[Cell(text)], [Cell("-0.3", "[-0.5, +1e-05]", "-0.1")]])
    (_, (cell,), (number,)) = csv.reader(io.StringIO(to_csv(table)))
    assert cell.startswith("'") and number == "-0.3 [-0.5, +1e-05] (null -0.1)"
