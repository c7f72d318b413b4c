"""CITATION.bib of a bundle: the bundle by its id, the papers of its experiment, the papers of its metrics."""

import re
from collections.abc import Iterable, Mapping

from jaxpost.records.papers import entry
from jaxpost.records.tabulating.latex import tex_escape

_ARXIV = re.compile(r"(?:arXiv[:\s]*)(\d{4}\.\d{4,5})", re.IGNORECASE)
_FIELDS = ("title", "author", "year", "journal", "booktitle", "eprint", "doi", "url", "note")


def _entry(kind: str, key: str, fields: Mapping[str, str]) -> str:
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def _kept(title: str) -> str:
    """A title whose capitals BibTeX keeps."""
    return f"{{{tex_escape(title)}}}"


def _paper(paper: Mapping) -> str:
    kind = "inproceedings" if "booktitle" in paper else "article" if "journal" in paper else "misc"
    verbatim = ("eprint", "doi", "url", "author")  # names are written in BibTeX's own notation
    fields = {name: str(paper[name]) if name in verbatim else tex_escape(str(paper[name])) for name in _FIELDS if name in paper}
    fields["title"] = _kept(str(paper["title"]))
    if "author" not in fields:
        fields["key"] = str(paper["title"])  # what BibTeX sorts by instead
    if "eprint" in fields:
        fields["archiveprefix"] = "arXiv"
    return _entry(kind, paper["key"], fields)


def bibtex(manifest: Mapping, metric_papers: Iterable[str | None]) -> str:
    """BibTeX of a merged bundle.

    Args:
        manifest: with bundle_id, config_hash, title, created, sessions, and papers (key, title, author, year, ...).
        metric_papers: the `paper` texts of the metrics; an arXiv number in them that no paper of the manifest has
            becomes an entry of its own, with what `papers` knows of it.

    Returns:
        Entries separated by blank lines, the bundle first (key `jaxpost-<12 digits>`).
    """
    bundle_id, code = manifest["bundle_id"], manifest["sessions"][-1]["code"]
    commit = f", code {code['commit'][:12]}{' with changes' if code['dirty'] else ''}" if "commit" in code else ""
    entries = [
        _entry(
            "misc",
            f"jaxpost-{bundle_id[:12]}",
            {
                "title": _kept(f"{manifest['title'] or 'Measurements'}: jaxpost measurement bundle {bundle_id[:12]}"),
                "author": "{jaxpost}",
                "year": manifest["created"][:4],
                "note": tex_escape(
                    f"bundle {bundle_id}, config {manifest['config_hash'][:12]}{commit}, jaxpost {code['version']}"
                ),
            },
        )
    ]
    papers = manifest.get("papers", [])
    entries += [_paper(paper) for paper in papers]
    known = {str(paper.get("eprint")) for paper in papers}
    for text in sorted(set(filter(None, metric_papers))):
        for number in _ARXIV.findall(text):
            if number not in known:
                known.add(number)
                entries.append(_paper(entry(number)))
    return "\n\n".join(entries) + "\n"
