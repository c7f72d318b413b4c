"""Arithmetic word problems of graded difficulty, with templates and operands that training never shows.

    {"prompt": "Tom has 7 apples and buys 5 more:", "answer": " 7 + 5 = 12", "target": "12", "level": 1, "template": "buys"}

Level 1 adds or subtracts numbers of one digit, level 2 begins with a number from 10 to 20. An answer is one line: an equation,
of which only the result is verified. SHOTS shows the form; a model of this size answers in sentences without it.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

VERSION = 1
SHOTS = "Ann has 3 cups and gets 4 more: 3 + 4 = 7\nBen has 8 pens and loses 2: 8 - 2 = 6\n"  # before every prompt
NAMES = ("Tom", "Mia", "Sam", "Eva", "Max", "Lily", "Paul", "Nina")
THINGS = ("apples", "books", "coins", "cards", "eggs", "shells", "balls", "stamps")
# name -> (text, sign of the second operand)
TEMPLATES = {
    "gets": ("{name} has {a} {things} and gets {b} more:", 1),
    "buys": ("{name} has {a} {things} and buys {b} more:", 1),
    "finds": ("{name} had {a} {things} and then found {b} more:", 1),
    "loses": ("{name} has {a} {things} and loses {b}:", -1),
    "sells": ("{name} has {a} {things} and sells {b}:", -1),
    "gives": ("{name} had {a} {things} and gave {b} away:", -1),
}
HELD_OUT_TEMPLATES = {
    "put": ("There are {a} {things} in a box and {name} puts in {b} more:", 1),
    "wins": ("After a game {name}, who had {a} {things}, has won {b}:", 1),
    "took": ("There are {a} {things} in a box and {name} takes out {b}:", -1),
    "breaks": ("Of the {a} {things} of {name} {b} break:", -1),
}
HELD_OUT_LEVEL = 3
LEVELS = {1: range(2, 10), 2: range(10, 21), HELD_OUT_LEVEL: range(30, 61)}  # level -> first operands; the second: 2 to 9
SECOND = range(2, 10)


@dataclasses.dataclass(frozen=True)
class Split:
    """A file of problems: `count` of them, drawn without repetition."""

    name: str
    count: int
    templates: tuple[str, ...]
    levels: tuple[int, ...]


SPLITS = (Split("evaluate", 256, tuple(TEMPLATES), (1, 2)), Split("train", 4096, tuple(TEMPLATES), (1, 2)),
          Split("templates", 256, tuple(HELD_OUT_TEMPLATES), (1, 2)),
          Split("operands", 256, tuple(TEMPLATES), (HELD_OUT_LEVEL,)))


def problem(template: str, name: str, things: str, a: int, b: int, level: int) -> dict:
    """One record; subtraction never goes below zero (the larger operand stands first)."""
    text, sign = (TEMPLATES | HELD_OUT_TEMPLATES)[template]
    a, b = (max(a, b), min(a, b)) if sign < 0 else (a, b)
    result = str(a + sign * b)
    return {"prompt": text.format(name=name, things=things, a=a, b=b), "target": result, "level": level, "template": template,
            "answer": f" {a} {'+' if sign > 0 else '-'} {b} = {result}"}


def split(of: Split, taken: Sequence[dict] = ()) -> list[dict]:
    """The problems of a split, in a fixed order; levels and templates in equal parts, none of the prompts `taken`."""
    rng = np.random.default_rng([VERSION, *of.name.encode()])
    cells = itertools.cycle(itertools.product(of.levels, of.templates))
    seen, records = {record["prompt"] for record in taken}, []
    while len(records) < of.count:
        level, template = next(cells)
        made = problem(template, rng.choice(NAMES), rng.choice(THINGS), int(rng.choice(LEVELS[level])), int(rng.choice(SECOND)),
                       level)
        if made["prompt"] not in seen:
            seen.add(made["prompt"])
            records.append(made)
    return records


def splits() -> dict[str, list[dict]]:
    """{name: problems}; no prompt is in two of them."""
    out: dict[str, list[dict]] = {}
    for of in SPLITS:
        out[of.name] = split(of, [record for records in out.values() for record in records])
    return out


def digest(by_split: dict[str, list[dict]]) -> str:
    """SHA-256 of the records of all splits, as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(by_split, sort_keys=True).encode()).hexdigest()


def write(directory: Path) -> str:
    """Write DIR/<split>.jsonl for every split; returns the digest."""
    by_split = splits()
    for name, records in by_split.items():
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return digest(by_split)
