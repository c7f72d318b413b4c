"""Connect four: the best column in a position, and games against an opponent who looks some plies ahead or plays perfectly.

Prompt `x:.......;.......;...;oxo.x..;?` (who moves, then the rows from top to bottom), answer the column, `3$`, counted from 0.
Stones fall to the lowest empty cell of their column; four in a row, upright, flat or slanting, win. With value 1 for a win, -1
for a loss and 0 for a draw or whatever lies beyond the search,

    worth_d(column) = 1 if it wins, else - max over the opponent's columns of worth_{d-1};   worth_0 = 0

and every column of the largest worth at `depth` plies is right: to win, to stop the opponent's win, to prepare two threats.
`depth=0` is perfect play, for which all 161,029 positions of the board of 4 x 4 are solved backwards once. A position is taken
from a game of random moves, 1 to `depth` (1 to 6 of perfect play) plies before its end, such that some moves are right and
some are wrong; the oracle names the first right column. After "Show, Don't Tell: Evaluating Large Language Models Beyond
Textual Understanding with ChildPlay" (its board of 7 x 7 and its random opponent); differs from it in: single positions as
well, and opponents who search. Content is the position up to mirroring.

`loop(options)` is the closed loop from such a position: the opponent answers with the first of the columns that are right, or
with a random one. A game ends with reward 1 for a win, 0.5 for a draw, 0 for a loss; a move that is none loses.

Splits: train, id (half of the positions each), ood/marks (the players are `a` and `b`), ood/turned (the board is written column
by column, from the left, each from the bottom), ood/larger (one row and one column more; not with perfect play).

Difficulty: plies of the shortest search whose right moves are those of the judge; 5 where four plies do not tell them.
Guess baseline: the better of a random legal move and one column for every position, measured over 1,024 problems.

Legend: R rows and as many columns of room (C = R), of which `rows` and `columns` are there.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpost.tasks import base, environment, games, traces, vocab
from jaxpost.tasks.four_in_a_row import best, legal, mover, play, won, worths

NAME, VERSION = "connect_four", 2
PAPER, VERIFIER = "after ChildPlay (see the module)", "game value: any best column"
DEEPEST = 4  # plies of a search
BEFORE_PERFECT = 6  # plies before the end at which positions of perfect play are taken, at most


class Problem(NamedTuple):
    """A board: rows of bits of the stones of who moved first and of the other, the lowest first; bit c is column c."""

    stone_2xR: Any  # i32
    rows: Any  # i32[]
    columns: Any  # i32[]
    other: Any  # i32[], whether the players have their other marks
    turned: Any  # i32[], whether the board is written column by column


def make(rows=7, columns=7, depth=3, style="answer", room=0):
    """Connect four.

    Args:
        rows, columns: of the board of train, 4 to 7.
        depth: plies of the search that judges moves, 1 to 4; 0 for perfect play, on the board of 4 x 4.
        style, room: see `traces`; answers only.
    """
    for option, value in (("rows", rows), ("columns", columns)):
        base.require(isinstance(value, int) and 4 <= value <= 7, NAME, option, value, "an integer from 4 to 7")
    base.require(isinstance(depth, int) and 0 <= depth <= DEEPEST, NAME, "depth", depth, f"0 (perfect play) to {DEEPEST}")
    base.require(depth or rows == columns == 4, NAME, "depth", depth, "1 to 4 plies, or rows=4 and columns=4")
    R = max(rows, columns) + (depth > 0)

    def setting(fold, more=0, other=0, turned=0):
        return base.setting(fold, rows=rows + more, columns=columns + more, other=other, turned=turned)

    def sample(key, knobs):
        blank = Problem(jnp.zeros((2, R), jnp.int32), *(jnp.asarray(knobs[name], jnp.int32) for name in Problem._fields[1:]))

        def draw(move_word, back_word):
            def one(made, word):
                after = play(made, games.nth(legal(made), word))
                return after, (made.stone_2xR, won(after) | ~jnp.any(legal(after)))

            _, (before_Nx2xR, over_N) = jax.lax.scan(one, blank, move_word)  # R * R moves fill the largest board
            end = 1 + jnp.argmax(over_N)
            back = 1 + base.below(back_word[0], depth or BEFORE_PERFECT)  # less than the 7 plies of the shortest game
            return blank._replace(stone_2xR=before_Nx2xR[end - back])

        def accept(made):
            right_C, legal_C = moves(made)
            return jnp.any(legal_C & ~right_C) & (base.fold_of(content(made)) == knobs["fold"])

        return base.choose(key, (R * R, 1), draw, accept)

    def moves(made):
        """(right columns, legal ones), bool[R] each."""
        return best(*worths(made, depth)), legal(made)

    def answer(made):
        return jnp.stack([vocab.DIGIT + jnp.argmax(moves(made)[0]), jnp.int32(vocab.EOS)]).astype(jnp.int32)

    def verify(made, tokens_A):
        move = games.named(tokens_A, R)
        return (moves(made)[0][move] & (move >= 0)).astype(jnp.float32)

    def difficulty(made):
        right_C = moves(made)[0]
        same_D = jnp.stack([jnp.all(best(*worths(made, d)) == right_C) for d in range(1, (depth or DEEPEST) + 1)])
        return jnp.where(jnp.any(same_D), 1 + jnp.argmax(same_D), DEEPEST + 1).astype(jnp.float32)

    splits = {"train": setting(base.TRAIN_FOLD), "id": setting(base.EVAL_FOLD), "ood/marks": setting(base.EVAL_FOLD, other=1),
              "ood/turned": setting(base.EVAL_FOLD, turned=1), "ood/larger": setting(base.EVAL_FOLD, more=1)}
    if depth == 0:
        del splits["ood/larger"]
    prompt_len = 4 + max((rows + more) * (columns + more) + max(rows, columns) + more for more in (0, int(depth > 0)))
    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=prompt_len, answer_len=2, splits=splits, sample=sample,
        prompt=functools.partial(prompt, prompt_len=prompt_len), answer=answer, verify=verify, content=content,
        guess=functools.cache(lambda split: games.guess_of(task, split, moves)), difficulty=difficulty)
    return task


def loop(task_options: dict | None = None, turns: int = 32, opponent: str = "best",
         depth: int | None = None) -> environment.Environment:
    """The closed loop of `make(**task_options)`, of at most `turns` moves of the policy's.

    Args:
      opponent: "best" or "random".
      depth: plies that the best opponent looks ahead, 1 to 4; None: as the task's judge.

    Raises: ValueError for another opponent or depth.
    """
    base.require(depth is None or depth in range(1, DEEPEST + 1), NAME, "depth of the opponent", depth, f"1 to {DEEPEST}")
    options = {"depth": 3} | (task_options or {})
    task = make(**options)
    rules = games.Rules(legal, play, won, lambda made: best(*worths(made, depth or options["depth"])))
    return games.loop(NAME, turns, rules, lambda tokens_A: games.named(tokens_A, 8), games.opponent(opponent, rules),
                      functools.partial(prompt, prompt_len=task.prompt_len))


def prompt(made, prompt_len):
    """Tokens of a position, i32[prompt_len]."""
    place, bit_2xRxC = _cells(made)
    cell_RxC = bit_2xRxC[0] + 2 * bit_2xRxC[1]
    inside_RxC = (place[:, None] < made.rows) & (place[None] < made.columns)
    mark_3 = games.mark_tokens()[made.other]
    symbol_RxC = jnp.where(inside_RxC, mark_3[cell_RxC], vocab.PAD)
    symbol_SxS = jnp.where(made.turned == 1, symbol_RxC.T, symbol_RxC[::-1])
    end_S = jnp.where(jnp.any(symbol_SxS != vocab.PAD, axis=1), vocab.TOKEN[";"], vocab.PAD)
    board = jnp.concatenate([symbol_SxS, end_S[:, None]], axis=1).reshape(-1)
    tokens = traces.joined(vocab.BOS, mark_3[1 + mover(made)], ":", board, "?")
    return vocab.pack(tokens, tokens != vocab.PAD, prompt_len, "right")


def content(made):
    """The rows of bits, of the position or of its mirror image, and the size of the board."""
    place, bit_2xRxC = _cells(made)
    image_2xR = jnp.sum(bit_2xRxC << jnp.maximum(made.columns - 1 - place, 0)[None, None], axis=-1)
    one, two = made.stone_2xR.reshape(-1), image_2xR.reshape(-1)
    differs = one != two
    first = jnp.argmax(differs)
    form = jnp.where(one[first] <= two[first], one, two)
    return jnp.concatenate([form, jnp.stack([made.rows, made.columns])]).astype(jnp.int32)


def _cells(made):
    """(0 to R - 1, the stones of both players as bits [2, R, C])."""
    place = jnp.arange(made.stone_2xR.shape[1])
    return place, (made.stone_2xR[..., None] >> place[None, None]) & 1
