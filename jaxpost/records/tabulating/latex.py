"""LaTeX that can be pasted: escaped text, tables with booktabs rules, figure environments."""

import re
from collections.abc import Sequence

from jaxpost.plain_text import visible
from jaxpost.records.tabulating.cells import Cell, Table
from jaxpost.records.tabulating.layout import TEXT_WIDTH, blocks, column, lines, pages, shares

PACKAGES = r"% needs \usepackage{booktabs,array,graphicx}; fits the text width of article and wider ones"
_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\ensuremath{<}",
    ">": r"\ensuremath{>}",
    "²": r"\textsuperscript{2}",
    "±": r"\ensuremath{\pm}",
    "≥": r"\ensuremath{\ge}",
    "≤": r"\ensuremath{\le}",
    "−": r"\ensuremath{-}",
    "–": "--",
    "α": r"\ensuremath{\alpha}",
    "σ": r"\ensuremath{\sigma}",
    "·": r"\ensuremath{\cdot}",
    "×": r"\ensuremath{\times}",
    "†": r"\ensuremath{\dagger}",
    "→": r"\ensuremath{\to}",
    "∞": r"\ensuremath{\infty}",
    "…": r"\ldots{}",
    "—": "---",
    "’": "'",
    "‘": "`",
    "“": "``",
    "”": "''",
    "\n": " ",
    **{letter: rf"\ensuremath{{\{name}}}" for letter, name in (
        ("β", "beta"), ("γ", "gamma"), ("δ", "delta"), ("ε", "epsilon"), ("η", "eta"), ("θ", "theta"), ("κ", "kappa"),
        ("λ", "lambda"), ("μ", "mu"), ("π", "pi"), ("ρ", "rho"), ("τ", "tau"), ("Δ", "Delta"), ("Σ", "Sigma"))},
}
_NORM = re.compile("‖([^‖]*)‖")
_LATIN = re.compile("[ -~\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u00ff]")  # what the default input encoding prints
_POWER = re.compile(r"(-?\d[\d.]*)e([+-]\d+)")


def tex_escape(text: str) -> str:
    """Text that TeX prints as it stands, in text mode; ‖X‖ becomes a norm in math mode. A letter that pdfTeX's fonts lack
    is given by its code point.

    >>> print(tex_escape("95% of w_q & {k}"))
    95\\% of w\\_q \\& \\{k\\}
    >>> print(tex_escape("‖ΔW‖ / ‖W‖"))
    $\\Vert \\Delta W\\Vert$ / $\\Vert W\\Vert$
    """
    pieces, end = [], 0
    text = visible(text, lines=True)
    for norm in _NORM.finditer(text):
        pieces += [_escaped(text[end : norm.start()]), rf"$\Vert {norm[1].replace('Δ', chr(92) + 'Delta ')}\Vert$"]
        end = norm.end()
    return "".join([*pieces, _escaped(text[end:])])


def _escaped(text: str) -> str:
    return "".join(_TEX.get(letter) or (letter if _LATIN.fullmatch(letter) else rf"\texttt{{U+{ord(letter):04X}}}")
                   for letter in text)


def tex_number(text: str) -> str:
    """Escaped text in which numbers such as 3.2e-05 are printed as powers of ten and minus signs as such.

    >>> print(tex_number("3.2e-05"))
    $3.2\\times10^{-5}$
    """
    pieces, end = [], 0
    for power in _POWER.finditer(text):
        pieces += [_minus(text[end : power.start()]), rf"${power[1]}\times10^{{{int(power[2])}}}$"]
        end = power.end()
    return "".join([*pieces, _minus(text[end:])])


def _minus(text: str) -> str:
    return re.sub(r"(?<![\w])-(?=\d)", r"$-$", tex_escape(text))


def _broken(text: str) -> str:
    """Numbers and escaped text that may break after the slashes, dots, underscores and signs of a long name."""
    return re.sub(r"(/|\\_|\.|=|;)(?=[A-Za-z])", r"\1\\allowbreak{}", tex_number(text))


def _cell(cell: Cell) -> str:
    """The value, and below it, smaller, the null in parentheses, the interval and what is said beside them."""
    return r"\newline ".join(_broken(text) if text == cell.text else rf"{{\scriptsize {_broken(text)}}}"
                             for text, _ in lines(cell))


def _heading(heading: str, variant: str) -> str:
    return _broken(heading) + (rf"\newline {{\scriptsize {_broken(variant)}}}" if variant else "")


def _tabular(table: Table, columns: list[int], widths: list[float], body: Sequence[Sequence[Cell]]) -> list[str]:
    """One `tabular` of the given columns; widths are shares of the text width, so that it fits wider pages too."""
    spec = "".join(rf">{{\raggedright\arraybackslash}}p{{{width / TEXT_WIDTH:.4f}\textwidth}}" for width in widths)
    return [
        rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule",
        " & ".join(_heading(table.header[i], table.variants[i]) for i in columns) + r" \\",
        r"\midrule",
        *(" & ".join(_cell(cell) for cell in cells) + r" \\[2pt]" for cells in body),
        r"\bottomrule",
        r"\end{tabular}",
    ]


def tex_table(table: Table, bundle_id: str) -> str:
    """Complete `table` environments with caption, bundle id and label, no wider than the text and no higher than a page.

    A table with more columns than fit becomes several, each with the first column; so does one of more lines than a page
    holds. The first line names the packages it needs.
    """
    columns = [column(table, i) for i in range(len(table.header))]
    parts = []
    for block in blocks(columns) or [[]]:
        indices = [0, *block]
        widths = shares([columns[i] for i in indices])
        body = [[line[i] for i in indices] for line in table.body]
        parts += [_tabular(table, indices, widths, page) for page in pages(body, widths)]
    out = [PACKAGES]
    for n, tabular in enumerate(parts):
        of = f" Part {n + 1} of {len(parts)}." if len(parts) > 1 else ""
        out += [
            r"\begin{table}[tp]",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}\setlength{\emergencystretch}{3em}",
            rf"\caption{{{tex_escape(table.caption)}{of} Bundle \texttt{{{bundle_id[:12]}}}.}}",
            rf"\label{{tab:{table.name}-{bundle_id[:12]}{f'-{n + 1}' if n else ''}}}",
            *tabular,
            r"\end{table}",
        ]
    return "\n".join([*out, ""])


def tex_figure(name: str, caption: str, bundle_id: str) -> str:
    """A `figure` environment for `figures/<name>.pdf`."""
    return "\n".join(
        [
            r"\begin{figure}[t]",
            r"\centering",
            rf"\includegraphics[width=\linewidth]{{figures/{name}.pdf}}",
            rf"\caption{{{tex_escape(caption)} Bundle \texttt{{{bundle_id[:12]}}}.}}",
            rf"\label{{fig:{name}-{bundle_id[:12]}}}",
            r"\end{figure}",
            "",
        ]
    )
