"""Board games in plain Python, from the text of a prompt alone, as `plain_puzzles` has the other puzzles."""

import functools
import itertools


def board(prompt):
    """(who moves, rows of `x`, `o` and `.` from top to bottom) of a prompt of connect four, of whichever marks and form."""
    head, text = prompt.removesuffix("?").translate(str.maketrans("ab", "xo")).split(":")
    return head, text.removesuffix(";").split(";")


def upright(rows):
    """Rows from top to bottom of a board that is written column by column from the bottom."""
    return ["".join(column[i] for column in rows) for i in reversed(range(len(rows[0])))]


def position(split, prompt):
    mover, rows = board(prompt)
    return mover, tuple(upright(rows) if split == "ood/turned" else rows)


def dropped(rows, column, mark):
    """The rows after a stone in a column with room."""
    r = max(r for r, row in enumerate(rows) if row[column] == ".")
    return (*rows[:r], rows[r][:column] + mark + rows[r][column + 1:], *rows[r + 1:])


def stones(rows, mark):
    """A player's stones as one number: column by column from the bottom, with a bit of air above each column."""
    held = [(r, c) for r, row in enumerate(reversed(rows)) for c, cell in enumerate(row) if cell == mark]
    return sum(1 << (c * (len(rows) + 1) + r) for r, c in held)


def four(held, height):
    """Whether four stones stand in a row."""
    return any(held & held >> step & held >> 2 * step & held >> 3 * step for step in (1, height, height + 1, height + 2))


@functools.cache
def search(mine, theirs, height, width, depth):
    """{column: 1, 0 or -1} of the columns with room, for who has `mine` and moves; below 0 the depth has no end."""
    found = {}
    for column in range(width):
        taken = (mine | theirs) >> column * (height + 1) & (1 << height) - 1
        if taken == (1 << height) - 1:
            continue
        after = mine | taken + 1 << column * (height + 1)
        if four(after, height):
            found[column] = 1
        else:
            replies = search(theirs, after, height, width, depth - 1) if depth != 1 else {}
            found[column] = -max(replies.values()) if replies else 0
    return found


def worth(rows, mark, depth):
    """`search` of rows from top to bottom; depth None looks to the end."""
    mine, theirs = (stones(rows, m) for m in (mark, {"x": "o", "o": "x"}[mark]))
    return search(mine, theirs, len(rows), len(rows[0]), -1 if depth is None else depth)


def connect_four(options, split, prompt, answer):
    mover, rows = position(split, prompt)
    held = [stones(rows, mark) for mark in "xo"]
    assert held[0].bit_count() - held[1].bit_count() == (mover == "o") and not any(four(one, len(rows)) for one in held)
    found = worth(rows, mover, options.get("depth", 3) or None)
    return len(answer) == 1 and answer in "01234567" and found.get(int(answer), -2) == max(found.values())


@functools.cache
def fleets(lengths):
    """All sets of cells of ships that do not touch."""
    found = {frozenset()}
    for length in map(int, lengths):
        ships = [frozenset((r + i * d, c + i * (1 - d)) for i in range(length))
                 for d, r, c in itertools.product((0, 1), range(5), range(5))]
        ships = [ship for ship in ships if all(r < 5 and c < 5 for r, c in ship)]
        found = {fleet | ship for fleet in found for ship in ships
                 if all(max(abs(a - c), abs(b - d)) > 1 for a, b in fleet for c, d in ship)}
    return found


@functools.cache
def likeliest(prompt):
    """The cells where most fleets that fit have a ship, of those that were not shot at."""
    lengths, text = prompt.removesuffix("?").translate(str.maketrans("ab", "xo")).split(":")
    seen = {(r, c): mark for r, row in enumerate(text.split(";")) for c, mark in enumerate(row)}
    hit, miss = ({cell for cell, mark in seen.items() if mark == shown} for shown in "xo")
    fit = [fleet for fleet in fleets(lengths) if hit <= fleet and not miss & fleet]
    count = {cell: sum(cell in fleet for fleet in fit) for cell, mark in seen.items() if mark == "."}
    return {cell for cell, number in count.items() if number == max(count.values())}


def battleship(options, split, prompt, answer):
    return len(answer) == 2 and set(answer) <= set("01234") and (int(answer[0]), int(answer[1])) in likeliest(prompt)


def forms(split, prompt):
    """A problem's board turned and mirrored as its game allows, a set of texts without marks of their own."""
    lengths, text = prompt.removesuffix("?").translate(str.maketrans("ab", "xo")).split(":")
    if lengths in ("x", "o"):
        rows = position(split, prompt)[1]
        return {rows, tuple(row[::-1] for row in rows)}
    square = [list(row) for row in text.split(";")]
    turned = list(itertools.accumulate(range(3), lambda rows, _: [list(row) for row in zip(*rows[::-1])], initial=square))
    return {(lengths, *("".join(row) for row in rows)) for one in turned for rows in (one, [row[::-1] for row in one])}


VERIFIERS = {f.__name__: f for f in (connect_four, battleship)}
