"""Verifiers that run on the host: (problem, text) -> reward in [0, 1].

A verifier extracts the answer of a text and compares it with the problem's target. All of them are total: whatever the
text, they return a number, never raise, and give 0 to a text without an answer.
"""

import dataclasses
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jaxpost.lookup import nearest
from jaxpost.tasks import math_answers, math_judge

WHOLE = 200  # characters of a text that may itself be the answer, without a box


class VerifierError(ValueError):
    """A verifier of the user's raised, or gave no reward."""


class Problem(NamedTuple):
    """One row of a text data set."""

    prompt: str
    answer: str  # what a demonstration shows
    target: str  # what a verifier compares with; the answer itself where the data have no field of their own
    before: tuple[tuple[str, str], ...] = ()  # (role, text) of the turns of a conversation before the prompt


@dataclasses.dataclass(frozen=True)
class Verifier:
    """`reward` is 1 where `same(target, extract(text))`, else 0."""

    name: str
    extract: Callable[[str], str | None]
    same: Callable[[str, str], bool]

    def target(self, text: str) -> str | None:
        """What is compared with: the target's answer, or the whole of a target that has none of the usual forms."""
        return text.strip() or None

    def accepted(self, problems: Sequence[Problem], counts: Mapping[str, int], text: str) -> float:
        """The sum of rewards that one text gets over all problems; `counts` says how often each target stands there."""
        del problems
        return sum(n for target, n in counts.items() if self.same(target, text))

    def reward(self, problem: Problem, text: str) -> float:
        """0.0 or 1.0. No answer, no target: 0."""
        answer, target = self.extract(text), self.target(problem.target)
        return float(bool(answer) and bool(target) and self.same(target, answer))


@dataclasses.dataclass(frozen=True)
class Mathematical(Verifier):
    """Right if the text's final answer, or the text as a whole, equals the gold answer.

    A target that is a worked solution ends in its answer, in a box or after "####"; any other target is the answer itself and
    is compared whole: searching "13 and 17" for an answer would find 17.
    """

    def target(self, text: str) -> str | None:
        if "\\boxed" in text or "\\fbox" in text or "####" in text:
            return math_answers.final_answer(text) or text.strip() or None
        return text.strip() or None

    def reward(self, problem: Problem, text: str) -> float:
        gold, whole = self.target(problem.target), text.strip()
        if not gold or not whole:
            return 0.0
        inner = re.fullmatch(r"\\boxed\s*\{(.*)\}", whole, re.DOTALL)
        if gold in (whole, inner and inner[1].strip()):
            return 1.0
        answer = self.extract(whole)
        marked = any(mark in whole for mark in ("\\boxed", "\\fbox", "####"))
        if not marked and len(whole) <= WHOLE and answer != whole:
            if self.same(gold, whole):
                return 1.0
            if math_answers.is_expression(whole):  # 5 km is not 5 with something around it
                return 0.0
        return float(bool(answer) and self.same(gold, answer))


def normal(text: str) -> str | None:
    """Unicode NFC, runs of white space as one space, none at the ends; case and punctuation count. None if nothing is left."""
    return " ".join(unicodedata.normalize("NFC", text).split()) or None


def _math() -> Verifier:
    math_judge.require()
    return Mathematical("math", math_answers.final_answer, math_answers.same)


def _math_verify() -> Verifier:
    """The package math-verify alone: it searches the text, and the target too unless it is one formula."""
    math_judge.require()
    return Verifier("math_verify", lambda text: text.strip() or None,
                    lambda target, text: math_judge.verdict("math_verify", target, text) == "right")


_MAKERS: dict[str, Callable[[], Verifier]] = {
    "exact": lambda: Verifier("exact", normal, lambda target, text: normal(target) == text),
    "math": _math,
    "math_verify": _math_verify,
}


def names() -> list[str]:
    """The verifiers."""
    return list(_MAKERS)


def get(name: str) -> Verifier:
    """The verifier of a name.

      exact        the whole text, after `normal`
      math         the final answer, compared part by part (`math_answers`); math-verify reads and judges expressions
      math_verify  the package math-verify alone, as it comes

    The last two need the package math-verify (extra "hf"). They ask a process of their own, which answers within
    `math_judge.SECONDS` or is ended: what takes longer scores 0.

    Raises:
      ValueError: an unknown name (the nearest is named), or a package that is not installed (with the command).
    """
    if name not in _MAKERS:
        raise ValueError(f"unknown verifier {name!r}{nearest(name, _MAKERS)}")
    return _MAKERS[name]()


def guess(verifier: Verifier, problems: Sequence[Problem]) -> float:
    """Mean reward of the best constant answer among the four most frequent targets: what needs no problem to be read."""
    counts = Counter(target for problem in problems if (target := verifier.target(problem.target)))
    accepted = [verifier.accepted(problems, counts, constant) for constant, _ in counts.most_common(4)]
    return max(accepted, default=0) / max(len(problems), 1)
