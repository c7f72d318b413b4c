"""What the Markdown pages that code generates have in common: links to papers and to their own headings."""

import re

_NAMED = re.compile(r"arXiv:(\d{4}\.\d{4,5})|doi:(10\.\S*\w)")


def linked(text: str) -> str:
    """The text with every arXiv and DOI identifier as a link.

    >>> linked("as arXiv:2402.03300.")
    'as [arXiv:2402.03300](https://arxiv.org/abs/2402.03300).'
    """
    return _NAMED.sub(lambda m: f"[{m[0]}](https://{f'arxiv.org/abs/{m[1]}' if m[1] else f'doi.org/{m[2]}'})", text)


def cell(text: str) -> str:
    """The text as it stands in a cell of a table.

    >>> cell("a | b")
    'a \\\\| b'
    """
    return text.replace("|", "\\|")


def entry(title: str) -> str:
    """A link to a heading of the same page, as GitHub names it.

    >>> entry("Gate I: the KL leash")
    '[Gate I: the KL leash](#gate-i-the-kl-leash)'
    """
    return f"[{title}](#{re.sub(r'[^a-z0-9 _-]', '', title.lower()).replace(' ', '-')})"
