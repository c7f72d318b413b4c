"""`python -m jaxpost.tasks [--markdown | NAME [OPTION=VALUE ...]]`: the families, the page docs/tasks.md, or problems of one.

    python -m jaxpost.tasks countdown "style=backtrack(2)" numbers=4

`freeze` writes problems to a TFDS data set, and `frozen` reads one, checks its digests and draws the problems once more:

    python -m jaxpost.tasks freeze countdown numbers=4 --split id=512 --split ood/target=512 --seed 1 --out sets
    python -m jaxpost.tasks frozen sets/frozen/countdown-2bd408a3/1.0.0
"""

import argparse
import ast
import inspect
import logging
import sys

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxpost import tasks
from jaxpost.tasks import document


def main(arguments: list[str]) -> int:
    """Print; returns the exit code: 2 for an unknown family, option or value."""
    if arguments == ["--markdown"]:
        print(document.markdown(), end="")
        return 0
    if arguments[:1] == ["freeze"] or arguments[:1] == ["frozen"]:
        return _sets(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    if not arguments:
        view = Table("family", "what", "splits", "paper", title="task families")
        for name, make in tasks.FAMILIES.items():
            view.add_row(name, document.title(inspect.getmodule(make)), ", ".join(tasks.get(name).splits), document.paper(make))
        console.print(view)
        return 0
    try:
        task = tasks.get(arguments[0], **dict(_option(text) for text in arguments[1:]))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for split in task.splits:
        batch = tasks.examples(task, split, np.arange(3, dtype=np.uint32))
        for prompt, answer in zip(batch.prompt_NxP, batch.answer_NxT):
            line = f"{split}  {tasks.to_text(task, prompt)}  {tasks.to_text(task, answer)}"
            console.print(line, markup=False, highlight=False)
    return 0


def _sets(arguments: list[str]) -> int:
    """Write or read a frozen set; returns the exit code: 1 where the family draws other problems today, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m jaxpost.tasks")
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("freeze", help="write problems of a family to a TFDS data set")
    write.add_argument("family")
    write.add_argument("options", nargs="*", metavar="OPTION=VALUE")
    write.add_argument("--split", action="append", required=True, metavar="SPLIT=COUNT")
    write.add_argument("--seed", type=int, default=0, help="which problems; 0: those that runs evaluate on")
    write.add_argument("--out", required=True, metavar="DIR")
    commands.add_parser("frozen", help="check a set, and compare it with what its family draws today").add_argument("directory")
    given = parser.parse_args(arguments)
    from jaxpost.tasks import frozen  # imports TFDS, which is slow

    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS warns of every set that its own registry does not know
    try:
        if given.command == "freeze":
            sizes, options = (dict(map(_option, pairs)) for pairs in (given.split, given.options))
            directory = frozen.freeze(given.out, given.family, sizes, given.seed, **options)
        else:
            directory = given.directory
        found, changed = frozen.compared(str(directory))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(directory)
    for split, drawn in found.items():
        state = "is not what the family draws today" if split in changed else "is what the family draws"
        print(f"{split:16} {len(drawn.prompt_NxP):7,} problems, digest {drawn.digest[:12]}, {state}")
    return 1 if changed else 0


def _option(text: str) -> tuple:
    """(name, value) of NAME=VALUE; a value that is no Python literal is text. Raises: ValueError without an equals sign."""
    name, found, value = text.partition("=")
    if not found:
        raise ValueError(f"{text!r}: expected NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
