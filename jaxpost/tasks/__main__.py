"""`python -m jaxpost.tasks [--markdown | NAME [OPTION=VALUE ...]]`: the families, the page docs/tasks.md, or problems of one.

    python -m jaxpost.tasks countdown "style=backtrack(2)" numbers=4

`freeze` writes problems to a TFDS data set, and `frozen` reads one, checks its digests and draws the problems once more:

    python -m jaxpost.tasks freeze countdown numbers=4 --split id=512 --split ood/target=512 --seed 1 --out sets
    python -m jaxpost.tasks frozen sets/frozen/countdown-4adec223/1.0.0
"""

import argparse
import ast
import inspect
import logging
import sys

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxpost import lookup, tasks
from jaxpost.plain_text import visible
from jaxpost.tasks import document

PROGRAM = "python -m jaxpost.tasks"


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise ValueError(f"{message}; see {self.prog} --help")


def main(arguments: list[str]) -> int:
    """Print; returns the exit code: 1 for a set whose family draws other problems today, 2 for bad input, said in one line."""
    try:
        return _sets(arguments) if arguments[:1] in (["freeze"], ["frozen"]) else _families(arguments)
    except ValueError as error:
        print("error: " + visible(" ".join(str(error).split())), file=sys.stderr)
        return 2


def _families(arguments: list[str]) -> int:
    """List the families, or show problems of one."""
    parser = _Parser(prog=PROGRAM, description=__doc__, allow_abbrev=False,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="print the page docs/tasks.md")
    parser.add_argument("family", nargs="?", metavar="NAME", help="freeze, frozen, or the family of which problems are shown")
    parser.add_argument("options", nargs="*", metavar="OPTION=VALUE", help="of the family")
    given = parser.parse_args(arguments)
    if given.markdown and given.family:
        raise ValueError(f"--markdown and {given.family!r}: expected one of them")
    if given.markdown:
        print(document.markdown(), end="")
    elif given.family:
        lookup.find("task or command", given.family, {**tasks.FAMILIES, "freeze": None, "frozen": None})
        _show(tasks.get(given.family, **_values("option", given.options)))
    else:
        view = Table("family", "what", "splits", "paper", title="task families")
        for name, make in tasks.FAMILIES.items():
            view.add_row(name, document.title(inspect.getmodule(make)), ", ".join(tasks.get(name).splits), document.paper(make))
        _console().print(view)
    return 0


def _show(task: tasks.Task) -> None:
    """Three problems of every split."""
    console = _console()
    for split in task.splits:
        batch = tasks.examples(task, split, np.arange(3, dtype=np.uint32))
        for prompt, answer in zip(batch.prompt_NxP, batch.answer_NxT):
            line = f"{split}  {tasks.to_text(task, prompt)}  {tasks.to_text(task, answer)}"
            console.print(line, markup=False, highlight=False)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 160)


def _sets(arguments: list[str]) -> int:
    """Write or read a frozen set; returns the exit code."""
    parser = _Parser(prog=PROGRAM, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("freeze", help="write problems of a family to a TFDS data set", allow_abbrev=False)
    write.add_argument("family")
    write.add_argument("options", nargs="*", metavar="OPTION=VALUE")
    write.add_argument("--split", action="append", required=True, metavar="SPLIT=COUNT")
    write.add_argument("--seed", type=int, default=0, help="which problems; 0: those that runs evaluate on")
    write.add_argument("--out", required=True, metavar="DIR")
    check = commands.add_parser("frozen", help="check a set and compare it with what its family draws", allow_abbrev=False)
    check.add_argument("directory")
    given = parser.parse_args(arguments)
    from jaxpost.tasks import frozen  # imports TFDS, which is slow

    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS warns of every set that its own registry does not know
    if given.command == "freeze":
        sizes, options = _values("split", given.split), _values("option", given.options)
        directory = frozen.freeze(given.out, given.family, sizes, given.seed, options)
    else:
        directory = given.directory
    by_split, changed = frozen.compared(str(directory))
    print(directory)
    for split, drawn in by_split.items():
        state = "is not what the family draws today" if split in changed else "is what the family draws"
        print(f"{split:16} {len(drawn.prompt_NxP):7,} problems, digest {drawn.digest[:12]}, {state}")
    return 1 if changed else 0


def _values(what: str, pairs: list[str]) -> dict[str, object]:
    """{name: value} of texts NAME=VALUE; a value that is no Python literal is text.

    Raises: ValueError: no such pair, or a name twice.
    """
    values = {}
    for text in pairs:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{what} {text!r}: expected NAME=VALUE")
        if name in values:
            raise ValueError(f"{what} {name!r}: given twice, as {values[name]!r} and as {value}; expected once")
        values[name] = _literal(value)
    return values


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):  # all that it raises for what is no literal
        return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
