"""Printing to a reader who may leave."""

import os
import sys


def show(text: str) -> None:
    """Print a text of which the reader of a pipe, such as `head`, may want the beginning alone."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
