"""The extension of griffe, which reads docstrings for mkdocstrings: lays them out, and gives fields the comment beside them."""

import griffe

from docs.site.docstrings import beside, laid_out


class Docstrings(griffe.Extension):
    """What the pages show of every object."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Called once an object is loaded."""
        if obj.docstring:
            obj.docstring.value = laid_out(obj.docstring.value)
        elif obj.is_attribute and obj.parent.is_class and (comment := beside(obj.source)):
            obj.docstring = griffe.Docstring(laid_out(comment), parent=obj)
