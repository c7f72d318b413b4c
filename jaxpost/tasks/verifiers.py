"""Verifiers that run on the host: (problem, text) -> reward in [0, 1].

A verifier extracts the answer of a text and compares it with the problem's target. All of them are total: whatever the
text, they return a number, never raise, and give 0 to a text without an answer.
"""

import dataclasses
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxpost.tasks import math_answers
from jaxpost.tasks.base import nearest


class Problem(NamedTuple):
    """One row of a text data set."""

    prompt: str
    answer: str  # what a demonstration shows
    target: str  # what a verifier compares with; the answer itself where the data have no field of their own


@dataclasses.dataclass(frozen=True)
class Verifier:
    """`reward` is 1 where `same(target, extract(text))`, else 0."""

    name: str
    extract: Callable[[str], str | None]
    same: Callable[[str, str], bool]

    def target(self, text: str) -> str | None:
        """What is compared with: the target's answer, or the whole of a target that has none of the usual forms."""
        return text.strip() or None

    def reward(self, problem: Problem, text: str) -> float:
        """0.0 or 1.0. No answer, no target: 0."""
        answer, target = self.extract(text), self.target(problem.target)
        return float(bool(answer) and bool(target) and self.same(target, answer))


class _Mathematical(Verifier):
    """A target may be a worked solution that ends in its answer, or the answer alone."""

    def target(self, text: str) -> str | None:
        if "\\boxed" in text or "\\fbox" in text or "####" in text:
            return math_answers.final_answer(text)
        whole = math_answers.plain(text)
        if len(whole) <= math_answers.SYMBOLS and not re.search(r"\w \w", whole):
            return whole or None
        return math_answers.final_answer(text) or whole


def normal(text: str) -> str | None:
    """Unicode NFC, runs of white space as one space, none at the ends; case and punctuation count. None if nothing is left."""
    return " ".join(unicodedata.normalize("NFC", text).split()) or None


def _math_verify() -> Verifier:
    """The package math-verify (LaTeX read by ANTLR, compared by sympy), five seconds at most for each of the two."""
    try:
        import math_verify  # optional: the extra "hf"
    except ImportError as error:
        raise ValueError("verifier 'math_verify' needs the package math-verify: pip install 'jaxpost[hf]' (or pip install "
                         "math-verify); the verifier 'math' needs nothing") from error

    def same(target: str, text: str) -> bool:
        try:
            gold = math_verify.parse(target if "\\boxed" in target or "$" in target else f"${target}$")
            return bool(gold) and bool(math_verify.verify(gold, math_verify.parse(text)))
        except Exception:  # a parser of foreign text may fail in any way; that is no answer
            return False

    return Verifier("math_verify", lambda text: text.strip() or None, same)


_MAKERS: dict[str, Callable[[], Verifier]] = {
    "exact": lambda: Verifier("exact", normal, lambda target, text: normal(target) == text),
    "math": lambda: _Mathematical("math", math_answers.final_answer, math_answers.same),
    "math_verify": _math_verify,
}


def names() -> list[str]:
    """The verifiers."""
    return list(_MAKERS)


def get(name: str) -> Verifier:
    """The verifier of a name.

      exact        the whole text, after `normal`
      math         the final answer (`math_answers.final_answer`), compared by value; needs no package, takes bounded time
      math_verify  the package math-verify, which knows more notation and is slower; it limits its time by SIGALRM, hence only
                   in the main thread

    Raises:
      ValueError: an unknown name (the nearest is named), or a package that is not installed (with the command).
    """
    if name not in _MAKERS:
        raise ValueError(nearest("verifier", name, list(_MAKERS)))
    return _MAKERS[name]()


def guess(verifier: Verifier, problems: Sequence[Problem]) -> float:
    """Mean reward of the best constant answer among the four most frequent targets: what needs no problem to be read."""
    counts = Counter(target for problem in problems if (target := verifier.target(problem.target)))
    found = [sum(n for target, n in counts.items() if verifier.same(target, said)) for said, _ in counts.most_common(4)]
    return max(found, default=0) / max(len(problems), 1)
