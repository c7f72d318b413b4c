"""Compare two or more checkpoints: `python -m jaxpost.compare BASE TUNED [TUNED_B ...] --out report/`; prints what it found.

The same command continues a run that was killed, and with a finished directory prints its rows or checks them.
Exit codes: 0 done; 1 a figure of --expect is missed; 2 bad input, directory or disk, said in one line.
"""

import argparse
import json
import signal
import sys

from jaxpost import records
from jaxpost.compare import comparison, expect
from jaxpost.compare.errors import CompareError
from jaxpost.compare.output import FORMATS, written
from jaxpost.compare.progress import watching
from jaxpost.formats import FormatError
from jaxpost.formats.names import UnknownArchitecture, read_rules
from jaxpost.plain_text import visible

_UNITS = {"": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9, "k": 2**10, "m": 2**20,
          "g": 2**30}


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise CompareError(f"{message}; see python -m jaxpost.compare --help")


def bytes_of(text: str) -> int:
    """A size such as "2GiB" or "1500M" in bytes. Raises: CompareError."""
    number = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text[len(number):].strip().lower()
    try:
        return int(float(number) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise CompareError(f"--memory {text!r} is no size; expected for example 2GiB") from None


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options. Raises: CompareError."""
    parser = _Parser(prog="python -m jaxpost.compare", description=__doc__, allow_abbrev=False,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="safetensors file or directory, or Orbax checkpoint")
    parser.add_argument("tuned", nargs="+", help="one or more checkpoints tuned from it")
    parser.add_argument("--out", help="directory of the report (default: none with --format, else reports/PAIR)")
    parser.add_argument("--level", choices=tuple(comparison.LEVELS), default="top",
                        help="element: counts and norms, one pass over the files; top (default): and leading subspaces, "
                        "stripes; exact: and all singular values, with drawn nulls")
    parser.add_argument("--exact", action="store_const", dest="level", const="exact", help="short for --level exact")
    parser.add_argument("--map", help="JSON list of renaming rules (formats.names.read_rules)")
    parser.add_argument("--allow-unpaired", action="store_true",
                        help="leave out what only one side has, cut padded vocabularies")
    parser.add_argument("--memory", default="2GiB", help="bound of the process's memory (default 2GiB)")
    parser.add_argument("--expect", help="JSON file of published figures to check (expected/*.json)")
    parser.add_argument("--format", choices=tuple(FORMATS), help="write the rows to stdout in this format")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    try:
        return _run(parse(sys.argv[1:] if arguments is None else arguments))
    except UnknownArchitecture as error:
        print(json.dumps(error.starter, indent=1, ensure_ascii=True))
        return _say(f"{error}; a starter was printed with every unmatched tensor at its nearest place, by guess: save it, "
                    "check names and transpose (true where [outputs, inputs] is stored), give it as --map FILE")
    except (CompareError, FormatError, records.BundleError) as error:
        return _say(error)
    except OSError as error:
        return _say(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}; what was finished is kept: "
                    "run the same command again")
    except KeyboardInterrupt:
        return _say("stopped; what was finished is kept: run the same command again") + 73


def _say(error: object) -> int:
    print("error: " + visible(" ".join(str(error).split())), file=sys.stderr)
    return 2


def _run(options: argparse.Namespace) -> int:
    for name in ("out", "map", "expect"):
        if getattr(options, name) == "":
            raise CompareError(f"--{name} is empty; expected a path")
    expected = expect.read(options.expect) if options.expect else None
    rules = tuple(read_rules(options.map)) if options.map else ()
    settings = comparison.Settings(options.level, bytes_of(options.memory), options.allow_unpaired, rules)
    if options.out is None and options.format:
        result = comparison.compare(options.base, *options.tuned, level=options.level, map_file=options.map,
                                    memory=settings.memory, allow_unpaired=settings.allow_unpaired)
        table, headline = result.rows, result.headline().splitlines()
    else:
        out = comparison.run(options.base, options.tuned, options.out, settings, watching)
        table, headline = records.read_measurements(out), records.headline(out)
    piped = options.format or expected  # stdout belongs to the rows or the check
    print("\n".join(headline), file=sys.stderr if piped else sys.stdout)
    if options.format:
        sys.stdout.flush()
        sys.stdout.buffer.write(written(table, options.format))
    if expected is not None:
        lines, passed = expect.check(table, expected)
        print("\n".join(lines))
        return 0 if passed else 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    sys.exit(main())
