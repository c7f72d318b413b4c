"""`python -m jaxpost.probes [--markdown | NAME]`: the catalogue with prices, its page, or one row.

Prices are those of a small toy model; `python -m experiments.prices CONFIG` has those of a config.
"""

import argparse
import sys

from rich.console import Console

from jaxpost.probes import catalog, price, toy
from jaxpost.probes import page as document


def main(arguments: list[str]) -> int:
    """Print; returns the exit code: 2 for an unknown name or config."""
    parser = argparse.ArgumentParser(prog="python -m jaxpost.probes", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="one row of the catalogue in full")
    parser.add_argument("--markdown", action="store_true", help="the page docs/probes.md")
    options = parser.parse_args(arguments)
    if options.markdown:
        print(document.markdown(), end="")
        return 0
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        if options.name:
            console.print(document.row_text(catalog.entry(options.name)), markup=False, highlight=False)
        else:
            _of_toy(console)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _of_toy(console: Console) -> None:
    """Every row of the catalogue on the toy."""
    seconds = {row.id: price.one(catalog.example(row), toy.shapes())[1] for row in catalog.rows() if row.make}
    console.print(document.catalogue(seconds, f"{toy.SAID}; python -m experiments.prices CONFIG has those of a config"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
