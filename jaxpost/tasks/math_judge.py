"""math-verify behind a time limit that always holds: in a child process, from any thread, never raising on what a text says.

math-verify limits its time by SIGALRM, which works in the main thread alone and never inside a power of large integers. Here a
child (`math_worker`) answers; a child that does not answer in time is ended, and the next question starts another.
"""

import atexit
import functools
import importlib.util
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

SECONDS = 5.0  # of one question
GRACE = 1.0  # beyond them, before the child is ended
START = 120.0  # of a child, which imports sympy
VERDICTS = ("right", "wrong", "unreadable", "timeout")
MISSING = ("verifiers 'math' and 'math_verify' need the package math-verify: pip install 'jaxpost[hf]' (or pip install "
           "'math-verify[antlr4_13_2]'); the verifier 'exact' needs nothing")


def require() -> None:
    """Raises: ValueError with the command where math-verify is not installed."""
    if importlib.util.find_spec("math_verify") is None:
        raise ValueError(MISSING)


class _Child:
    """One child process and the text it has sent."""

    def __init__(self):
        self.owner = os.getpid()
        self.process = subprocess.Popen([sys.executable, "-P", str(Path(__file__).with_name("math_worker.py"))],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        env={**os.environ, "PYTHONIOENCODING": "utf-8"})
        self.rest = b""
        hello = self.line(START)
        if hello is None or "ready" not in hello:
            self.end()
            why = (hello or {}).get("error", "its process does not start")
            raise ValueError(f"math-verify cannot be used: {why}; {MISSING}")

    def line(self, seconds: float) -> dict | None:
        """The next answer; None if there is none in time."""
        until, descriptor = time.monotonic() + seconds, self.process.stdout.fileno()
        while b"\n" not in self.rest:
            if not select.select([descriptor], [], [], max(until - time.monotonic(), 0))[0]:
                return None
            if not (more := os.read(descriptor, 65536)):
                return None
            self.rest += more
        answer, self.rest = self.rest.split(b"\n", 1)
        return json.loads(answer)

    def ask(self, how: str, texts: tuple[str, str], seconds: float) -> str | None:
        try:
            question = json.dumps({"how": how, "texts": texts, "seconds": seconds}) + "\n"
            self.process.stdin.write(question.encode())
            self.process.stdin.flush()
        except OSError:
            return None
        answer = self.line(seconds + GRACE)
        return None if answer is None else answer["verdict"]

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            try:
                stream.close()
            except OSError:
                pass


_lock = threading.Lock()
_child: _Child | None = None


def verdict(how: str, left: str, right: str, seconds: float = SECONDS) -> str:
    """One of VERDICTS about two texts; equal questions are answered once, except those that ran out of time.

    Args:
      how: "latex" for two expressions that are whole; "math_verify" for a gold answer and a text that the package searches.

    Raises:
      ValueError: the package is missing or does not start.
    """
    try:
        return _known(how, left, right, seconds)
    except TimeoutError:
        return "timeout"


@functools.lru_cache(maxsize=20_000)
def _known(how: str, left: str, right: str, seconds: float) -> str:
    global _child
    with _lock:
        if _child is None or _child.owner != os.getpid() or _child.process.poll() is not None:
            require()
            _child = _Child()
        verdict = _child.ask(how, (left, right), seconds)
        if verdict is None:
            _child.end()
            _child = None
    if verdict in (None, "timeout"):
        raise TimeoutError
    return verdict


@atexit.register
def close() -> None:
    """End the child."""
    global _child
    if _child is not None and _child.owner == os.getpid():
        _child.end()
    _child = None
