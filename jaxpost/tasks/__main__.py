"""`python -m jaxpost.tasks [--markdown | NAME [OPTION=VALUE ...]]`: the families, the page docs/tasks.md, or problems of one.

    python -m jaxpost.tasks countdown "style=backtrack(2)" numbers=4
"""

import ast
import inspect
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


def _option(text: str) -> tuple:
    """(name, value) of NAME=VALUE; a value that is no Python literal is text. Raises: ValueError without an equals sign."""
    name, found, value = text.partition("=")
    if not found:
        raise ValueError(f"{text!r}: expected OPTION=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
