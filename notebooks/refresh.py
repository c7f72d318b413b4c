"""Execute notebooks from a clone and keep their outputs: `python -m notebooks.refresh [NAME ...]`, all of them without a name.

The first code cell becomes `first_cell.py`. Whatever depends on the machine (execution times, absolute paths) is not kept.
"""

import argparse
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from jaxpost.lookup import nearest

HERE = Path(__file__).resolve().parent
FIRST = HERE / "first_cell.py"


def names() -> list[str]:
    """The notebooks, without their suffix."""
    return sorted(path.stem for path in HERE.glob("*.ipynb"))


def execute(path: Path, timeout: int = 600) -> nbformat.NotebookNode:
    """The notebook as a fresh kernel leaves it. Raises: nbclient's CellExecutionError where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    first_code(notebook).source = FIRST.read_text(encoding="utf-8").rstrip()
    NotebookClient(notebook, timeout=timeout, record_timing=False, resources={"metadata": {"path": str(path.parent)}}).execute()
    return notebook


def first_code(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The first cell of code: the one that installs."""
    return next(cell for cell in notebook.cells if cell.cell_type == "code")


def without_paths(notebook: nbformat.NotebookNode) -> None:
    """Cut the clone's place out of everything that was printed."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "text" in output:
                output.text = output.text.replace(f"{HERE.parent}/", "")


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m notebooks.refresh", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names()))
    chosen = parser.parse_args(arguments).names or names()
    for name in sorted(set(chosen) - set(names())):
        parser.error(f"notebook {name!r} is not known{nearest(name, names())}")
    for name in chosen:
        begun = time.monotonic()
        notebook = execute(HERE / f"{name}.ipynb")
        without_paths(notebook)
        notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                             "language_info": {"name": "python"}}
        nbformat.write(notebook, HERE / f"{name}.ipynb")
        print(f"{name}: {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
