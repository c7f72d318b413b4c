"""What the board games share: marks, symmetries of a square, moves as answers, a guess baseline, games against an opponent.

Legend: N problems, M moves, A answer tokens.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.lookup import nearest
from jaxpost.tasks import base, environment, vocab

MARKS = ("xo", "ab")  # the first is that of training


class State(NamedTuple):
    """A game: the problem with its board as it stands."""

    problem: Any
    turn: Any  # i32[]


class Rules(NamedTuple):
    """A game of two players in turn. Functions of a problem, which says who moves next."""

    legal: Callable[[Any], Any]  # bool[M], moves for which there is room, whether or not the game is over
    play: Callable[[Any, Any], Any]  # (problem, a legal move) -> problem
    won: Callable[[Any], Any]  # bool[], whether the last move has won
    best: Callable[[Any], Any]  # bool[M], the moves that are right


def symmetries(side: int) -> np.ndarray:
    """int[8, side * side]: the cells of a square, row by row, turned and mirrored."""
    square = np.arange(side * side).reshape(side, side)
    return np.stack([np.rot90(s, k).reshape(-1) for s in (square, square.T) for k in range(4)])


def mark_tokens() -> jax.Array:
    """i32[2, 3]: tokens of an empty cell and of the two players, with the marks of training and with the others."""
    return jnp.asarray([[vocab.TOKEN[mark] for mark in "." + names] for names in MARKS])


def named(tokens_A, moves: int):
    """i32[]: the move that an answer of one digit and EOS names, -1 for none."""
    move = tokens_A[0] - vocab.DIGIT
    return jnp.where((move >= 0) & (move < moves) & (tokens_A[1] == vocab.EOS), move, -1)


def guess(right_NxM, legal_NxM) -> float:
    """The better of a random legal move and of one move for every position."""
    return float(max((right_NxM.sum(axis=1) / legal_NxM.sum(axis=1)).mean(), right_NxM.mean(axis=0).max()))


def guess_of(task: base.Task, split: str, moves: Callable, count: int = 1024, chunk: int = 256) -> float:
    """`guess` over the first problems of a split; `moves` is problem -> (right moves, legal moves), bool[M] each."""
    each = jax.jit(jax.vmap(moves))
    index = [np.arange(i, i + chunk, dtype=np.uint32) for i in range(0, count, chunk)]
    parts = [each(base.examples(task, split, index_N).problem) for index_N in index]
    return guess(*(np.concatenate([np.asarray(part[i]) for part in parts]) for i in (0, 1)))


OPPONENTS = ("best", "random")


def opponent(name: str, rules: Rules) -> Callable:
    """problem -> move: the first of the moves that are right, or a legal one at random (a function of the board).

    Raises: ValueError for another name.
    """
    if name not in OPPONENTS:
        raise ValueError(f"unknown opponent {name!r}{nearest(name, OPPONENTS)}")

    def random(problem):
        word = base.hash_of(jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(problem)]))
        return nth(rules.legal(problem), word)

    return random if name == "random" else lambda problem: jnp.argmax(rules.best(problem))


def nth(legal_M, word):
    """i32[]: a legal move, chosen by a u32 word; 0 where there is none."""
    count_M = jnp.cumsum(legal_M)
    return jnp.argmax(legal_M & (count_M == 1 + base.below(word, jnp.maximum(count_M[-1], 1))))


def loop(name: str, turns: int, rules: Rules, answers: Callable, reply: Callable, prompt: Callable) -> environment.Environment:
    """The closed loop of a game: a move a turn, of at most `turns`, then the opponent's.

    A game ends with reward 1 for a win, 0.5 for a draw, 0 for a loss; a move that is not legal loses.

    Args:
      answers: i32[A] -> the move that it names, -1 for none.
      reply: problem -> the opponent's move.
    """

    def step(state, tokens_A):
        before, move = state.problem, answers(tokens_A)
        legal_M = rules.legal(before)
        fair = (move >= 0) & (move < legal_M.shape[0]) & legal_M[move]
        mine = rules.play(before, jnp.where(fair, move, 0))
        won = fair & rules.won(mine)
        goes_on = fair & ~won & jnp.any(rules.legal(mine))
        both = jax.tree.map(lambda moved, stood: jnp.where(goes_on, moved, stood), rules.play(mine, reply(mine)), mine)
        after = jax.tree.map(lambda moved, stood: jnp.where(fair, moved, stood), both, before)
        lost = ~fair | (goes_on & rules.won(both))
        drawn = fair & ~won & ~lost & ~jnp.any(rules.legal(both))
        reward = jnp.where(won, 1.0, jnp.where(drawn, 0.5, 0.0))
        state = State(after, state.turn + 1)
        return state, prompt(after), reward, won | lost | drawn | (state.turn >= turns)

    return environment.Environment(name, turns, lambda problem: State(problem, jnp.int32(0)),
                                   lambda state: prompt(state.problem), step)
