"""The compiler's alarms about slow constant folding and slow compilation go to a file of the run, not to the terminal.

XLA writes them to file descriptor 2, from C++ and with the whole instruction. A process of its own reads that descriptor while
a run lasts, so that nothing is lost when this one is ended or aborts: lines of an alarm go to the log, all others to the
terminal at once. Python's own messages go past it. Where JAX's runtime ends a process of a run of several, because another one
is gone, its pages about that go to the log too, and one line says so.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

NAME = "compiler.log"
_ALARM = re.compile(rb"slow_operation_alarm\.cc")
_LOST = re.compile(rb"^[EF]\d{4} .*(coordination_service|client\.h:\d+\] Terminating process because the JAX distributed)")
_ENDED = re.compile(rb"^F.*Terminating process because the JAX distributed")
_HEADER = re.compile(rb"^(\d{4}-\d\d-\d\d |[IWEF]\d{4} |WARNING: |Traceback |Fatal )")
_PART = re.compile(rb"^\s*$|^\s+[%(]|^\s*%|^This isn't necessarily a bug|^Constant folding an instruction|^The operation took"
                   rb"|^\*{8,}|^\[Compiling module|^Very slow compile|^If you'd like to file a bug")


class CompilerLog:
    """Context in which alarms of the compiler are written to `path`, whose folder may appear later.

    When it ends, one line on stderr says how many there were. Where standard error is no file descriptor nothing is done.
    """

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> CompilerLog:
        self._reader = None
        try:
            self._terminal = os.dup(2)
        except OSError:
            return self
        sys.stderr.flush()
        self._reader = subprocess.Popen([sys.executable, "-S", "-E", __file__, str(self.path)], stdin=subprocess.PIPE,
                                        stdout=subprocess.DEVNULL, start_new_session=True)
        os.dup2(self._reader.stdin.fileno(), 2)
        self._reader.stdin.close()
        self._python = sys.stderr
        if sys.stderr is sys.__stderr__:
            sys.stderr = open(self._terminal, "w", buffering=1, errors="backslashreplace", closefd=False)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._reader is None:
            return
        sys.stderr.flush()
        sys.stderr = self._python
        os.dup2(self._terminal, 2)
        os.close(self._terminal)
        try:
            self._reader.wait(timeout=5)
        except subprocess.TimeoutExpired:  # a process that this one started holds the descriptor; the reader ends with it
            pass


def separate(lines: Iterable[bytes]) -> Iterable[tuple[bool, bytes]]:
    """(whether it belongs to an alarm or to the end of another process, line) of every line.

    An alarm ends at the first line that is no part of one, the other at the first line of another message.
    """
    alarm = lost = False
    for line in lines:
        if _ALARM.search(line):
            alarm, lost = True, False
        elif _LOST.match(line):
            alarm, lost = False, True
        elif _HEADER.match(line):
            alarm = lost = False
        elif alarm and not _PART.match(line):
            alarm = False
        yield alarm or lost, line


def pump(source: BinaryIO, terminal: BinaryIO, path: Path) -> int:
    """Copy `source` to its end: alarms to the log, the rest to the terminal. Returns the number of alarms.

    Alarms before the run has its folder wait; where it never gets one they go to the terminal.
    """
    waiting, alarms, ended = [], 0, False
    for kept, line in separate(iter(source.readline, b"")):
        if _ENDED.match(line) and not ended:
            ended = True
            terminal.write(b"error: another process of this run ended or fell silent, so this one ends; what was saved is "
                           b"kept: start all of them again with the same command\n")
            terminal.flush()
        if not kept:
            terminal.write(line)
            terminal.flush()
            continue
        alarms += bool(_ALARM.search(line))
        waiting.append(line)
        if path.parent.is_dir():
            with path.open("ab") as log:
                log.writelines(waiting)
            waiting = []
    terminal.writelines(waiting)
    if alarms and not waiting:
        terminal.write(f"note: the compiler said {alarms} times that it was slow: {path}\n".encode())
    terminal.flush()
    return alarms


if __name__ == "__main__":
    pump(sys.stdin.buffer, sys.stderr.buffer, Path(sys.argv[1]))
