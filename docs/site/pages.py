"""Every file of the site that is none of docs/: address -> Markdown of a page, or bytes of a figure."""

from pathlib import Path

from docs.site import links, metrics, notebooks, papers, reference

ROOT = Path(__file__).resolve().parents[2]


def generated() -> dict[str, str | bytes]:
    """The home page is the README; metrics and papers come from the registries, the reference from docstrings; notebooks."""
    home = links.from_root((ROOT / "README.md").read_text(encoding="utf-8"))
    alone = "---\nhide: [navigation]\n---\n\n"  # no list of one page beside it
    single = {"index.md": alone + home, "metrics.md": metrics.markdown(), "papers.md": alone + papers.markdown()}
    return single | reference.pages() | notebooks.pages()
