"""The printed catalogue and the generated page."""

import pathlib
import re

from jaxpost import probes
from jaxpost.probes import __main__ as command
from jaxpost.probes import catalog
from jaxpost.probes import page as document

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def test_the_page_is_what_the_code_says():
    assert (DOCS / "probes.md").read_text() == document.markdown(), "run `python -m jaxpost.probes --markdown > docs/probes.md`"


def test_the_page_has_every_metric_once_with_formula_and_null():
    page = document.markdown()
    for name, metric in probes.METRICS.items():
        if catalog.statistic_of(name) is not None:
            assert page.count(f"| `{name}` |") == 1, name
            assert metric.null.split("|")[0] in page


def test_every_heading_is_in_the_contents_and_every_reading_belongs_to_a_metric():
    page = document.markdown()
    contents = re.findall(r"^- \[.*\]\(#(.*)\)$", page, re.M)
    assert len(contents) == page.count("\n## ") - 1 == len(set(contents))
    for prefix, said in ((prefix, said) for statistic in catalog.statistics() for prefix, said in statistic.extremes.items()):
        assert any(catalog.extremes_of(name) is said for name in probes.METRICS), prefix


def test_every_statistic_has_an_example_figure_of_a_few_kilobytes():
    for statistic in catalog.statistics():
        path = DOCS / document.FIGURES / f"{statistic.name}.png"
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n", statistic.name
        assert path.stat().st_size < 40_000, statistic.name
    names = {path.stem for path in (DOCS / document.FIGURES).glob("*.png")}
    assert names == {statistic.name for statistic in catalog.statistics()}


def test_the_command_prints_every_row_with_paper_needs_lane_null_and_price(capsys):
    assert command.main([]) == 0
    printed = capsys.readouterr().out
    for row in catalog.CATALOG.values():
        assert row.id in printed and catalog.example(row).lane in printed
    assert "arXiv:2511.08567" in printed and "weights/base" in printed and "halfulp_permuted" in printed
    assert "a toy of 4 layers" in printed


def test_the_command_shows_one_row_in_full_and_knows_the_nearest(capsys):
    assert command.main(["policy"]) == 0
    printed = capsys.readouterr().out
    assert "policy.kl_forward" in printed and "How it misleads" in printed
    assert command.main(["polcy"]) == 2
    assert "did you mean 'policy'" in capsys.readouterr().err
