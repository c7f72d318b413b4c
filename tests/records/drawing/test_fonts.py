"""Figures for papers: journals ask for embedded TrueType fonts."""

import matplotlib
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure

from jaxpost.records.drawing.style import RC


def test_fonts_of_a_figure_are_embedded_truetype(users_figures, tmp_path):
    with matplotlib.rc_context(RC):
        figure = Figure()
        figure.add_subplot().set_title("a title")
        FigureCanvasPdf(figure).print_pdf(tmp_path / "a.pdf")
    text = (tmp_path / "a.pdf").read_bytes()
    assert b"/FontFile2" in text and b"/CIDFontType2" in text and b"/Type3" not in text
