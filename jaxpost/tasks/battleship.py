"""Battleship: where on a board of 5 x 5 a shot most likely hits, and games until the fleet is sunk.

Prompt `322:..x.o;.....;o.x..;.....;....o?` (the lengths of the ships, then the rows: `.` not shot at, `x` hit, `o` miss),
answer row and column, `03$`, counted from 0. Ships lie flat or upright and do not touch, at corners neither. With every such
fleet equally likely,

    P(cell) = #{fleets with a ship there that have all hits and no miss} / #{fleets that have all hits and no miss}

by counting them all, and every cell of the largest P that was not shot at is right; the oracle names the first. After "Show,
Don't Tell: Evaluating Large Language Models Beyond Textual Understanding with ChildPlay" (its board and symbols, in the letters
that we have); reconstructed: the fleets, of which its description leaves open how they fit, and that corners touch; differs
from it in: single positions as well, one player, and no word on which ship was hit or sunk. The likeliest cell is the best
next shot, not always the first of the shortest way to sink all. Content is the fleet and the board up to turning and mirroring.

`loop(options)` is the closed loop from such a position: a shot a turn at one fleet. A game ends with reward 1 where all is sunk
within its turns, 0 else; a shot that is none, or at a cell that was shot at, loses.

Splits: train, id (the first fleet, up to `shots` shots), ood/shots (up to six more), ood/fleet (the other fleet), ood/marks
(`a` hit, `b` miss). Shots are at random cells.

Difficulty: cells that were not shot at. Guess baseline: the better of a random one of them and one cell for every position,
measured over 1,024 problems.

Legend: S = 25 cells, K fleets of both kinds.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxpost.tasks import base, environment, games, traces, vocab

NAME, VERSION = "battleship", 1
PAPER, VERIFIER = "after ChildPlay (see the module)", "counting fleets: any likeliest cell"
SIDE, S = 5, 25
LONGEST_FLEET = 4  # ships
FLEET, OTHER_FLEET = (3, 2, 2), (4, 2)


class Problem(NamedTuple):
    """A fleet, the cells that were shot at (bit s is cell s), which kind of fleet it is, and the marks."""

    ship: Any  # i32[], not shown
    shot: Any  # i32[]
    kind: Any  # i32[]
    other: Any  # i32[], whether hit and miss have their other marks


@functools.cache
def fleets(lengths: tuple[int, ...]) -> np.ndarray:
    """i32[K]: all fleets of ships of these lengths that do not touch, as bits of their cells, in ascending order."""
    placed = {(0, 0)}  # (cells, cells and their neighbours)
    for length in lengths:
        places = [_ship(r, c, dr, dc, length) for dr, dc in ((0, 1), (1, 0)) for r in range(SIDE - dr * (length - 1))
                  for c in range(SIDE - dc * (length - 1))]
        placed = {(cells | ship, near | around) for cells, near in placed for ship, around in places if not near & ship}
    return np.unique(np.asarray([cells for cells, _ in placed], np.int32))


def _ship(row: int, column: int, down: int, right: int, length: int) -> tuple[int, int]:
    """Bits of a ship's cells, and of them with their neighbours."""
    cells = [(row + down * i, column + right * i) for i in range(length)]
    around = {(r + i, c + j) for r, c in cells for i, j in itertools.product((-1, 0, 1), repeat=2)}
    return tuple(sum(1 << (SIDE * r + c) for r, c in part if 0 <= r < SIDE and 0 <= c < SIDE) for part in (cells, around))


def make(fleet=FLEET, other_fleet=OTHER_FLEET, shots=10, style="answer", room=0):
    """Battleship.

    Args:
        fleet: lengths of the ships of train, in descending order, at most four ships of 1 to 5 cells, two cells at least.
        other_fleet: of ood/fleet, another one.
        shots: most shots of train, 3 to 16; ood/shots has more, up to six.
        style, room: see `traces`; answers only.
    """
    kinds = []
    for option, value in (("fleet", fleet), ("other_fleet", other_fleet)):
        good = isinstance(value, tuple) and 0 < len(value) <= LONGEST_FLEET and all(
            isinstance(x, int) and 1 <= x <= SIDE for x in value) and list(value) == sorted(value, reverse=True)
        base.require(good, NAME, option, value, f"1 to {LONGEST_FLEET} lengths from 1 to {SIDE}, in descending order")
        base.require(value != (1,), NAME, option, value, "at least two cells, as every place of a single one is as likely")
        base.require(len(fleets(value)) > 1, NAME, option, value, "ships that fit on 5 x 5 cells without touching")
        kinds.append(fleets(value))
    base.require(fleet != other_fleet, NAME, "other_fleet", other_fleet, f"another one than fleet={fleet}")
    base.require(isinstance(shots, int) and 3 <= shots <= 16, NAME, "shots", shots, "an integer from 3 to 16")
    rules = Fleets(fleet, other_fleet)

    def setting(fold, low=2, high=shots, kind=0, other=0):
        first = kind * len(kinds[0])
        return base.setting(fold, low=low, high=high, kind=kind, other=other, first=first, count=len(kinds[kind]))

    def sample(key, knobs):
        def draw(ship_word, count_word, cell_word):
            ship = rules.ships[knobs["first"] + base.below(ship_word[0], knobs["count"])]
            order_S = jnp.argsort(cell_word)
            taken_S = jnp.arange(S) < base.span(count_word[0], knobs["low"], knobs["high"])
            shot = jnp.sum(jnp.where(taken_S, jnp.int32(1) << order_S, 0))
            return Problem(ship, shot, *(jnp.asarray(knobs[name], jnp.int32) for name in ("kind", "other")))

        def accept(made):
            right_S, open_S = rules.moves(made)
            return jnp.any(right_S) & jnp.any(open_S & ~right_S) & (base.fold_of(content(made)) == knobs["fold"])

        return base.choose(key, (1, 1, S), draw, accept)

    def answer(made):
        cell = jnp.argmax(rules.moves(made)[0])
        return jnp.stack([vocab.DIGIT + cell // SIDE, vocab.DIGIT + cell % SIDE, jnp.int32(vocab.EOS)]).astype(jnp.int32)

    def verify(made, tokens_A):
        cell = named(tokens_A)
        return (rules.moves(made)[0][cell] & (cell >= 0)).astype(jnp.float32)

    evaluation = functools.partial(setting, base.EVAL_FOLD)
    splits = {"train": setting(base.TRAIN_FOLD), "id": evaluation(), "ood/shots": evaluation(low=shots + 1, high=shots + 6),
              "ood/fleet": evaluation(kind=1), "ood/marks": evaluation(other=1)}
    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=rules.prompt_len, answer_len=3, splits=splits,
        sample=sample, prompt=rules.prompt, answer=answer, verify=verify, content=content,
        guess=functools.cache(lambda split: games.guess_of(task, split, rules.moves)),
        difficulty=lambda made: S - jnp.sum(bits(made.shot)).astype(jnp.float32))
    return task


def loop(task_options: dict | None = None, turns: int = 16) -> environment.Environment:
    """The closed loop of `make(**task_options)`, of at most `turns` shots."""
    options = {"fleet": FLEET, "other_fleet": OTHER_FLEET} | (task_options or {})
    make(**options)  # refuses what is out of range
    rules = Fleets(options["fleet"], options["other_fleet"])

    def step(state, tokens_A):
        made, cell = state.problem, named(tokens_A)
        fair = (cell >= 0) & ~bits(made.shot)[cell]
        made = made._replace(shot=jnp.where(fair, made.shot | (jnp.int32(1) << jnp.maximum(cell, 0)), made.shot))
        sunk = fair & (made.ship & ~made.shot == 0)
        state = games.State(made, state.turn + 1)
        return state, rules.prompt(made), sunk.astype(jnp.float32), sunk | ~fair | (state.turn >= turns)

    return environment.Environment(NAME, turns, lambda problem: games.State(problem, jnp.int32(0)),
                                   lambda state: rules.prompt(state.problem), step)


class Fleets:
    """What can be said of boards, given the lengths of the ships of both kinds of fleet."""

    def __init__(self, *kinds: tuple[int, ...]):
        self._ship_K = np.concatenate([fleets(lengths) for lengths in kinds])
        self._kind_K = np.repeat(np.arange(len(kinds)), [len(fleets(lengths)) for lengths in kinds])
        tokens = [[vocab.DIGIT + length for length in lengths] for lengths in kinds]
        self._length_KxL = np.asarray([row + [vocab.PAD] * (LONGEST_FLEET - len(row)) for row in tokens], np.int32)
        self.prompt_len = 2 + max(map(len, kinds)) + S + SIDE

    @property
    def ships(self):
        """i32[K]."""
        return jnp.asarray(self._ship_K)

    def moves(self, made):
        """(cells where a shot most likely hits, cells that were not shot at), bool[S] each; no likeliest where all is sunk."""
        fits_K = ((self.ships & made.shot) == (made.ship & made.shot)) & (jnp.asarray(self._kind_K) == made.kind)
        count_S = fits_K.astype(jnp.float32) @ jnp.asarray(_bits(self._ship_K), jnp.float32)  # exact: K < 2**24
        open_S = ~bits(made.shot)
        count_S = jnp.where(open_S, count_S, 0.0)
        return open_S & (count_S == jnp.max(count_S)) & (count_S > 0), open_S

    def prompt(self, made):
        """Tokens of a board."""
        mark_3 = games.mark_tokens()[made.other]
        cell_S = jnp.where(bits(made.shot), jnp.where(bits(made.ship), mark_3[1], mark_3[2]), mark_3[0])
        rows = jnp.concatenate([cell_S.reshape(SIDE, SIDE), jnp.full((SIDE, 1), vocab.TOKEN[";"])], axis=1).reshape(-1)[:-1]
        tokens = traces.joined(vocab.BOS, jnp.asarray(self._length_KxL)[made.kind], ":", rows, "?")
        return vocab.pack(tokens, tokens != vocab.PAD, self.prompt_len, "right")


def named(tokens_A):
    """i32[]: the cell of an answer of row, column and EOS, -1 for none."""
    row, column = tokens_A[0] - vocab.DIGIT, tokens_A[1] - vocab.DIGIT
    inside = (row >= 0) & (row < SIDE) & (column >= 0) & (column < SIDE)
    return jnp.where(inside & (tokens_A[2] == vocab.EOS), SIDE * row + column, -1)


def bits(cells):
    """bool[S] of the bits of an i32[]."""
    return (cells >> jnp.arange(S)) & 1 == 1


def _bits(cells_K):
    return (cells_K[:, None] >> np.arange(S)) & 1


def content(made):
    """Hits and shots of that form, turned or mirrored, which comes first; and the kind of fleet."""
    cell_8xS = jnp.asarray(games.symmetries(SIDE))
    power_S = jnp.int32(1) << jnp.arange(S)
    hit_8, shot_8 = (jnp.sum(bits(x)[cell_8xS] * power_S[None], axis=1) for x in (made.ship & made.shot, made.shot))
    first = jnp.lexsort((shot_8, hit_8))[0]
    return jnp.stack([hit_8[first], shot_8[first], made.kind]).astype(jnp.int32)
