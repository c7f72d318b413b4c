"""The extension of griffe, which reads docstrings for mkdocstrings, that lays them out."""

import griffe

from docs.site.docstrings import laid_out


class LaidOut(griffe.Extension):
    """Applies `laid_out` to every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Called once an object is loaded."""
        if obj.docstring:
            obj.docstring.value = laid_out(obj.docstring.value)
