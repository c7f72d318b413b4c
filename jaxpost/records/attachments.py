"""What a page carries with it: data as links that survive mailing the file, papers as links to arXiv."""

import base64
import re
from pathlib import Path

from markupsafe import Markup, escape

from jaxpost.plain_text import visible

LARGEST = 600_000  # bytes of a file that the page carries; a larger one is named
_KINDS = {".csv": "text/csv", ".tex": "application/x-tex", ".json": "application/json", ".pdf": "application/pdf",
          ".bib": "application/x-bibtex"}
_ARXIV = re.compile(r"(arXiv[:\s]\s*)(\d{4}\.\d{4,5})", re.IGNORECASE)


def attached(path: Path, label: str) -> Markup:
    """A link that holds the file itself and saves it under its own name; of one that is too large, its place in the bundle."""
    if not path.is_file():
        return Markup("")
    if path.stat().st_size > LARGEST:
        return Markup("{} in the bundle: <code>{}/{}</code>").format(label, path.parent.name, path.name)
    data = base64.b64encode(path.read_bytes()).decode()
    return Markup('<a download="{}" href="data:{};base64,{}">{}</a>').format(path.name, _KINDS[path.suffix], data, label)


def with_papers(text: object) -> Markup:
    """Text in which every arXiv number is a link to its abstract.

    >>> print(with_papers("The Path Not Taken, arXiv:2511.08567 <4.1>"))
    The Path Not Taken, <a href="https://arxiv.org/abs/2511.08567">arXiv:2511.08567</a> &lt;4.1&gt;
    """
    pieces, end = [], 0
    text = "" if text is None else visible(str(text), lines=True)
    for match in _ARXIV.finditer(text):
        pieces += [escape(text[end:match.start()]),
                   Markup('<a href="https://arxiv.org/abs/{}">{}</a>').format(match[2], match[0])]
        end = match.end()
    return Markup("").join([*pieces, escape(text[end:])])
