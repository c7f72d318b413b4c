"""`python -m jaxpost.curricula [--markdown]`: the table of rules, or the page docs/curricula.md."""

import sys

from rich.console import Console
from rich.table import Table

from jaxpost.curricula import document
from jaxpost.curricula.rules import RULES


def main(arguments: list[str]) -> int:
    """Print the table or the page; returns the exit code: 2 for anything else."""
    if arguments == ["--markdown"]:
        print(document.markdown(), end="")
        return 0
    if arguments:
        print(f"error: {arguments[0]!r} is not known (valid: --markdown)", file=sys.stderr)
        return 2
    view = Table("name", "needs", "settings", "paper", "reconstructed", title="curricula")
    for name, row in RULES.items():
        view.add_row(name, document.needs(name), document.settings(name), row.rule.paper, row.rule.reconstructed)
    Console(width=None if sys.stdout.isatty() else 160).print(view)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
