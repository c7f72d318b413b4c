"""`python -m jaxpost.objectives [--markdown | NAME]`: the recipe table, the page docs/objectives.md, or one row in full."""

import sys

from rich.console import Console
from rich.table import Table

from jaxpost.objectives import document
from jaxpost.objectives.recipes import table


def main(arguments: list[str]) -> int:
    """Print the table, the page, or every part of a row; returns the exit code."""
    if arguments == ["--markdown"]:
        print(document.markdown(), end="")
        return 0
    if arguments:
        try:
            print(document.row_text(arguments[0]))
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0
    view = Table("name", "family", "paper", "batch", "parts", title="objectives")
    for row in table():
        parts = " ".join(f"{k}={v}" for k, v in row["parts"].items())
        view.add_row(row["name"], row["family"], row["paper"], row["batch"], parts)
    Console(width=None if sys.stdout.isatty() else 160).print(view)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
