"""LaTeX that can be pasted: escaped text, tables with booktabs rules, figure environments."""

import re

from jaxpost.records.plain_text import visible
from jaxpost.records.tabulating.cells import Cell, Table

PACKAGES = r"% needs \usepackage{booktabs,array,makecell,graphicx}"
_COLUMNS_A_BLOCK = 6  # a text width holds the arm and six statistics
_WIDTHS = {"claim": "3.9cm", "statistic": "2.5cm"}
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
    "\n": " ",
}
_POWER = re.compile(r"(-?\d[\d.]*)e([+-]\d+)")


def tex_escape(text: str) -> str:
    """Text that TeX prints as it stands, in text mode.

    >>> print(tex_escape("95% of w_q & {k}"))
    95\\% of w\\_q \\& \\{k\\}
    """
    return "".join(_TEX.get(letter, letter) for letter in visible(text, lines=True))


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


def _cell(cell: Cell) -> str:
    """Value with the null in parentheses, and below it the interval."""
    above = tex_number(cell.text) + (rf" {{\scriptsize ({tex_number(cell.null)})}}" if cell.null else "")
    return rf"\makecell[tl]{{{above}\\ {{\scriptsize {tex_number(cell.interval)}}}}}" if cell.interval else above


def _heading(heading: str, said: str) -> str:
    return (
        rf"\makecell[bl]{{{tex_escape(heading)}\\ {{\scriptsize {tex_escape(said)}}}}}" if said else tex_escape(heading)
    )


def _block(table: Table, columns: list[int]) -> list[str]:
    """One `tabular` of the given columns."""
    widths = [_WIDTHS.get(table.header[i]) for i in columns]
    spec = "".join(rf">{{\raggedright\arraybackslash}}p{{{width}}}" if width else "l" for width in widths)
    return [
        rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule",
        " & ".join(_heading(table.header[i], table.readings[i]) for i in columns) + r" \\",
        r"\midrule",
        *(" & ".join(_cell(line[i]) for i in columns) + r" \\[2pt]" for line in table.body),
        r"\bottomrule",
        r"\end{tabular}",
    ]


def tex_table(table: Table, bundle_id: str) -> str:
    """A complete `table` environment with caption, bundle id and label; many columns become blocks of six below each
    other, each with the first column. The first line names the packages it needs."""
    rest = list(range(1, len(table.header)))
    whole = len(rest) <= _COLUMNS_A_BLOCK + 1
    blocks = [rest] if whole else [rest[i : i + _COLUMNS_A_BLOCK] for i in range(0, len(rest), _COLUMNS_A_BLOCK)]
    lines = [
        PACKAGES,
        r"\begin{table}[tp]",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{tex_escape(table.caption)} Bundle \texttt{{{bundle_id[:12]}}}.}}",
        rf"\label{{tab:{table.name}-{bundle_id[:12]}}}",
    ]
    for i, block in enumerate(blocks):
        lines += ([r"\par\medskip"] if i else []) + _block(table, [0, *block])
    return "\n".join([*lines, r"\end{table}", ""])


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
