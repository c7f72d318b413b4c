"""Puzzles and graded tasks: what every family promises, against plain Python, and what each claims of itself."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import tasks
from jaxpost.probes.policy import strategies
from jaxpost.tasks import arc, environment, tictactoe, urns, vocab
from tests.tasks import plain, plain_puzzles
from tests.tasks.test_worlds import fuzzed

COUNT = 256
FAMILIES = {"sudoku": ("sudoku", {}), "arc": ("arc", {}), "ranking": ("ranking", {}),
            "ranking/ndcg": ("ranking", {"score": "ndcg"}), "jigsaw": ("jigsaw", {}), "tools": ("tools", {}),
            "tools/intermediate": ("tools", {"score": "intermediate"}), "urns": ("urns", {}),
            "urns/likeliest": ("urns", {"answer": "likeliest"}), "few_shot": ("few_shot", {}),
            "tictactoe": ("tictactoe", {}), "connect_four": ("connect_four", {"depth": 2}), "battleship": ("battleship", {}),
            "omega": ("omega", {"skills": ("rank", "draws", "gcd", "roots", "paths")}),
            "variations": ("variations", {}), "backdoors": ("backdoors", {}), "teachers": ("teachers", {})}
GRADED = ("ranking", "ranking/ndcg", "tools", "tools/intermediate", "urns/likeliest")
BOUND = {"ranking": 0.4, "tools": 0.3, "tictactoe": 0.6, "connect_four": 0.4, "urns": 0.35, "teachers": 0.52}  # above a quarter
DEAR = ("sudoku", "arc", "ranking", "tools", "connect_four", "omega")  # whose baselines take a second and more
GOLDEN = {  # first 12 digits of the digest of each split
    "sudoku": ["74b142561d6e", "dc20d958c5b3", "cb1f9b4af0b3"],
    "arc": ["2743b53b5e09", "7f55545755ab", "8340795e40e5", "bd363a368a79"],
    "ranking": ["429def1302b3", "42f5dd4c10b0", "cb3cf85d4bd6", "c55b9041357b"],
    "jigsaw": ["573c841c6f47", "7a47eabb40a5", "ab8636f7d6dc", "88754602b5f2"],
    "tools": ["7101e829aac1", "0dea1bd10566", "bfc678a81395", "8109726ae3ba", "190b629dad88"],
    "urns": ["9ec750855201", "40ff5838c94d", "6edf7ba38811"],
    "few_shot": ["428bcfc2a350", "e2ec0aa4ed8d", "f370e239299f", "6f7ad4fdf123", "1304da4139e2"],
    "tictactoe": ["3b5ff964f580", "4f40029ba0e8", "3878b4123682"],
    "connect_four": ["8c13bc72697b", "b9f4b54c3118", "495942714703", "4226342b9377", "0a0531b06832"],
    "battleship": ["73ee43530a89", "54a8045fa791", "ac57ff5110c7", "a186a8e565c8", "1e6ac07e7be2"],
    "omega": ["6efdf12efec0", "c006be37fce9", "d65cd3185e29", "126dfe014661", "07287a035330"],
    "variations": ["b65635fbb759", "8791f4f5d9c0", "63a64fd93933", "89e8afaf441f"],
    "backdoors": ["f3298fefa139", "8e918e6cf8c0", "046b89bfe408", "7c0d2762d5c1"],
    "teachers": ["4c7b6df4ff6d", "3a87afb72d37", "6c19594b5c3c"],
}


@functools.cache
def drawn(label):
    """(task, {split: examples}), of one program; a label with a stroke has the problems of its family under another score."""
    name, options = FAMILIES[label]
    task = tasks.get(name, **options)
    if label != name:
        oracle = jax.jit(jax.vmap(task.oracle, in_axes=(0, None)))
        return task, {split: batch._replace(answer_NxT=oracle(batch.problem, None)) for split, batch in drawn(name)[1].items()}
    return task, {split: tasks.examples(task, split, np.arange(COUNT, dtype=np.uint32)) for split in task.splits}


@functools.partial(jax.jit, static_argnums=0)
def _verify(task, problem_N, tokens_NxT):
    return jax.vmap(task.verify)(problem_N, tokens_NxT)


def rewards(task, problem_N, tokens_NxT):
    return np.asarray(_verify(task, problem_N, np.asarray(tokens_NxT, np.int32)))


@pytest.mark.parametrize("label", FAMILIES)
def test_oracles_score_one_and_what_is_not_an_answer_nothing(label):
    task, batches = drawn(label)
    for split, batch in batches.items():
        answer, prompt = np.asarray(batch.answer_NxT), np.asarray(batch.prompt_NxP)
        assert (rewards(task, batch.problem, answer) == 1).all(), split
        ended = np.cumsum(answer == vocab.EOS, axis=1)
        assert (ended[:, -1] == 1).all() and ((answer == vocab.PAD) == (ended - (answer == vocab.EOS) > 0)).all(), split
        begun = np.cumsum(prompt == vocab.BOS, axis=1)
        assert (begun[:, -1] == 1).all() and ((prompt == vocab.PAD) == (begun == 0)).all() and prompt.max() < task.vocab_size
        noise = np.random.default_rng(0).integers(0, task.vocab_size, answer.shape)
        assert (rewards(task, batch.problem, np.where(answer == vocab.PAD, noise, answer)) == 1).all(), split
        alone = np.resize([-(2**31), -1, *range(task.vocab_size + 1), 2**31 - 1], COUNT)[:, None]
        for bad in (np.where(answer == vocab.EOS, vocab.PAD, answer), np.where(answer == vocab.EOS, vocab.BOS, answer),
                    np.concatenate([np.full((COUNT, 1), vocab.EOS), answer[:, :-1]], axis=1),
                    np.repeat(alone, answer.shape[1], axis=1)):
            assert not rewards(task, batch.problem, bad).any(), split
        if label in GOLDEN:
            found = tasks.digest_of(task, split, batch.prompt_NxP, batch.answer_NxT)[:12]
            assert found == GOLDEN[label][list(batches).index(split)], split


@pytest.mark.parametrize("label", GOLDEN)
def test_no_problem_of_training_is_evaluated_in_another_form(label):
    task, batches = drawn(label)
    canonical = jax.jit(jax.vmap(task.content))
    content = {split: {row.tobytes() for row in np.asarray(canonical(batch.problem))} for split, batch in batches.items()}
    assert not any(content["train"] & content[split] for split in content if split != "train")


def unseen(batch):
    """What the prompt of a problem does not tell, as an option of the plain verifier."""
    if not isinstance(batch.problem, urns.Problem):
        return [{}] * COUNT
    return [{"truth": (int(ball), weight)} for ball, weight in zip(batch.problem.following, batch.problem.weight_C.tolist())]


@pytest.mark.parametrize("label", FAMILIES)
def test_fuzzed_completions_score_as_in_plain_python(label):
    task, batches = drawn(label)
    name, options = FAMILIES[label]
    graded = set()
    for turn, (split, batch) in enumerate(batches.items()):
        rng = np.random.default_rng(turn)
        random = rng.integers(0, task.vocab_size, batch.answer_NxT.shape)
        for tokens_NxT in (fuzzed(rng, task, np.asarray(batch.answer_NxT)), np.asarray(batch.answer_NxT)[::-1], random):
            reward_N = rewards(task, batch.problem, tokens_NxT)
            expected = [plain_puzzles.reward(name, options | hidden, split, [int(t) for t in prompt if t], completion)
                        for prompt, completion, hidden in zip(np.asarray(batch.prompt_NxP), tokens_NxT.tolist(), unseen(batch))]
            np.testing.assert_allclose(reward_N, expected, atol=1e-6, err_msg=split)
            assert (reward_N[np.asarray(expected) == 0] == 0).all() and (reward_N[np.asarray(expected) == 1] == 1).all()
            graded |= set(reward_N.tolist())
    assert {0.0, 1.0} <= graded and (len(graded) > 2) == (label in GRADED)


@pytest.mark.parametrize("label", [
    pytest.param(label, marks=pytest.mark.slow if label in DEAR else ()) for label in GOLDEN])
def test_guess_baselines_are_small(label):
    task, _ = drawn(label)
    assert all(0 < task.guess(split) <= BOUND.get(label, 0.25) for split in ("train", list(task.splits)[-1]))


@pytest.mark.parametrize("call, message", [
    (lambda: tasks.get("sudoku", empty=(0, 3)), r"empty=\(0, 3\), expected \(low, high\) with 1 <= low <= high <= 10"),
    (lambda: tasks.get("arc", held="left"), r"held='left', expected one of \('right', 'wrap'\)"),
    (lambda: tasks.get("arc", length=(5, 9)), r"length=\(5, 9\), expected \(low, high\) with 8 <= low"),
    (lambda: tasks.get("ranking", score="recip"), "unknown score of task 'ranking' 'recip'; did you mean 'reciprocal'"),
    (lambda: tasks.get("ranking", length=6), "length=6, expected an integer from 1 to candidates = 5"),
    (lambda: tasks.get("ranking", traits=1), "traits=1, expected an integer from 2 to 6"),
    (lambda: tasks.get("jigsaw", rows=1, columns=1), "columns=1, expected 2 or 3 where rows is 1"),
    (lambda: tasks.get("jigsaw", patterns=("rings", "gradent")), "unknown pattern .* 'gradent'; did you mean 'gradient'"),
    (lambda: tasks.get("tools", tools=2, calls=2), "calls=2, expected an integer from 1 to 1"),
    (lambda: tasks.get("tools", score="course"), "unknown score of task 'tools' 'course'; did you mean 'coarse'"),
    (lambda: tasks.get("urns", answer="next"), r"answer='next', expected one of \('draw', 'likeliest'\)"),
    (lambda: tasks.get("urns", length=4), "length=4, expected an integer from 8 to 256"),
    (lambda: tasks.get("few_shot", flips=3), r"flips=3, expected an integer from 1 to \(attributes - 2\) // 2 = 2"),
    (lambda: tasks.get("omega", skills=("rank", "draw")), "unknown skill of task 'omega' 'draw'; did you mean 'draws'"),
    (lambda: tasks.get("omega", style="cot"), "unknown style of task 'omega' 'cot'"),
    (lambda: tasks.get("omega", skills=("gcd", "gcd")), r"skills=\('gcd', 'gcd'\), expected different names of \('paths'"),
    (lambda: tasks.get("variations", originals=257), "originals=257, expected an integer from 0 to 256"),
    (lambda: tasks.get("backdoors", stage="narow"), "unknown stage of task 'backdoors' 'narow'; did you mean 'narrow'"),
    (lambda: tasks.get("backdoors", held=5), "held=5, expected an integer from 1 to 4"),
    (lambda: tasks.get("teachers", inputs=20), "inputs=20, expected an odd number from 5 to 63"),
    (lambda: tasks.get("teachers", flipped=22), "flipped=22, expected an integer from 0 to inputs = 21"),
    (lambda: tasks.get("sudoku", ood_empty=(9, 11)), r"ood_empty=\(9, 11\), expected \(low, high\) with 10 <= low"),
])
def test_options_out_of_range_name_the_valid_ones(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_detours_of_arc_are_wrong_rules_and_the_last_is_right():
    task, batches = drawn("arc")
    traced, batch = tasks.get("arc", style="backtrack(2)"), batches["ood/rule"]
    tokens = np.asarray(jax.jit(jax.vmap(traced.oracle))(batch.problem, jax.random.split(jax.random.key(1), COUNT)))
    assert (rewards(traced, batch.problem, tokens) == 1).all()
    for prompt, row in zip(np.asarray(batch.prompt_NxP), tokens):
        pairs = [pair.split(">") for pair in plain.text(prompt).strip("_^").split(";")[:-1]]
        pieces = plain.text(row)[1:].split("]")[0].split("~")
        names = [arc.RULES[plain.number_of(piece[0])] for piece in pieces]
        assert len(set(names)) == 3 and "right" in names[2] and not any("right" in name for name in names[:2])
        for name, piece in zip(names, pieces):
            made = [plain_puzzles.ARC[name](a) for a, _ in pairs]
            assert piece == "".join(piece[0] + x + ("=" if x == b else "!") for x, (_, b) in zip(made, pairs))


def test_every_order_of_a_jigsaw_that_gives_a_picture_is_right():
    """All 24 orders of 4 patches; with score="patches" the others are worth the share of patches in their place."""
    task, batches = drawn("jigsaw")
    shares, batch = tasks.get("jigsaw", score="patches"), batches["train"]
    prompts = [plain.text(prompt).strip("_^") for prompt in np.asarray(batch.prompt_NxP)]
    cut = [plain.text(answer)[:4] for answer in np.asarray(batch.answer_NxT)]
    for order in itertools.permutations("abcd"):
        tokens = np.tile(np.asarray(vocab.encode("".join(order) + "$___")[:task.completion_len]), (COUNT, 1))
        for options, scored in (({}, task), ({"score": "patches"}, shares)):
            expected = [plain_puzzles.jigsaw(options | {"cut": c}, "train", p, "".join(order)) for p, c in zip(prompts, cut)]
            np.testing.assert_array_equal(rewards(scored, batch.problem, tokens), np.asarray(expected, np.float32))


def test_predictors_of_urns_are_bayes_and_each_wins_where_its_prior_holds():
    """Against float64 loops; on fixed urns the memorising predictor has more expected log-likelihood, on new ones less."""
    _, batches = drawn("urns")
    weight_DxC = np.asarray(urns.fixed(8, 6))
    assert (weight_DxC.sum(axis=1) == urns.SCALE).all()
    both = jax.jit(jax.vmap(lambda ball_L: (urns.memorising(urns.counts(ball_L, 6), jnp.asarray(weight_DxC)),
                                            urns.generalising(urns.counts(ball_L, 6)))))
    gain = {}
    for split, batch in batches.items():
        memorising, generalising = (np.asarray(x, float) for x in both(batch.problem.ball_L))
        for row, balls in enumerate(np.asarray(batch.problem.ball_L)[:32]):
            chance_D = [np.prod([w[b] / urns.SCALE for b in balls], dtype=float) for w in weight_DxC]
            if sum(chance_D):
                mixed = sum(c * w / urns.SCALE for c, w in zip(chance_D, weight_DxC)) / sum(chance_D)
                np.testing.assert_allclose(memorising[row], mixed, atol=2e-5)
            np.testing.assert_allclose(generalising[row], (np.bincount(balls, minlength=6) + 1) / (24 + 6), rtol=1e-6)
        ratio = np.log(np.maximum(memorising, 1e-9)) - np.log(generalising)
        gain[split] = np.sum(np.asarray(batch.problem.weight_C) / urns.SCALE * ratio) / COUNT
    assert gain["id"] > 0.02 and gain["ood/fresh"] < -0.05
    m, g = np.maximum(memorising, 1e-9)[None], generalising[None]
    distances = [strategies.relative_distance(h, m, g, np.zeros((1, COUNT))).interval.value[0] for h in (g, (m + g) / 2, m)]
    assert distances[0] == 0 and 0.1 < distances[1] < 0.9 and distances[2] == 1


def test_classes_learned_by_heart_are_wrong_where_names_are_turned():
    """A table from prototypes to names, made of training, is right in id and never in ood/names; labels are balanced."""
    _, batches = drawn("few_shot")
    heart = {}
    for problem in (batches["train"].problem, batches["id"].problem, batches["ood/names"].problem):
        rows, names = np.asarray(problem.prototype_KxF), np.asarray(problem.name_K)
        nearest = [(rows[i, k].tobytes(), names[i, k]) for i, k in enumerate(np.asarray(problem.label))]
        heart = heart or dict(nearest)
        turned = problem is batches["ood/names"].problem
        assert len(heart) == 4 and {heart[row] == name for row, name in nearest} == {not turned}
    assert np.bincount(np.asarray([list(heart).index(row) for row, _ in nearest])).min() > COUNT / 4 - 25
    assert set(np.asarray(batches["ood/dataset"].problem.name_K).reshape(-1).tolist()).isdisjoint(heart.values())


def test_games_of_a_perfect_player_end_as_the_position_is_worth():
    """Closed loop from every position of train: a win where there is one, else a draw; an occupied cell loses at once."""
    task, loop = tasks.get("tictactoe"), tictactoe.loop()
    listed = tasks.table(task, "train")
    marks = jnp.asarray(vocab.encode("xo"))

    def best(seen_NxP, key):
        cell_Nx9 = jnp.sum((seen_NxP[:, 3:12, None] == marks[None, None]) * jnp.arange(1, 3)[None, None], axis=2)
        move_N = jnp.argmax(jax.vmap(tictactoe.right)(cell_Nx9), axis=1)
        return jnp.stack([vocab.DIGIT + move_N, jnp.full(len(move_N), vocab.EOS)], axis=1)

    def taken(seen_NxP, key):
        move_N = jnp.argmax(seen_NxP[:, 3:12] != vocab.TOKEN["."], axis=1)
        return jnp.stack([vocab.DIGIT + move_N, jnp.full(len(move_N), vocab.EOS)], axis=1)

    played = jax.jit(lambda p, act: environment.closed_loop(loop, p, act, jax.random.key(0)), static_argnums=1)
    prompts = [plain.text(prompt)[1:-1].split(":") for prompt in np.asarray(listed.prompt_NxP)]
    worth = [(1 + plain_puzzles.game_value(board, mover)) / 2 for mover, board in prompts]
    np.testing.assert_array_equal(played(listed.problem, best).reward_N, worth)
    assert set(worth) == {0.5, 1.0} and len(worth) > 500
    some = jax.tree.map(lambda x: x[np.asarray([set(board) != {"."} for _, board in prompts])], listed.problem)
    lost = played(some, taken)
    assert not np.asarray(lost.reward_N).any() and (np.asarray(lost.turns_N) == 1).all()


def test_sudokus_have_one_solution_and_detours_fail():
    task, batches = drawn("sudoku")
    for batch in batches.values():
        for prompt, answer in zip(np.asarray(batch.prompt_NxP)[:32], np.asarray(batch.answer_NxT)):
            assert plain_puzzles.solutions(plain.text(prompt)[1:-1]) == [plain.text(answer)[:16]]
    traced = tasks.get("sudoku", style="backtrack(2)")
    key_N = jax.random.split(jax.random.key(1), COUNT)
    batch, text = batches["ood/empty"], plain.text
    tokens = jax.jit(jax.vmap(traced.oracle))(batch.problem, key_N)
    assert (rewards(traced, batch.problem, tokens) == 1).all()
    deep = 0
    for prompt, row in zip(np.asarray(batch.prompt_NxP), np.asarray(tokens)):
        thought, answer = text(row)[1:].split("]")
        given, (*wrong, last) = list(text(prompt)[1:-1]), thought.split("~")
        board = list(given)
        assert len(wrong) == 2
        for i, piece in enumerate((*wrong, last)):
            moves = [(ord(m[0]) - ord("a"), m[1]) for m in piece.split(";")[:-1]]
            right = [all(answer[c] == d for c, d in moves[:k + 1]) for k in range(len(moves))]
            assert i == 2 or not right[-1]
            for k, (cell, digit) in enumerate(moves):
                assert board[cell] == "." and cell == board.index(".")
                if right[k]:
                    board[cell] = digit
                else:
                    break
            if i < 2:
                branch = list(board)
                for cell, digit in moves[right.count(True):]:
                    assert branch[cell] == "."
                    branch[cell] = digit
                deep += len(moves) - right.count(True) > 1
                stuck = "".join(branch)
                assert not plain_puzzles.consistent(stuck) or not any(
                    plain_puzzles.consistent(stuck.replace(".", d, 1)) for d in "1234")
        assert "".join(board) == answer[:16]
    assert deep > COUNT // 2  # detours of more than one digit
