"""`python -m jaxpost.objectives [--markdown | NAME]`: the recipe table, the page docs/objectives.md, or one row in full."""

import sys

from rich.console import Console
from rich.table import Table

from jaxpost.objectives import document
from jaxpost.objectives.recipes import get, table


def main(arguments: list[str]) -> int:
    """Print the table, the page, or every part of a row; returns the exit code."""
    if arguments == ["--markdown"]:
        print(document.markdown(), end="")
        return 0
    if arguments:
        try:
            get(arguments[0])
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    view = Table("name", "family", "paper", "batch", "parts" if not arguments else "all parts", title="objectives")
    for row in table():
        if not arguments or row["name"] == arguments[0]:
            shown = row["defaults" if arguments else "parts"]
            view.add_row(row["name"], row["family"], row["paper"], row["batch"], " ".join(f"{k}={v}" for k, v in shown.items()))
    Console(width=None if sys.stdout.isatty() else 160).print(view)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
