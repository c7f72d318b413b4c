"""A progress bar in bytes: how fast, how long still."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from jaxpost.compare import passes
from jaxpost.plain_text import visible


@contextlib.contextmanager
def watching(prepared) -> Iterator[Callable]:
    """`advance(pair, bytes)` that draws a bar on stderr: bytes of all sides, their rate, time left; none without a terminal."""
    console = Console(file=sys.stderr)
    total = sum(passes.bytes_of(prepared.job, pair) for pair in prepared.pairing.pairs)
    if not console.is_terminal:
        yield lambda pair, size: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TextColumn("ETA"),
               TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("comparing", total=total)
        yield lambda pair, size: bar.update(task, advance=size, description=escape(visible(pair.name)))
