"""Board games: searches, perfect play and counts of fleets against plain Python, and whole games."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxpost import tasks
from jaxpost.tasks import battleship, connect_four, environment, four_in_a_row, tictactoe, vocab
from tests.tasks import plain, plain_games
from tests.tasks.test_puzzles import drawn

SMALL = {"rows": 4, "columns": 4, "depth": 0}


def texts(batch):
    return [plain.text(prompt[prompt != vocab.PAD])[1:] for prompt in np.asarray(batch.prompt_NxP)]


@functools.cache
def small():
    """(positions of games of random moves on the board of 4 x 4 as text, the same as problems)."""
    rng, found = np.random.default_rng(0), []
    while len(found) < 64:
        rows = ("....",) * 4
        for ply in range(rng.integers(5, 13)):
            rows = plain_games.dropped(rows, rng.choice([c for c in range(4) if rows[0][c] == "."]), "xo"[ply % 2])
        if not any(plain_games.four(plain_games.stones(rows, mark), 4) for mark in "xo"):
            found.append(("xo"[sum(row.count(".") for row in rows) % 2], rows))
    stone_Nx2xR = np.asarray([[bits(rows, mark) for mark in "xo"] for _, rows in found], np.int32)
    four, none = np.full(len(found), 4, np.int32), np.zeros(len(found), np.int32)
    return found, connect_four.Problem(stone_Nx2xR, four, four, none, none)


def bits(rows, mark, room=4):
    """Rows of bits of a player, the lowest first, with empty ones above them."""
    found = [sum((cell == mark) << c for c, cell in enumerate(row)) for row in reversed(rows)]
    return np.asarray(found + [0] * (room - len(rows)), np.int32)


@pytest.mark.parametrize("label", ["connect_four", "battleship"])
def test_no_board_of_training_is_evaluated_in_another_form(label):
    _, batches = drawn(label)
    form = {split: set().union(*(plain_games.forms(split, prompt) for prompt in texts(batch)))
            for split, batch in batches.items()}
    assert len(form["train"]) > 256 and not any(form["train"] & form[split] for split in form if split != "train")


def test_four_in_a_row_is_found_wherever_it_lies_and_never_around_the_edge():
    directions = ((0, 1), (1, 0), (1, 1), (1, -1))
    for height, width in ((4, 4), (5, 7), (8, 8)):
        found, expected = [], []
        for (r, c), (dr, dc) in itertools.product(np.ndindex(height, width), directions):
            cells = {((r + i * dr) % height, (c + i * dc) % width) for i in range(4)}
            rows = ["".join("x" if (i, j) in cells else "." for j in range(width)) for i in range(height)]
            expected.append(any(all((y + i * dy, x + i * dx) in cells for i in range(4)) for y, x in cells
                                for dy, dx in directions))
            found.append(bits(rows, "x", max(height, width)))
            assert plain_games.four(plain_games.stones(rows, "x"), height) == expected[-1]
        np.testing.assert_array_equal(four_in_a_row.lines(jnp.asarray(np.stack(found))), expected)
        assert {True, False} == set(expected)


def test_the_small_board_is_solved_as_plain_recursion_solves_it():
    """161,029 positions come about, perfect play is a draw, and columns are worth what they are to the end of the game."""
    value = four_in_a_row.solved()
    assert (value > -2).sum() == 161_029 and value[sum(1 << (5 * c) for c in range(4))] == 0 and value.min() == -2
    found, problems = small()
    worth_N, legal_N = map(np.asarray, jax.jit(jax.vmap(lambda made: four_in_a_row.worths(made, 0)))(problems))
    expected = [plain_games.worth(rows, mover, None) for mover, rows in found]
    assert [{c: w for c, (w, fair) in enumerate(zip(*row)) if fair} for row in zip(worth_N, legal_N)] == expected
    assert {w for row in expected for w in row.values()} == {-1, 0, 1}


def test_games_of_a_perfect_player_end_as_the_position_is_worth_or_better_against_a_random_one():
    """Against the perfect opponent, the last eight name a column that is not there, and lose at once."""
    found, problems = small()
    marks_1x1x1x2 = jnp.asarray(vocab.encode("xo"))[None, None, None]

    def best(seen_NxP, key):
        stones = (seen_NxP[:, 3:-1].reshape(-1, 4, 5)[:, ::-1, :4, None] == marks_1x1x1x2).astype(jnp.int32)
        stone_Nx2xR = jnp.sum(stones << jnp.arange(4)[None, None, :, None], axis=2).transpose(0, 2, 1)
        seen = problems._replace(stone_2xR=stone_Nx2xR)
        move_N = jax.vmap(lambda made: jnp.argmax(four_in_a_row.best(*four_in_a_row.worths(made, 0))))(seen)
        return jnp.stack([vocab.DIGIT + move_N, jnp.full(len(move_N), vocab.EOS)], axis=1)

    def not_all_best(seen_NxP, key):
        return best(seen_NxP, key).at[-8:, 0].set(vocab.TOKEN["7"])

    def played(act, opponent):
        loop = connect_four.loop(SMALL, turns=8, opponent=opponent)
        return jax.jit(lambda: environment.closed_loop(loop, problems, act, jax.random.key(0)))()

    worth = np.asarray([(1 + max(plain_games.worth(rows, mover, None).values())) / 2 for mover, rows in found])
    assert set(worth) == {0, 0.5, 1}
    strong = played(not_all_best, "best")
    np.testing.assert_array_equal(strong.reward_N, np.append(worth[:-8], np.zeros(8)))
    assert (np.asarray(strong.turns_N)[-8:] == 1).all()
    weak = np.asarray(played(best, "random").reward_N)
    assert (weak >= worth).all() and weak.mean() > worth.mean()


def stones_of_games(side, depth, games):
    """How many stones stand in positions 1 to `depth` (1 to 6 of perfect play) plies before the end of games of random moves.

    Of those positions in which some columns with room are right and some are wrong; a game ends by a win or by a full board.
    """
    rng, count = np.random.default_rng(0), np.zeros(side * side, int)
    for _ in range(games):
        played, over = [("." * side,) * side], False
        while not over and "." in played[-1][0]:
            rows, mark = played[-1], "xo"[(len(played) - 1) % 2]
            played.append(plain_games.dropped(rows, rng.choice([c for c in range(side) if rows[0][c] == "."]), mark))
            over = plain_games.four(plain_games.stones(played[-1], mark), side)
        taken = len(played) - 1 - rng.integers(1, (depth or 6) + 1)
        count[taken] += len(set(plain_games.worth(played[taken], "xo"[taken % 2], depth or None).values())) > 1
    return count


@pytest.mark.parametrize(("options", "splits", "count"), [
    (SMALL, ("train", "id"), 640),
    pytest.param({"rows": 4, "columns": 4, "depth": 3}, ("ood/larger",), 4096, marks=pytest.mark.slow)])
def test_positions_have_as_many_stones_as_in_games_that_a_win_or_a_full_board_ends(options, splits, count):
    """Chi-square of two samples, numbers of stones with few of both taken together.

    It is 4 and 37 with 10 and 19 degrees of freedom, and was 161 (of 1,024) and 111 while games that fill it were missing.
    """
    task, side = tasks.get("connect_four", **options), 4 + (splits == ("ood/larger",))
    batches = [tasks.examples(task, split, np.arange(count, dtype=np.uint32)) for split in splits]
    stones_N = np.concatenate([np.bitwise_count(np.asarray(batch.problem.stone_2xR)).sum(axis=(1, 2)) for batch in batches])
    found = np.bincount(stones_N, minlength=side * side)
    expected = stones_of_games(side, options["depth"], 2 * count * len(splits))
    common = found + expected >= 40
    table_2xK = np.asarray([[*row[common], row[~common].sum()] for row in (found, expected)])
    chance_2xK = table_2xK.sum(axis=1, keepdims=True) * table_2xK.sum(axis=0) / table_2xK.sum()
    assert common.sum() > 8 and scipy.stats.chi2.sf(((table_2xK - chance_2xK)**2 / chance_2xK).sum(), common.sum()) > 1e-5


def test_three_plies_are_searched_as_in_plain_python_and_difficulty_is_the_shortest_search_that_suffices():
    task = tasks.get("connect_four")
    batch = tasks.examples(task, "train", np.arange(24, dtype=np.uint32))
    assert tasks.digest(task, "train", 24)[:12] == "61f90c1588cd", "the data changed: raise VERSION, and update this digest"
    read = jax.jit(jax.vmap(lambda made: (*four_in_a_row.worths(made, 3), task.difficulty(made))))
    for text, worth_C, legal_C, plies in zip(texts(batch), *map(np.asarray, read(batch.problem))):
        mover, rows = plain_games.position("train", text)
        values = [plain_games.worth(rows, mover, depth) for depth in (1, 2, 3)]
        assert {c: w for c, (w, fair) in enumerate(zip(worth_C, legal_C)) if fair} == values[2]
        right = [{c for c, w in row.items() if w == max(row.values())} for row in values]
        assert plies == 1 + right.index(right[2])


def test_battleship_ends_when_all_is_sunk_and_a_second_shot_at_a_cell_loses():
    _, batches = drawn("battleship")
    made = jax.tree.map(lambda x: x[:32], batches["train"].problem)
    left_N = np.asarray([bin(ship & ~shot).count("1") for ship, shot in zip(np.asarray(made.ship), np.asarray(made.shot))])

    def shots(right):
        """Shoots at a cell where a ship is (right), or at the first cell that was shot at."""
        def act(seen_NxP, key):
            cell_NxS = seen_NxP[:, -30:].reshape(-1, 5, 6)[:, :, :5].reshape(-1, 25)
            open_NxS = cell_NxS == vocab.TOKEN["."]
            wanted_NxS = open_NxS & jax.vmap(battleship.bits)(made.ship) if right else ~open_NxS
            cell_N = jnp.argmax(wanted_NxS, axis=1)
            return jnp.stack([vocab.DIGIT + cell_N // 5, vocab.DIGIT + cell_N % 5, jnp.full_like(cell_N, vocab.EOS)], axis=1)
        return act

    def played(act, turns):
        return jax.jit(lambda: environment.closed_loop(battleship.loop(turns=turns), made, act, jax.random.key(0)))()

    long = played(shots(True), 7)
    np.testing.assert_array_equal(long.reward_N, 1.0)
    np.testing.assert_array_equal(long.turns_N, left_N)
    np.testing.assert_array_equal(played(shots(True), 3).reward_N, left_N <= 3)
    lost = played(shots(False), 3)
    assert not np.asarray(lost.reward_N).any() and (np.asarray(lost.turns_N) == 1).all() and 3 < left_N.max() <= 7


def closed(name, turns, options, count=24):
    """(the closed loop, problems of split id as text, the problems)."""
    batch = tasks.examples(tasks.get(name, **options), "id", np.arange(count, dtype=np.uint32))
    return tasks.closed(name, turns, **options), texts(batch), batch.problem


def rewards_of(task, problems, actions):
    """Rewards of episodes with these actions, lists of texts; behind their last one it is named again."""
    A, P = task.episodes.action.completion_len, task.episodes.action.prompt_len
    row_NxT = np.full((len(actions), task.completion_len), vocab.PAD, np.int32)
    for row_T, said in zip(row_NxT, actions):
        for u in range(task.episodes.environment.turns):
            row_T[u * (A + P):u * (A + P) + A] = [*vocab.encode(said[min(u, len(said) - 1)]), vocab.EOS]
    return np.asarray(jax.jit(jax.vmap(task.verify))(problems, row_NxT))


def game(text, turns):
    """(columns of the first player, its reward) where both play the first of their best columns, in at most `turns`."""
    mover, rows = plain_games.position("id", text)
    said = []
    for ply in range(2 * turns):
        mark = mover if ply % 2 == 0 else {"x": "o", "o": "x"}[mover]
        worth = plain_games.worth(rows, mark, None)
        column = min(c for c, value in worth.items() if value == max(worth.values()))
        said += [str(column)] if mark == mover else []
        rows = plain_games.dropped(rows, column, mark)
        if plain_games.four(plain_games.stones(rows, mark), 4):
            return said, float(mark == mover)
        if "." not in rows[0]:
            return said, 0.5
    return said, 0.0


def test_episodes_of_best_columns_end_as_in_plain_python_in_the_closed_loop_of_connect_four():
    task, shown, problems = closed("connect_four", 3, SMALL)
    said, expected = zip(*(game(text, 3) for text in shown))
    np.testing.assert_array_equal(rewards_of(task, problems, said), expected)
    assert set(expected) == {0, 0.5, 1} and {len(columns) for columns in said} == {1, 2, 3}


def salvo(text, ship, turns):
    """(cells that are shot at, reward) where each shot is at the first of the likeliest cells, in at most `turns`."""
    head, board = text.removesuffix("?").split(":")
    cells, said = list(board), []
    for _ in range(turns):
        r, c = min(plain_games.likeliest(f"{head}:{''.join(cells)}?"))
        said.append(f"{r}{c}")
        cells[6 * r + c] = "x" if ship >> (5 * r + c) & 1 else "o"
        if cells.count("x") == int(ship).bit_count():
            return said, 1.0
    return said, 0.0


def test_episodes_of_shots_at_likeliest_cells_end_as_in_plain_python_in_the_closed_loop_of_battleship():
    task, shown, problems = closed("battleship", 10, {})
    said, expected = zip(*(salvo(text, int(ship), 10) for text, ship in zip(shown, np.asarray(problems.ship))))
    np.testing.assert_array_equal(rewards_of(task, problems, said), expected)
    assert set(expected) == {0, 1} and len({len(cells) for cells in said}) > 2


@pytest.mark.parametrize(("call", "message"), [
    (lambda: tasks.get("connect_four", rows=3), "rows=3, expected an integer from 4 to 7"),
    (lambda: tasks.get("connect_four", depth=5), "depth=5, expected 0"),
    (lambda: tasks.get("connect_four", depth=0), "depth=0, expected 1 to 4 plies, or rows=4 and columns=4"),
    (lambda: tasks.get("battleship", fleet=(2, 3)), "descending order"),
    (lambda: tasks.get("battleship", fleet=(5, 5, 5, 5)), "ships that fit"),
    (lambda: tasks.get("battleship", fleet=(4, 2)), "another one than fleet"),
    (lambda: tasks.get("battleship", shots=2), "shots=2, expected an integer from 3 to 16"),
    (lambda: connect_four.loop(depth=7), "depth of the opponent=7, expected 1 to 4"),
    (lambda: tictactoe.loop(opponent="bets"), "unknown opponent 'bets'.*'best'"),
])
def test_what_is_out_of_range_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
