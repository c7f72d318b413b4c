"""What measuring costs: `python -m experiments.prices rlvr_sparsity` prints every probe and preset priced on a config's model.

Seconds are predicted from the counted operations of the programs and the schedule of the config; nothing is trained.
"""

import argparse
import sys

from rich.console import Console

from experiments.harness import probing
from experiments.harness.command import refuse
from experiments.harness.errors import UserError
from jaxpost.probes import page as document


def main(arguments: list[str] | None = None) -> int:
    """Print; returns the exit code: 2 for a config that is not known or chooses no probes."""
    parser = argparse.ArgumentParser(prog="python -m experiments.prices", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="name, name:argument or path/to/mine.py")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        seconds, lines, step = probing.prices_of(options.config)
    except UserError as error:
        return refuse(error, error.exit_code)
    console.print(document.catalogue(seconds, options.config))
    console.print(document.price_table(lines, step))
    return 0


if __name__ == "__main__":
    sys.exit(main())
