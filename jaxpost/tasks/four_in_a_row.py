"""The rules of connect four on bits, its search to a number of plies, and the board of 4 x 4 solved backwards.

Legend: R rows and as many columns of room (C = R), of which `rows` and `columns` of a problem are there.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

SIDE = 4  # of the board that is solved
_COLUMN = SIDE + 1  # bits of a column in the number of a position: its stones, and a bit above them


def lines(stone_R):
    """bool[...]: whether four stones stand in a row.

    Args:
        stone_R: i32[..., R], bit c of row r is column c.
    """
    two_R = stone_R & (stone_R >> 1)
    won = jnp.any((two_R & (two_R >> 2)) != 0, axis=-1)
    for shift in (0, 1, -1):  # upright, and the slanting ones
        four = (_shifted(stone_R[..., i:stone_R.shape[-1] - 3 + i], shift * i) for i in range(4))
        won |= jnp.any(functools.reduce(jnp.bitwise_and, four) != 0, axis=-1)
    return won


def _shifted(stone_R, by: int):
    return stone_R << by if by >= 0 else stone_R >> -by


def heights(made):
    """i32[C]: stones of each column."""
    return _heights(made.stone_2xR[0] | made.stone_2xR[1])


def _heights(taken_R):
    return jnp.sum((taken_R[None] >> jnp.arange(taken_R.shape[0])[:, None]) & 1, axis=1)


def mover(made):
    """i32[]: 0 where who began moves next, else 1."""
    return jnp.sum(heights(made)) % 2


def legal(made):
    """bool[C]: columns with room."""
    height_C = heights(made)
    return (height_C < made.rows) & (jnp.arange(height_C.shape[0]) < made.columns)


def play(made, column):
    """The problem after a stone of who moves next in a legal column."""
    row = heights(made)[column]
    stone_R = (jnp.arange(made.stone_2xR.shape[1]) == row).astype(jnp.int32) << column
    return made._replace(stone_2xR=made.stone_2xR | jnp.where(jnp.arange(2)[:, None] == mover(made), stone_R[None], 0))


def won(made):
    """bool[]: whether somebody has four in a row."""
    return jnp.any(lines(made.stone_2xR))


def best(worth_C, legal_C):
    """bool[C]: the legal columns of the largest worth."""
    return legal_C & (worth_C == jnp.max(jnp.where(legal_C, worth_C, -2)))


def worths(made, depth: int):
    """(worth of each column to who moves next, -1 to 1; legal columns), i32[C] and bool[C].

    Args:
        depth: plies of the search; 0: perfect play on the board of 4 x 4.
    """
    mine_R, theirs_R = made.stone_2xR[mover(made)], made.stone_2xR[1 - mover(made)]
    if depth == 0:
        return _perfect(mine_R, theirs_R, legal(made))
    return _search(mine_R, theirs_R, made.rows, made.columns, depth)


def _search(mine_R, theirs_R, rows, columns, depth):
    R = mine_R.shape[0]
    place = jnp.arange(R)
    height_C = _heights(mine_R | theirs_R)
    legal_C = (height_C < rows) & (place < columns)
    after_CxR = mine_R[None] | ((place[None] == height_C[:, None]).astype(jnp.int32) << place[:, None])
    wins_C = lines(after_CxR).astype(jnp.int32)
    if depth == 1:
        return wins_C, legal_C

    def reply(after_R):
        worth_C, can_C = _search(theirs_R, after_R, rows, columns, depth - 1)
        return jnp.where(jnp.any(can_C), jnp.max(jnp.where(can_C, worth_C, -1)), 0)

    return jnp.where(wins_C == 1, 1, -jax.vmap(reply)(after_CxR)), legal_C


def _perfect(mine_R, theirs_R, legal_C):
    place = jnp.arange(SIDE)
    height_C = _heights(mine_R | theirs_R)
    theirs_C = jnp.sum(((theirs_R[None] >> place[:, None]) & 1) << place[None], axis=1)  # of who moves after this move
    number = jnp.sum((theirs_C + (1 << height_C)) << (_COLUMN * place))
    after_C = jnp.where(legal_C, number + (1 << (_COLUMN * place + height_C)), 0)
    return -jnp.asarray(solved())[after_C].astype(jnp.int32), legal_C


@functools.cache
def solved() -> np.ndarray:
    """i8[2**20] by the number of a position: 1 where who moves wins, 0 a draw, -1 a loss; -2 where no game comes to.

    The number of a position is the sum over columns c of (bits of the mover's stones + 2**height_c) * 32**c, the lowest stone
    first. Positions are made ply by ply, and valued from the last ply back.
    """
    bottom = sum(1 << (_COLUMN * c) for c in range(SIDE))
    board = bottom * (2**SIDE - 1)
    plies = [(np.zeros(1, np.int64), np.zeros(1, np.int64))]  # (the mover's stones, all stones)
    for _ in range(SIDE * SIDE):
        mine, taken = plies[-1]
        goes_on = ~_aligned(mine ^ taken)
        after = [(mine[room] ^ taken[room], taken[room] | (taken[room] + (1 << (_COLUMN * c)))) for c in range(SIDE)
                 for room in [goes_on & ((taken >> (_COLUMN * c + SIDE - 1)) & 1 == 0)]]
        mine, taken = (np.concatenate(part) for part in zip(*after))
        first = np.unique(mine + taken + bottom, return_index=True)[1]
        plies.append((mine[first], taken[first]))
    value = np.full(2**(_COLUMN * SIDE), -2, np.int8)
    for mine, taken in reversed(plies):
        best_N = np.full(len(mine), -2, np.int8)
        for c in range(SIDE):
            room = (taken >> (_COLUMN * c + SIDE - 1)) & 1 == 0
            next_taken = (taken | (taken + (1 << (_COLUMN * c)))) & board
            number = (mine ^ taken) + next_taken + bottom
            best_N = np.where(room, np.maximum(best_N, -value[np.where(room, number, 0)]), best_N)
        best_N = np.where(_aligned(mine ^ taken), -1, np.where(taken == board, 0, best_N))
        value[mine + taken + bottom] = best_N
    return value


def _aligned(stones):
    """bool[N]: four in a row, of bits in columns of five."""
    won = np.zeros(stones.shape, bool)
    for step in (1, _COLUMN, _COLUMN + 1, _COLUMN - 1):
        two = stones & (stones >> step)
        won |= (two & (two >> (2 * step))) != 0
    return won
