"""Tic-tac-toe: the best move in a position, and games against an opponent who plays perfectly.

Prompt `x:x.o.x...o?` (who moves, then nine cells row by row), answer the cell, `8$`, 0 to 8. Every move that keeps the value of
the position (a win, else a draw) under perfect play is right; values come from a full search. Positions are those that can
arise, in which the game goes on and at least one move is wrong; the oracle names the first right cell. After "Show, Don't Tell:
Evaluating Large Language Models Beyond Textual Understanding with ChildPlay", whose opponent plays at random; differs from it
in: single positions as well, and a perfect opponent. Its other games are `connect_four` and `battleship`; shapes are absent.

`loop(options)` is the closed loop from such a position: one move a turn, then the opponent answers with the first of the moves
that are best for it, or a random one. A game ends with reward 1 for a win, 0.5 for a draw, 0 for a loss; a move that is none
loses.

Splits: train, id (half of the positions each), ood/marks (id with the players called `a` and `b` in place of `x` and `o`).
Content is the position up to turning and mirroring, so that none is in both. `tasks.table` lists them.

Difficulty: empty cells. Guess baseline: the better of a random legal move and one cell for every position.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxpost.tasks import base, environment, games, traces, vocab

NAME, VERSION = "tictactoe", 1
PAPER, VERIFIER = "after ChildPlay (see the module)", "game value: any best move"
LINES = np.asarray([(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)])
SYMMETRIES = games.symmetries(3)
POWERS = 3 ** np.arange(9)


class Problem(NamedTuple):
    """A board of 1 (moved first), 2 and 0 (empty), and whether the players have their other marks."""

    cell_9: Any  # i32
    other: Any  # i32[]


@functools.cache
def values():
    """i32[3**9], by sum_i cell_i 3**i: 1 where who moves wins, 0 for a draw, -1 for a loss; -2 where no game comes to."""
    value = np.full(3**9, -2, np.int32)

    def visit(cells):
        number = sum(cell * 3**i for i, cell in enumerate(cells))
        if value[number] == -2:
            player = 1 + (sum(cell > 0 for cell in cells) % 2)
            if any(len({cells[i] for i in line}) == 1 and cells[line[0]] for line in LINES.tolist()):
                value[number] = -1
            else:
                after = [-visit(cells[:i] + (player,) + cells[i + 1:]) for i in range(9) if not cells[i]]
                value[number] = max(after, default=0)
        return value[number]

    visit((0,) * 9)
    return value


def make(style="answer", room=0):
    """Tic-tac-toe.

    Args:
        style, room: see `traces`; answers only.
    """
    number = np.flatnonzero(values() > -2)
    cell_Nx9 = (number[:, None] // POWERS % 3).astype(np.int32)
    right_Nx9, legal_Nx9 = _right(cell_Nx9, values())
    kept = right_Nx9.any(axis=1) & (legal_Nx9 & ~right_Nx9).any(axis=1)
    cell_Nx9 = cell_Nx9[kept]
    fold_N = _hash(_canonical(cell_Nx9)) % 2
    count = {fold: int((fold_N == fold).sum()) for fold in (base.TRAIN_FOLD, base.EVAL_FOLD)}
    ordered_Nx9 = cell_Nx9[np.argsort(fold_N, kind="stable")]

    def setting(fold, other=0):
        return {"first": np.int32(fold * count[base.TRAIN_FOLD]), "count": np.int32(count[fold]), "other": np.int32(other)}

    def sample(key, knobs):
        place = knobs["first"] + base.below(base.words(key, 1)[0][0], knobs["count"])
        return Problem(jnp.asarray(ordered_Nx9)[place], jnp.asarray(knobs["other"], jnp.int32))

    def verify(made, tokens_A):
        move = games.named(tokens_A, 9)
        return (right(made.cell_9)[move] & (move >= 0)).astype(jnp.float32)

    def table(split):
        knobs = task.splits[split]
        rows = ordered_Nx9[knobs["first"]:knobs["first"] + knobs["count"]]
        return Problem(rows, np.full(len(rows), knobs["other"], np.int32))

    @functools.cache
    def guess(split):
        return games.guess(*_right(table(split).cell_9, values()))

    def content(made):
        form_8x9 = made.cell_9[jnp.asarray(SYMMETRIES)]
        return form_8x9[jnp.argmin(jnp.sum(form_8x9 * jnp.asarray(POWERS)[None], axis=1))]

    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=13, answer_len=2,
        splits={"train": setting(base.TRAIN_FOLD), "id": setting(base.EVAL_FOLD), "ood/marks": setting(base.EVAL_FOLD, 1)},
        sample=sample, prompt=prompt, verify=verify, guess=guess, content=content, table=table,
        answer=lambda made: jnp.stack([vocab.DIGIT + jnp.argmax(right(made.cell_9)), jnp.int32(vocab.EOS)]).astype(jnp.int32),
        difficulty=lambda made: jnp.sum(made.cell_9 == 0).astype(jnp.float32))
    return task


def loop(task_options: dict | None = None, turns: int = 5, opponent: str = "best") -> environment.Environment:
    """The closed loop of `make(**task_options)`, of at most `turns` moves of the policy's, against a perfect opponent ("best")
    or one whose moves are random ("random"). Raises: ValueError for another opponent.
    """
    rules = games.Rules(lambda made: made.cell_9 == 0, _play, lambda made: _won(made.cell_9), lambda made: right(made.cell_9))
    return games.loop(NAME, turns, rules, lambda tokens_A: games.named(tokens_A, 9), games.opponent(opponent, rules), prompt)


def _play(made, move):
    mover = 1 + jnp.sum(made.cell_9 > 0) % 2
    return made._replace(cell_9=jnp.where((jnp.arange(9) == move) & (made.cell_9 == 0), mover, made.cell_9))


def prompt(made):
    """Tokens of a position, i32[13]."""
    mark_2x3 = games.mark_tokens()
    mover = 1 + jnp.sum(made.cell_9 > 0) % 2
    return traces.joined(vocab.BOS, mark_2x3[made.other, mover], ":", mark_2x3[made.other][made.cell_9], "?")


def right(cell_9):
    """bool[9]: moves that keep the value of a position in which the game goes on."""
    return _right(cell_9[None], jnp.asarray(values()))[0][0]


def _right(cell_Nx9, value):
    """(moves that are best, moves that are possible) of positions, bool[N, 9] each; none where the game is over."""
    array = np if isinstance(cell_Nx9, np.ndarray) else jnp
    number_N = (cell_Nx9 * POWERS[None]).sum(axis=1)
    mover_N = 1 + (cell_Nx9 > 0).sum(axis=1) % 2
    over_N = (cell_Nx9[:, LINES] == 3 - mover_N[:, None, None]).all(axis=2).any(axis=1)
    legal_Nx9 = (cell_Nx9 == 0) & ~over_N[:, None]
    after_Nx9 = value[array.where(legal_Nx9, number_N[:, None] + mover_N[:, None] * POWERS[None], 0)]
    return legal_Nx9 & (-after_Nx9 == value[number_N][:, None]), legal_Nx9


def _won(cell_9):
    line_8x3 = cell_9[jnp.asarray(LINES)]
    return jnp.any((line_8x3[:, 0] > 0) & jnp.all(line_8x3 == line_8x3[:, :1], axis=1))


def _canonical(cell_Nx9):
    """The smallest number of each position turned and mirrored, i64[N]."""
    return (cell_Nx9[:, SYMMETRIES] * POWERS).sum(axis=2).min(axis=1)


def _hash(number_N):
    """u32[N], MurmurHash3's finaliser."""
    return np.asarray(base.mix(number_N.astype(np.uint32)))
