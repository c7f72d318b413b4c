"""A verifier of the user's own: a Python file with a function `reward(prompt, answer, target)` that returns a number in [0, 1].

    def reward(prompt: str, answer: str, target: str) -> float:
        return float(answer.strip().lower() == target.lower())

The file is executed: load only what you trust. Its digest is part of the verifier's name, so that a run which is taken up again
notices another file.
"""

import dataclasses
import hashlib
import importlib.util
import math
import numbers
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxpost.tasks.verifiers import Problem, Verifier, VerifierError

FUNCTION = "reward"


@dataclasses.dataclass(frozen=True)
class FileVerifier(Verifier):
    """The reward is what the file's function says of a prompt, an answer and its target."""

    function: Callable[[str, str, str], float]

    def reward(self, problem: Problem, text: str) -> float:
        """The function's number. Raises: VerifierError: it raised, or gave no number in [0, 1]."""
        given = (problem.prompt, text, problem.target)
        call = f"verifier {self.name}: {FUNCTION}({', '.join(repr(part[:60]) for part in given)})"
        try:
            value = self.function(*given)
        except (Exception, SystemExit) as error:  # a user's code raises anything, and a script exits
            raise VerifierError(f"{call} raised {type(error).__name__}: {error}") from error
        value = value.item() if isinstance(value, np.generic) else value
        if not isinstance(value, numbers.Real) or not math.isfinite(value) or not 0 <= value <= 1:
            raise VerifierError(f"{call} returned {value!r}, expected a number from 0 to 1")
        return float(value)

    def accepted(self, problems: Sequence[Problem], counts: Mapping[str, int], text: str) -> float:
        """Problem by problem: the function may read the prompt."""
        return sum(self.reward(problem, text) for problem in problems)


def load(path: str | Path) -> FileVerifier:
    """The verifier of a Python file.

    Raises:
      ValueError: no such file, a file that does not load, or one without the function.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"verifier {str(path)!r}: no such file; a verifier of your own is a Python file with a function "
                         f"{FUNCTION}(prompt, answer, target)")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    spec = importlib.util.spec_from_file_location(f"jaxpost_verifier_{digest}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's code raises anything, and a script exits
        del sys.modules[spec.name]
        raise ValueError(f"verifier {str(path)!r} does not load: {type(error).__name__}: {error}") from error
    function = getattr(module, FUNCTION, None)
    if not callable(function):
        raise ValueError(f"verifier {str(path)!r} has no function {FUNCTION}(prompt, answer, target)")
    return FileVerifier(f"{path.name}:{digest}", extract=str, same=str.__eq__, function=function)
