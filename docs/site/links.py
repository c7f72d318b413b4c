"""Links of the pages: what leaves the folder docs/ leads to the repository; the README is the home page."""

import posixpath
import re

_TARGET = re.compile(r"(?<=\]\()([^)\s:#]+)(?=[)#])")  # relative ones, without their anchors
_FENCE = re.compile(r"(^```.*?^```$)", re.M | re.S)


def to_repository(markdown: str, page: str, repository: str) -> str:
    """The page with links to files outside docs/ as addresses below `repository`.

    >>> to_repository("[base](../jaxpost/linalg.py), [study](study.md)", "scale.md", "https://host/blob/main/")
    '[base](https://host/blob/main/jaxpost/linalg.py), [study](study.md)'
    """
    def address(match):
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), match[1]))
        if path == "README.md":
            return posixpath.relpath("index.md", posixpath.dirname(page))
        return match[1] if path.startswith("docs/") else repository + path

    return "".join(part if part.startswith("```") else _TARGET.sub(address, part) for part in _FENCE.split(markdown))


def from_root(markdown: str) -> str:
    """A page of the repository's root as a page of docs/.

    >>> from_root("[study](docs/study.md), [code](jaxpost/linalg.py), [tables](#tables)")
    '[study](study.md), [code](../jaxpost/linalg.py), [tables](#tables)'
    """
    return _TARGET.sub(lambda match: posixpath.relpath(match[1], "docs"), markdown)
