"""Verifiers of the puzzles in plain Python, from tokens alone, as `plain` has those of the other families."""

import functools
import itertools
import math
import re
from collections import Counter

from tests.tasks import plain, plain_games, plain_transfer
from tests.tasks.plain import EOS, text


def reward(name, options, split, prompt, completion):
    """A number in [0, 1]."""
    if EOS not in completion:
        return 0.0
    answer = text(completion[:completion.index(EOS)])
    return float(VERIFIERS[name](options, split, text(prompt).removeprefix("^"), answer))


def lines_of(grid):
    """Rows, columns and boxes of 16 cells."""
    rows = [grid[i:i + 4] for i in range(0, 16, 4)]
    boxes = [[rows[r + i][c + j] for i in (0, 1) for j in (0, 1)] for r in (0, 2) for c in (0, 2)]
    return [*rows, *zip(*rows), *boxes]


def sudoku(options, split, prompt, answer):
    """The rules, not the solution."""
    given = prompt.removesuffix("?")
    return (len(answer) == 16 and all(sorted(line) == list("1234") for line in lines_of(answer))
            and all(g in (".", a) for g, a in zip(given, answer)))


def solutions(given):
    """Every completion of a grid, by search."""
    if "." not in given:
        return [given]
    i = given.index(".")
    tries = [given[:i] + d + given[i + 1:] for d in "1234"]
    return [s for t in tries if consistent(t) for s in solutions(t)]


def consistent(grid):
    return all(len(seen) == len(set(seen)) for line in lines_of(grid) if (seen := [x for x in line if x != "."]) or True)


def moved(row, n, wraps):
    out = ["0"] * len(row)
    for i, c in enumerate(row):
        if wraps or 0 <= i + n < len(row):
            out[(i + n) % len(row)] = c
    return "".join(out)


def blocks(row):
    return ["".join(group) for _, group in itertools.groupby(row)]


def grown(row):
    return "".join(row[i - 1] if c == "0" and i else c for i, c in enumerate(row))


def per_block(change):
    return lambda row: "".join(b if b[0] == "0" else change(b) for b in blocks(row))


ARC = {
    **{f"{kind}_{side}_{n}": (lambda row, n=n, side=side, kind=kind: moved(row, n if side == "right" else -n, kind == "wrap"))
       for kind in ("move", "wrap") for side in ("left", "right") for n in (1, 2, 3)},
    "gravity_left": lambda row: row.replace("0", "").ljust(len(row), "0"),
    "gravity_right": lambda row: row.replace("0", "").rjust(len(row), "0"),
    "grow_right": grown, "grow_left": lambda row: grown(row[::-1])[::-1],
    "mirror": lambda row: row[::-1], "sort": lambda row: "".join(sorted(row)),
    "hollow": per_block(lambda b: b if len(b) < 3 else b[0] + "0" * (len(b) - 2) + b[0]),
    "starts": per_block(lambda b: b[0] + "0" * (len(b) - 1)), "ends": per_block(lambda b: "0" * (len(b) - 1) + b[0]),
    "denoise": per_block(lambda b: b if len(b) > 1 else "0"),
}


def arc(options, split, prompt, answer):
    """What every rule that fits the examples makes of the row; there is one."""
    *shown, asked = prompt.removesuffix("=").split(";")
    pairs = [pair.split(">") for pair in shown]
    (rule,) = [name for name, rule in ARC.items() if all(rule(a) == b for a, b in pairs)]
    held = options.get("held", "right") in rule
    assert held == (split == "ood/rule")
    return answer == ARC[rule](asked) != asked


def ranking(options, split, prompt, answer):
    body, case = prompt.removesuffix("?").split(":")
    findings = {found[0]: set(found[1:]) for found in re.findall(r"[a-z]\d+", body)}
    relevance = {letter: len(has & set(case)) for letter, has in findings.items()}
    length = options.get("length", 3)
    if len(answer) != length or len(set(answer)) != length or set(answer) - set(relevance):
        return 0
    ((best, _),) = [pair for pair in relevance.items() if pair[1] == max(relevance.values())]
    rank = answer.index(best) + 1 if best in answer else math.inf

    def gain(names):
        return sum(relevance[name] / math.log2(1 + r) for r, name in enumerate(names, 1))

    return {"reciprocal": 1 / rank, "first": rank == 1, "present": rank < math.inf,
            "ndcg": gain(answer) / gain(sorted(relevance, key=relevance.get, reverse=True)[:length])}[
                options.get("score", "reciprocal")]


def picture(patches, rows, columns):
    """Rows of digits from patches of two by two in order."""
    return [[int(patches[r // 2 * columns + c // 2][r % 2 * 2 + c % 2]) for c in range(2 * columns)] for r in range(2 * rows)]


def is_picture(cell):
    H, W = len(cell), len(cell[0])
    places = list(itertools.product(range(H), range(W)))
    rises = all(cell[r][c] <= cell[r + i][c + j] for r, c in places for i, j in ((0, 1), (1, 0)) if r + i < H and c + j < W)

    def constant(of):
        return len({(of(r, c), cell[r][c]) for r, c in places}) == len({of(r, c) for r, c in places})

    return (rises or constant(lambda r, c: min(r, c, H - 1 - r, W - 1 - c)) or constant(lambda r, c: r - c)
            or constant(lambda r, c: r + c))


def jigsaw(options, split, prompt, answer):
    shape, body = prompt.removesuffix("?").split(":")
    rows, columns = map(int, shape.split("*"))
    patches = dict(zip(body[::5], (body[i + 1:i + 5] for i in range(0, len(body), 5))))
    if sorted(answer) != sorted(patches):
        return 0
    if is_picture(picture([patches[letter] for letter in answer], rows, columns)):
        return 1
    if options.get("score") != "patches":
        return 0
    return sum(a == b for a, b in zip(answer, options["cut"])) / len(answer)


def jaccard(a, b):
    return sum((a & b).values()) / sum((a | b).values())


def tools(options, split, prompt, answer):
    schema, request = prompt.removesuffix("=").split("?")
    takes = {part[0]: (part[1], part[3:-1]) for part in re.findall(r"..\([^)]*\)", schema)}
    purposes, facts = request.split(":")
    value = dict(zip(facts[::2], facts[1::2]))
    due = [(name, {p: value[p] for p in takes[name][1]}) for name in takes if takes[name][0] in purposes]
    made = []
    for call in answer.split(";"):
        inside = re.fullmatch(r"(ID)\((ID=[0-9](?:,ID=[0-9])*)\)".replace("ID", "[\ue000-\uf8ff]"), call)
        if not inside or not 0 <= plain.number_of(inside[1]) < 32:
            return 0
        pairs = [(part[0], part[2]) for part in inside[2].split(",")]
        if len(dict(pairs)) < len(pairs) or not all(64 <= plain.number_of(p) < 96 for p, _ in pairs):
            return 0
        made.append((inside[1], dict(pairs)))
    slots = options.get("calls", 1) + 1
    if len(made) > slots:
        return 0
    names = jaccard(Counter(name for name, _ in due), Counter(name for name, _ in made))

    def best(gain):
        return max(sum(gain(due[g], made[c]) for g, c in enumerate(order[:len(due)]) if c < len(made))
                   for order in itertools.permutations(range(slots)))

    fine = best(lambda g, c: jaccard(Counter(g[1].keys()), Counter(c[1].keys())) + len(g[1].items() & c[1].items()))
    same = best(lambda g, c: g == c)
    return {"fine": (names + fine) / (1 + sum(1 + len(args) for _, args in due)),
            "intermediate": (names + same) / (1 + len(due)),
            "coarse": names == 1 and same == len(due)}[options.get("score", "fine")]


def urns(options, split, prompt, answer):
    """`options["truth"]` is (the ball that comes, weights of the urn): the prompt does not tell them."""
    following, weight = options["truth"]
    if options.get("answer", "draw") == "draw":
        return answer == "abcdefghijklmnop"[following]
    place = "abcdefghijklmnop".find(answer) if len(answer) == 1 else -1
    return weight[place] / max(weight) if 0 <= place < len(weight) else 0


def few_shot(options, split, prompt, answer):
    classes, item = prompt.removesuffix("=").split("?")
    distance = {part[0]: sum(a != b for a, b in zip(part[1:], item)) for part in re.findall(r"\D\d+", classes)}
    (nearest,) = [name for name, d in distance.items() if d == min(distance.values())]
    assert distance[nearest] == options.get("flips", 1) + (split == "ood/flips")
    return answer == nearest


ROWS = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]


@functools.cache
def game_value(board, mover):
    """1, 0 or -1 for the one who moves; the board is a text of `x`, `o` and `.`."""
    other = {"x": "o", "o": "x"}[mover]
    if any(board[a] == board[b] == board[c] == other for a, b, c in ROWS):
        return -1
    return max((-game_value(board[:i] + mover + board[i + 1:], other) for i in range(9) if board[i] == "."), default=0)


def tictactoe(options, split, prompt, answer):
    if split == "ood/marks":
        prompt = prompt.replace("a", "x").replace("b", "o")
    mover, board = prompt.removesuffix("?").split(":")
    assert board.count("x") - board.count("o") == (mover == "o")
    if answer not in "012345678" or len(answer) != 1 or board[int(answer)] != ".":
        return 0
    after = board[:int(answer)] + mover + board[int(answer) + 1:]
    return -game_value(after, {"x": "o", "o": "x"}[mover]) == game_value(board, mover)


VERIFIERS = ({f.__name__: f for f in (sudoku, arc, ranking, jigsaw, tools, urns, few_shot, tictactoe)} | plain_games.VERIFIERS
             | plain_transfer.VERIFIERS)
