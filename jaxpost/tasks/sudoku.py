"""Sudoku on four by four cells, with traces of depth-first search.

Prompt `1..4..1..1..4..1?` (16 cells row by row, `.` is empty), answer all 16 digits, `1234341221434321$`. Every row, column
and 2 x 2 box has each digit once; a puzzle has one solution, so that no other answer is right. After the Sudoku of
arXiv:2505.24273 (reasoning-gym's mini_sudoku); differs from the paper in: 4 x 4 instead of 9 x 9, no partial reward, each wrong
branch is checked to fail, the board is not printed again.

A puzzle is one of the 288 full grids with cells emptied one after the other in random order while the solution stays the only
one, which is tested against all 288; one that cannot be emptied as far as drawn is drawn again (at most 512 times). Content is
the puzzle up to the digits' names and the 128 symmetries of the grid, so that no evaluation puzzle is a training puzzle turned,
mirrored, with rows or columns of one band swapped, or renamed.

Splits: train, id (`empty` cells), ood/empty (`ood_empty` cells).

Reasoning (`traces`): the empty cells row by row, one a step, `c3;` (cell a to p, digit). A detour is a wrong digit at the cell
that comes next and consistent digits, at random, in the cells after it, up to the cell that has none: what a depth-first search
does that tries digits in ascending order. The wrong digits are those that the search comes to (consistent with the board and
below the right one); where a puzzle has too few of them, other consistent ones, then inconsistent ones, which end at once.

Difficulty: the number of empty cells. Guess baseline: in every empty cell a random digit that no given in its row, column or
box has, measured over 2,048 problems.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.tasks import base, traces, vocab

NAME, VERSION = "sudoku", 1
PAPER, VERIFIER = "arXiv:2505.24273", "the solution, which is unique"
C = 16  # cells
MOST_EMPTY = 11
_PLACE = np.arange(C)
_BOX = _PLACE // 8 * 2 + _PLACE % 4 // 2
_SAME = [x[:, None] == x for x in (_PLACE // 4, _PLACE % 4, _BOX)]
PEERS = (_SAME[0] | _SAME[1] | _SAME[2]) & ~np.eye(C, dtype=bool)  # cells of one row, column or box
_SWAPS = [(a, b, c, d) for a, b in ((0, 1), (1, 0)) for c, d in ((2, 3), (3, 2))]
_LINES = [line for a, b, c, d in _SWAPS for line in ((a, b, c, d), (c, d, a, b))]
SYMMETRIES = np.asarray([g for rows, columns in itertools.product(_LINES, repeat=2)
                         for g in ([4 * r + c for r in rows for c in columns], [4 * r + c for c in columns for r in rows])])


class Problem(NamedTuple):
    """Digits 1 to 4 of the 16 cells; 0 where a cell is empty."""

    given_C: Any  # i32
    solution_C: Any  # i32


@functools.cache
def grids():
    """The 288 full grids, i32[288, 16]."""
    row = list(itertools.permutations(range(1, 5)))
    full = np.asarray(list(itertools.product(row, repeat=4)), np.int32).reshape(-1, C)
    return full[~(PEERS & (full[:, :, None] == full[:, None])).any(axis=(1, 2))]


def make(empty=(7, 9), ood_empty=(10, 11), style="answer", room=0):
    """4 x 4 Sudoku.

    Args:
        empty, ood_empty: (low, high) empty cells of train and id, and of ood/empty; 1 to 11, the second above the first.
        style, room: see `traces`.
    """
    low, high = base.length_range(NAME, "empty", empty, 1, MOST_EMPTY - 1)
    most = base.length_range(NAME, "ood_empty", ood_empty, high + 1, MOST_EMPTY)[1]
    same = (grids()[:, None] == grids()[None]).astype(np.int32)  # [solution, other grid, cell]

    def setting(fold, low, high):
        return base.setting(fold, low=low, high=high)

    def sample(key, knobs):
        wanted = base.span(base.words(jax.random.fold_in(key, base.ATTEMPTS), 1)[0][0], knobs["low"], knobs["high"])

        def draw(grid_word, order_word):
            which = base.below(grid_word[0], len(same))
            solution_C, same_GxC = jnp.asarray(grids())[which], jnp.asarray(same)[which]

            def remove(state, cell):
                kept_C, unlike_G = state  # clues that another grid contradicts
                left_G = unlike_G - (1 - same_GxC[:, cell])
                happens = (jnp.sum(kept_C) > C - wanted) & (jnp.sum(left_G == 0) == 1)
                return (kept_C.at[cell].set(kept_C[cell] & ~happens), jnp.where(happens, left_G, unlike_G)), None

            start = (jnp.ones(C, bool), jnp.sum(1 - same_GxC, axis=1))
            (kept_C, _), _ = jax.lax.scan(remove, start, jnp.argsort(order_word))
            return Problem(jnp.where(kept_C, solution_C, 0), solution_C)

        def accept(made):
            return (difficulty(made) == wanted) & (base.fold_of(_content(made)) == knobs["fold"])

        return base.choose(key, (1, C), draw, accept)

    def prompt(made):
        cell_C = jnp.where(made.given_C > 0, vocab.DIGIT + made.given_C, vocab.TOKEN["."])
        return traces.joined(vocab.BOS, cell_C, "?")

    def answer(made):
        return jnp.append(vocab.DIGIT + made.solution_C, vocab.EOS)

    @functools.cache
    def guess(split):
        def one(made, key):
            digit_C = 1 + _pick(_free(jnp.broadcast_to(made.given_C, (C, C))), *base.words(key, C))
            return jnp.all(jnp.where(made.given_C > 0, made.given_C, digit_C) == made.solution_C)

        return float(base.average(task, split, one))

    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=C + 2, answer_len=C + 1,
        splits={"train": setting(base.TRAIN_FOLD, low, high), "id": setting(base.EVAL_FOLD, low, high),
                "ood/empty": setting(base.EVAL_FOLD, *ood_empty)},
        sample=sample, prompt=prompt, answer=answer, verify=lambda made, tokens_A: base.exact(tokens_A, answer(made)),
        guess=guess, content=_content, difficulty=difficulty,
        reasoning=traces.Reasoning(_steps, longest=3 * most, detour=3 * most))
    return task


def difficulty(made):
    """Empty cells, f32[]."""
    return jnp.sum(made.given_C == 0).astype(jnp.float32)


def _content(made):
    """The symmetric form with digits named in the order in which they appear that has the smallest hash: i32[16]."""
    form_GxC = made.given_C[jnp.asarray(SYMMETRIES)]
    is_GxDxC = form_GxC[:, None] == jnp.arange(1, 5)[None, :, None]
    first_GxD = jnp.where(jnp.any(is_GxDxC, axis=2), jnp.argmax(is_GxDxC, axis=2), C)
    name_GxD = 1 + jnp.sum(first_GxD[:, None] < first_GxD[:, :, None], axis=2)
    named_GxC = jnp.sum(jnp.where(is_GxDxC, name_GxD[:, :, None], 0), axis=1)
    return named_GxC[jnp.argmin(jax.vmap(base.hash_of)(named_GxC))]


def _free(board_CxC):
    """Digits 1 to 4 that no peer of each cell has on the board at that cell: bool[C, 4]."""
    return ~jnp.any(jnp.asarray(PEERS)[:, None] & (board_CxC[:, None] == jnp.arange(1, 5)[None, :, None]), axis=2)


def _pick(free_xD, word_x):
    """The position of one of the true entries of each row, at random; 0 where there is none."""
    nth_x = base.below(word_x, jnp.maximum(jnp.sum(free_xD, axis=-1), 1))
    return jnp.argmax((jnp.cumsum(free_xD, axis=-1) > nth_x[..., None]) & free_xD, axis=-1)


def _steps(made, key, K):
    empty_C, place_C = made.given_C == 0, jnp.arange(C)
    token_Cx3 = jnp.stack([vocab.LETTER + place_C, vocab.DIGIT + made.solution_C, jnp.full(C, vocab.TOKEN[";"])], axis=1)
    token_Cx3 = jnp.where(empty_C[:, None], token_Cx3, vocab.PAD)
    steps = traces.Steps(token_Cx3, jnp.broadcast_to(jnp.arange(3) == 1, (C, 3)))
    if not K:
        return steps
    before_CxC = jnp.where((place_C[None] < place_C[:, None]) | ~empty_C[None], made.solution_C[None], 0)  # the board at a cell
    digit_D = jnp.arange(1, 5)
    free_CxD = _free(before_CxC)
    order_word, walk_word = base.words(key, 4 * C, K * C)
    wrong_CxD = empty_C[:, None] & (digit_D[None] != made.solution_C[:, None])
    tried_CxD = free_CxD & (digit_D[None] < made.solution_C[:, None])
    rank_CxD = jnp.where(wrong_CxD, jnp.where(tried_CxD, 0, jnp.where(free_CxD, 1, 2)), 3)
    chosen_K = jnp.lexsort((order_word, rank_CxD.reshape(-1)))[:K]
    cell_K, digit_K = chosen_K // 4, 1 + chosen_K % 4

    def walk(cell, digit, word_C):
        def visit(state, at):
            board_C, dead = state
            here, word = at
            free_D = ~jnp.any(jnp.asarray(PEERS)[here][None] & (board_C[None] == digit_D[:, None]), axis=1)
            goes = (here > cell) & empty_C[here] & ~dead
            put = goes & jnp.any(free_D)
            board_C = board_C.at[here].set(jnp.where(put, 1 + _pick(free_D, word), board_C[here]))
            return (board_C, dead | (goes & ~put)), put

        start = (before_CxC[cell].at[cell].set(digit), ~free_CxD[cell, digit - 1])
        (board_C, _), put_C = jax.lax.scan(visit, start, (place_C, word_C))
        put_C = put_C | (place_C == cell)
        row_Cx3 = jnp.stack([vocab.LETTER + place_C, vocab.DIGIT + board_C, jnp.full(C, vocab.TOKEN[";"])], axis=1)
        return jnp.where(put_C[:, None], row_Cx3, vocab.PAD).reshape(-1)

    detour_KxD = jax.vmap(walk)(cell_K, digit_K, walk_word.reshape(K, C))
    return steps._replace(detour_KxD=detour_KxD, before_K=cell_K)
