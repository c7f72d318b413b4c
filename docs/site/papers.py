"""The paper index: of each paper that the code cites what is here, the command that runs it, and what came out.

`papers.tsv` has titles, and marks the papers that the project set out to cover (`aim`); one of them has its arXiv number once
something cites it, or the file that cites it by its title. Papers with metrics have the titles of `jaxpost.records.papers`.
"""

import csv
import functools
import re
from collections.abc import Mapping
from pathlib import Path

from docs.site import citations
from experiments.harness import config as configs
from jaxpost.objectives import document, get
from jaxpost.pages import cell, linked
from jaxpost.records import papers

_TITLES = Path(__file__).with_name("papers.tsv")
_RESULT = re.compile(r"^(Came out|Verdicts|First run|This run|Smoke form): +(.*?)(?=^\S|\Z)", re.M | re.S)  # of a card
_ELSEWHERE = {"rlvr_sparsity": "The table of verdicts is on the [home page](index.md#what-comes-out)."}
_HEAD = """# Paper index

Generated when the site is built, from the papers that the registries, the configs and the docstrings name. Most titles were
recalled and not looked up; the link leads to the paper. What differs from a paper is said where the name of a row leads.
"""


def listed() -> list[dict[str, str]]:
    """Rows of papers.tsv: arxiv (or a file, or "-"), aim, title."""
    with _TITLES.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


@functools.cache
def _titles() -> dict[str, str]:
    return {row["arxiv"]: row["title"] for row in listed()} | {name: row[1] for name, row in papers.PAPERS.items()}


def title_of(number: str) -> str:
    """The title of a paper; of one whose title is not recorded, its number."""
    return _titles().get(number, f"arXiv:{number}")


def results(config: str) -> list[str]:
    """What the config's card says came out of its runs; empty if it keeps no result."""
    stated = [f"{name}: {' '.join(text.split())}" for name, text in _RESULT.findall(configs.module(config).__doc__)]
    return [*stated, *([_ELSEWHERE[config]] if config in _ELSEWHERE else [])]


def command(cited: citations.Cited) -> str:
    """What runs something of the paper, or the line of a config; empty where it is a function or a metric."""
    if cited.objectives:
        return document.command_of(get(cited.objectives[0]))
    if cited.tasks:
        return f"python -m jaxpost.tasks {cited.tasks[0]}"
    if cited.curricula:
        return f'"curriculum": "{cited.curricula[0]}"'  # in the table of an arm
    return ""


def _study(config: str, cited: Mapping[str, citations.Cited]) -> list[str]:
    lines = [f"### {config}", "", f"{configs.module(config).__doc__.splitlines()[0]} Config: "
             f"[configs/{config}.py](../configs/{config}.py).", "", f"    python -m experiments.run --config={config}", ""]
    lines += [line for text in results(config) or ["No result is kept yet."] for line in (linked(text), "")]
    for number, paper in cited.items():
        if config in paper.configs:
            here = citations.links(paper)
            lines.append(f"- [{title_of(number)}](https://arxiv.org/abs/{number})" + (f": {here}" if here else ""))
    return [*lines, ""]


def markdown() -> str:
    """The page."""
    cited = dict(sorted(citations.everywhere().items()))
    aims = [row for row in listed() if row["aim"]]
    absent = [row["title"] for row in aims if row["arxiv"] not in cited and not row["arxiv"].endswith(".py")]
    studies = sorted({config for paper in cited.values() for config in paper.configs})
    studied = sum(bool(paper.configs) for paper in cited.values())
    lines = [_HEAD,
             f"The code cites {len(cited)} papers by their arXiv number; studies ask about the claims of {studied} of them. Of "
             f"{len(aims)} papers that the project set out to cover, {len(aims) - len(absent)} are cited by something of "
             f"the package, in whole or in part; the other {len(absent)} are listed as [not here yet](#not-here-yet).", "",
             "## Papers with a study", "",
             "A study asks whether what papers report holds where it can be tested with controls. Results are those of the "
             "config's docstring; the [glossary](glossary.md) explains verdicts.", ""]
    for config in studies:
        lines += _study(config, cited)
    lines += ["## Papers with code", "", "| paper | what is here | command, or line of a config |", "|---|---|---|"]
    for number, paper in cited.items():
        if not paper.configs:
            run = command(paper)
            lines.append(f"| [{cell(title_of(number))}](https://arxiv.org/abs/{number}) | {citations.links(paper)} | "
                         f"{f'`{cell(run)}`' if run else ''} |")
    lines += [f"| {cell(row['title'])} (cited by its title) | [{row['arxiv']}](../{row['arxiv']}) | |"
              for row in aims if row["arxiv"].endswith(".py")]
    lines += ["", "## Not here yet", "", "Nothing of the package cites these.", "", *(f"- {title}" for title in absent)]
    return "\n".join(lines) + "\n"
