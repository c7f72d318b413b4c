"""Every page of the site that is no file of docs/: address -> Markdown."""

from pathlib import Path

from docs.site import links, metrics, papers, reference

ROOT = Path(__file__).resolve().parents[2]


def generated() -> dict[str, str]:
    """The home page is the README; metrics and papers come from the registries, the reference from docstrings."""
    home = links.from_root((ROOT / "README.md").read_text(encoding="utf-8"))
    alone = "---\nhide: [navigation]\n---\n\n"  # no list of one page beside it
    single = {"index.md": alone + home, "metrics.md": metrics.markdown(), "papers.md": alone + papers.markdown()}
    return single | reference.pages()
