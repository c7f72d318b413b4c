"""The pages of the documentation: all in the navigation, every link leads somewhere, papers and words are those of the code."""

import doctest
import posixpath
import re
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from docs.site import citations, docstrings, links, pages, papers
from jaxpost import roles
from jaxpost.pages import entry
from jaxpost.probes import base
from jaxpost.records.papers import PAPERS

ROOT = Path(__file__).resolve().parents[1]
WRITTEN = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
STRESSED = {"why", "loss"}  # in italics for stress, not as terms


@pytest.fixture(scope="module")
def generated():
    return pages.generated()


class _Settings(yaml.SafeLoader):
    """mkdocs.yml without the Python objects in it."""


_Settings.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def leaves(tree):
    if isinstance(tree, str):
        return [tree]
    return [leaf for value in (tree.values() if isinstance(tree, dict) else tree) for leaf in leaves(value)]


def prose(text):
    """A page without its code."""
    return re.sub(r"`[^`\n]+`|^    .*$", "", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), flags=re.M)


def anchors(text):
    """The headings of a page, as links name them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {entry(title.replace("`", "")).partition("](#")[2].rstrip(")") for title in titles}


def test_every_page_is_in_the_navigation_once(generated):
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Settings)["nav"]
    assert sorted(leaves(nav)) == sorted([*WRITTEN, *(name for name in generated if name.endswith(".md"))])


def test_every_link_leads_to_a_page_a_heading_or_a_file(generated):
    every, broken = WRITTEN | generated, []
    for name in (name for name in every if name.endswith(".md")):
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(every[name])):
            path, _, anchor = target.partition("#")
            if path.startswith(("https:", "http:")):
                continue
            page = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
            there = page in every or (ROOT / "docs" / page).exists()
            if not there or (anchor and page in every and anchor not in anchors(every[page])):
                broken.append((name, target))
    assert not broken


def test_pages_and_readme_read_on_a_code_host(generated):
    """What is written leads to what is in the repository, not to pages that exist on the site only."""
    texts = {f"docs/{name}": text for name, text in WRITTEN.items()} | {"README.md": (ROOT / "README.md").read_text("utf-8")}
    targets = [(name, posixpath.join(posixpath.dirname(name), target)) for name, text in texts.items()
               for target in re.findall(r"\]\(([^)\s:#]+)[)#]", prose(text))]
    assert not [(name, target) for name, target in targets if not (ROOT / target).exists()]


def test_papers_are_listed_as_covered_exactly_if_something_cites_them():
    listed, cited = papers.listed(), citations.everywhere()
    assert len({row["title"] for row in listed}) == len(listed)
    for row in listed:
        place = row["arxiv"]
        if place.endswith(".py"):
            assert (ROOT / place).is_file(), row
        elif place != "-":
            assert place in cited, f"nothing cites {row}"
            assert PAPERS.get(place, (0, row["title"]))[1] == row["title"], place
    unlisted = {PAPERS[number][1] for number in cited if number in PAPERS}
    assert not [row for row in listed if row["arxiv"] == "-" and row["title"] in unlisted]


def test_the_index_has_what_is_here_of_a_paper_its_command_and_its_result(generated):
    text = generated["papers.md"]
    study = text[text.index("### continual_forgetting"):text.index("### curriculum_race")]
    assert "    python -m experiments.run --config=continual_forgetting\n" in study
    assert "practically equivalent" in study and "https://arxiv.org/abs/2507.05386" in study
    (row,) = [line for line in text.splitlines() if "abs/2305.18290" in line]
    assert "[dpo](objectives.md#dpo)" in row and "--config.rows=\"('dpo',)\"" in row


def test_terms_of_pages_are_in_the_glossary():
    glossary = WRITTEN["glossary.md"].lower()
    texts = [*WRITTEN.values(), (ROOT / "README.md").read_text(encoding="utf-8")]
    italic = {term.lower() for text in texts
              for term in re.findall(r"(?<![*\w])\*([A-Za-z]+(?: [a-z]+)?)\*(?![*\w])", prose(text))}
    own = {*base.LANES, *roles.ROLES, "null", "noise floor", "row", "pooling", "preset", "need", "fold", "knob", "oracle"}
    assert not {term for term in (italic - STRESSED) | own if term.removesuffix("s") not in glossary}


def test_docstrings_keep_their_layout_on_the_pages():
    assert doctest.testmod(docstrings).failed == doctest.testmod(links).failed == 0
    text = "Sum.\n  a = b\nEnd.\n\nArgs:\n  x: one.\n    two.\n\nRaises:\n  E: bad.\n>>> 1\n1"
    assert docstrings.laid_out(text) == ("Sum.\n\n    a = b\n\nEnd.\n\nArgs:\n  x: one.\n    two.\n\nRaises:\n  E: bad.\n\n"
                                         "Examples:\n    >>> 1\n    1")


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path, monkeypatch):
    """`mkdocs build --strict`, as the README says it."""
    build = pytest.importorskip("mkdocs.commands.build", reason="pip install -e '.[docs]'")
    from mkdocs.config import load_config

    monkeypatch.chdir(ROOT)
    config = load_config("mkdocs.yml", strict=True, site_dir=str(tmp_path))
    build.build(config)
    assert "Learns Off the Principals" in (tmp_path / "papers" / "index.html").read_text(encoding="utf-8")
    assert 'id="jaxpost.objectives.kl.estimate"' in (tmp_path / "api" / "objectives" / "index.html").read_text(encoding="utf-8")
    assert "m_coherence" in (tmp_path / "search" / "search_index.json").read_text(encoding="utf-8")
    home = (tmp_path / "index.html").read_text(encoding="utf-8")
    fetched = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', home)
    assert not fetched, "the pages fetch nothing from elsewhere"


@pytest.mark.slow
def test_pages_have_the_same_parts_on_the_site_as_on_a_code_host(generated):
    """Python-Markdown, which builds the site, wants blank lines and deeper indents than CommonMark in places."""
    markdown = pytest.importorskip("markdown", reason="pip install -e '.[docs]'")
    commonmark = MarkdownIt("commonmark").enable("table")
    site = markdown.Markdown(extensions=["tables", "attr_list", "md_in_html", "pymdownx.superfences", "toc"])

    def parts(html):
        tags = ("li", "ul", "ol", "table", "td", "pre", "em", "strong", "a", "img")
        return {tag: len(re.findall(f"<{tag}[ >]", html)) for tag in tags}

    for name, text in (WRITTEN | generated).items():
        if name.endswith(".md") and not name.startswith("api/") and not text.startswith("---"):
            assert parts(site.reset().convert(text)) == parts(commonmark.render(text)), name
