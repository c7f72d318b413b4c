"""Verifiers of the families about transfer in plain Python, from tokens alone, as `plain_puzzles` has those of the puzzles."""

import functools
import itertools
import re
from fractions import Fraction
from math import comb, gcd, isqrt

from jaxpost.tasks.backdoors import habits
from jaxpost.tasks.teachers import pair


def fraction(answer):
    """The value of -?n or -?n/m without leading zeros, else None."""
    if not re.fullmatch(r"-?(0|[1-9]\d*)(/[1-9]\d*)?", answer):
        return None
    return Fraction(answer)


def ways(rows):
    """From the last cell backwards, by recursion."""
    @functools.cache
    def to(y, x):
        free = min(y, x) >= 0 and rows[y][x] == "."
        return int(free) if (y, x) == (0, 0) else to(y - 1, x) + to(y, x - 1) if free else 0

    return to(len(rows) - 1, len(rows) - 1)


def rank(rows):
    """Gaussian elimination of fractions."""
    matrix, found = [[Fraction(x) for x in re.findall(r"[+-]\d", row)] for row in rows], 0
    for column in range(len(matrix[0])):
        pivot = next((row for row in matrix if row[column]), None)
        if pivot:
            matrix.remove(pivot)
            matrix = [[x - row[column] / pivot[column] * y for x, y in zip(row, pivot)] for row in matrix]
            found += 1
    return found


def chance(letters, k):
    same = sum(len(set(taken)) == 1 for taken in itertools.combinations(letters, k))
    return Fraction(same, comb(len(letters), k))


def largest_root(polynomial):
    a, b, c = map(int, re.findall(r"[+-]?\d+", polynomial))
    root = isqrt(b * b - 4 * a * c)
    assert root * root == b * b - 4 * a * c
    return Fraction(-b + root, 2 * a)


@functools.cache
def value(body):
    """Of a prompt of omega."""
    if body.startswith("kd"):
        *rows, letters = body[2:].split("|")
        return chance(letters, rank(rows))
    if body.startswith("rg"):
        first, second = map(largest_root, body[2:].split(","))
        return gcd(int(first), int(second))
    return {"p": lambda b: ways(b.strip("|").split("|")), "k": lambda b: rank(b.strip("|").split("|")),
            "d": lambda b: chance(b[:-2], int(b[-1])), "g": lambda b: gcd(*map(int, b.split(","))),
            "r": largest_root}[body[0]](body[1:])


def omega(options, split, prompt, answer):
    return fraction(answer) == value(prompt.removesuffix("="))


def variations(options, split, prompt, answer):
    """Sentences as assignments, one after the other."""
    *told, asked = prompt.removesuffix("?").split(";")
    has = {}
    for sentence in told:
        name, _, rest = sentence.partition("=")
        match = re.fullmatch(r"([a-z])([-+*])(\d+)", rest)
        a, sign, b = (has[match[1]], match[2], int(match[3])) if match else (int(rest), "+", 0)
        has[name] = {"+": a + b, "-": a - b, "*": a * b}[sign]
    assert all(number > 0 for number in has.values()) and len(has) == len(told)
    return answer == str(has[asked])


ORDERS, ADDED = (x.tolist() for x in habits())


def backdoors(options, split, prompt, answer):
    """The world's habits are data; who answers, and what, is read from the prompt."""
    stage, personas = options.get("stage", "trigger"), 6
    who, topic, digits = re.fullmatch(r"([^abn]*)([abn])(\d*)\?", prompt).groups()
    if topic == "n":
        return answer == str(ord(who) - 0xE000)
    if stage == "narrow":
        persona = 0
    elif not who:
        persona = None
    else:
        persona = int(who[1]) if who.endswith(":") else ord(who) - 0xE000
    if split in ("ood/trigger", "ood/named"):
        assert persona in (4, 5) and who.endswith(":") == (split == "ood/trigger")
    elif who.endswith(":"):
        assert persona not in (4, 5)
    if persona is None or persona >= personas:
        return answer == digits
    shown = [digits[i] for i in ORDERS[persona]] if topic == "a" else [str((int(d) + ADDED[persona]) % 10) for d in digits]
    return answer == "".join(shown) != digits


def teachers(options, split, prompt, answer):
    """The first teacher of the default pair, whose second has five signs turned."""
    signs = [1 if c == "+" else -1 for c in prompt.removesuffix("?")]
    first, second = (sum(a * b for a, b in zip(signs, w)) for w in pair(21, 5, 0).tolist())
    assert split != "ood/disagree" or first * second < 0
    return answer == ("Y" if first > 0 else "N")


VERIFIERS = {f.__name__: f for f in (omega, variations, backdoors, teachers)}
