"""LaTeX that compiles: tables no wider than the text, BibTeX that BibTeX reads; every cited paper has its title."""

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from jaxpost import probes
from jaxpost.compare import Settings, run
from jaxpost.records.papers import PAPERS
from jaxpost.records.tabulating.cells import Cell, Table
from jaxpost.records.tabulating.latex import tex_table
from jaxpost.records.tabulating.layout import GAP, TEXT_HEIGHT, TEXT_WIDTH, blocks, column, height, pages, shares
from tests.compare import checkpoints

ROOT = Path(__file__).parents[3]
DOCUMENT = r"""\documentclass{article}
\usepackage{booktabs,array,graphicx}
\begin{document}
%s
\nocite{*}\bibliographystyle{plain}\bibliography{CITATION}
\end{document}
"""


def table(columns, lines, seed=0):
    rng = random.Random(seed)
    words = ("0.123", "3.2e-05", "layers/0/mlp_experts/12/down", "[-0.00123, 0.0456]", "a statement of several words", "x")
    body = [[Cell(rng.choice(words), rng.choice(("", "[0.1, 0.2]")), rng.choice(("", "4.5e-05"))) for _ in range(columns)]
            for _ in range(lines)]
    return Table("t", "A caption.", [rng.choice(("value", "a longer heading")) for _ in range(columns)], [""] * columns, body)


@pytest.mark.parametrize("columns, lines", [(1, 1), (2, 3), (7, 60), (13, 5)])
def test_every_part_fits_the_text_and_holds_every_cell_once(columns, lines):
    built = table(columns, lines)
    measured = [column(built, i) for i in range(columns)]
    found = blocks(measured)
    assert [i for block in found for i in block] == list(range(1, columns))
    for block in found:
        chosen = [0, *block]
        widths = shares([measured[i] for i in chosen])
        assert sum(widths) + GAP * len(chosen) <= TEXT_WIDTH + 1e-6
        assert all(width >= measured[i].least - 1e-6 for width, i in zip(widths, chosen))
        body = [[line[i] for i in chosen] for line in built.body]
        groups = pages(body, widths)
        assert [cells for group in groups for cells in group] == body
        assert all(sum(height(cells, widths) for cells in group) <= TEXT_HEIGHT for group in groups)
    specs = tex_table(built, "a" * 64).split("begin{tabular}")
    assert max(sum(map(float, re.findall(r"p{([\d.]+)", spec))) for spec in specs) <= 1


def test_every_cited_paper_has_a_title_and_its_authors_or_says_that_they_are_unknown():
    cited = {number for metric in probes.METRICS.values() for number in re.findall(r"\d{4}\.\d{4,5}", metric.paper or "")}
    for path in (*ROOT.glob("configs/*.py"), *ROOT.glob("experiments/**/*.py")):
        lists = re.findall(r"(?:PAPERS = |papers = )[^(]*\(+([^)]*)\)", path.read_text(encoding="utf-8"))
        cited |= {number for found in lists for number in re.findall(r"\d{4}\.\d{4,5}", found)}
    assert len(cited) > 30 and not cited - set(PAPERS), sorted(cited - set(PAPERS))
    assert all(len(title) > 15 for _, title, _ in PAPERS.values())
    assert [number for number, (_, _, authors) in PAPERS.items() if authors is None] == ["2607.19331"]


@pytest.mark.slow
def test_tables_and_citations_of_a_comparison_and_of_a_study_compile(finished, tmp_path):
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is not installed: apt-get install texlive-latex-recommended")
    base = checkpoints.write(tmp_path / "base", tensors := checkpoints.base_tensors(layers=3))
    tuned = [checkpoints.write(tmp_path / f"tuned_{i}", checkpoints.moved(tensors, 3e-4 * (i + 1), i)) for i in range(2)]
    report = run(base, tuned, tmp_path / "report", Settings("top"))
    for bundle in (finished, report):
        folder = tmp_path / f"tex-{bundle.name}"
        folder.mkdir()
        tables = "\n\\clearpage\n".join(path.read_text(encoding="utf-8") for path in sorted((bundle / "tables").glob("*.tex")))
        (folder / "paper.tex").write_text(DOCUMENT % tables, encoding="utf-8")
        shutil.copy(bundle / "CITATION.bib", folder)
        said = [subprocess.run(command, cwd=folder, capture_output=True, check=False).stdout.decode(errors="replace")
                for command in (["pdflatex", "-interaction=nonstopmode", "paper"], ["bibtex", "paper"],
                                *[["pdflatex", "-interaction=nonstopmode", "paper"]] * 2)]
        assert "Warning--" not in said[1] and "error" not in said[1].lower(), said[1]
        bad = re.findall(r"^(?:!|Overfull|LaTeX Warning: Float too large|LaTeX Warning: Citation).*", said[-1], re.M)
        assert not bad and (folder / "paper.pdf").stat().st_size > 10_000, bad
