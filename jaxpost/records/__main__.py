"""`python -m jaxpost.records show DIR`: what a finished bundle found. `verify DIR` checks it, `report DIR` draws it again."""

import argparse
import sys
from pathlib import Path

from jaxpost import terminal
from jaxpost.records.headlines.show import headline
from jaxpost.records.report import rerender
from jaxpost.records.storage import BundleError
from jaxpost.records.verify import verify


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 fine, 1 a mismatch or a bundle that cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m jaxpost.records", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="the result in a few lines: claims with verdicts, or what a comparison found")
    show.add_argument("dir")
    commands.add_parser("verify", help="check digests, recompute the bundle id, regenerate the tables").add_argument(
        "dir"
    )
    commands.add_parser("report", help="draw tables, figures and report.html again").add_argument("dir")
    options = parser.parse_args(arguments)
    try:
        if options.command == "show":
            terminal.show("\n".join(headline(options.dir)))
            return 0
        if options.command == "report":
            rerender(options.dir)
            print(Path(options.dir) / "report.html")
            return 0
        good, bad = verify(options.dir)
    except BundleError as error:
        print(error, file=sys.stderr)
        return 1
    for line in good:
        print(f"OK    {line}")
    for line in bad:
        print(f"WRONG {line}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
