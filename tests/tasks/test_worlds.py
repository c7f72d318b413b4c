"""The families of the papers: fuzzed completions against verifiers in plain Python, and what each claims of itself."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import tasks
from jaxpost.tasks import arithmetic, environment, general_points, grid, machine, permutations, rasp, satisfiability
from tests.tasks import plain

COUNT = 256
ROUNDS = 2  # of fuzzed completions a split; the slow test has FUZZED a family
FUZZED = 10_000
CASES = [("general_points", {}), *(("rasp", {"problem": problem}) for problem in rasp.PROBLEMS),
         *(("arithmetic", {"problem": problem}) for problem in arithmetic.PROBLEMS), ("spatial", {}),
         *(("biographies", {"problem": problem}) for problem in ("parametric", "contextual", "composite")), ("gameable", {}),
         ("gameable", {"score": "gaming", "checkers": ("suggestion", "first", "mark", "echo")}), ("slabs", {}),
         *(("machine", {"problem": problem}) for problem in machine.PROBLEMS), ("satisfiability", {}), ("grid", {}),
         ("grid", {"answer": "next", "names": "diverse"}), ("grid", {"world": "lake"}),
         ("facts", {}), ("facts", {"problem": "comparison"})]
NAMED = [pytest.param(name, options, id="-".join([name, *map(str, options.values())])) for name, options in CASES]

REPEATED = ("grid", "rasp-addition_reversed")  # the next step and the lake are plans too, and sums are read either way


@functools.cache
def verifier(task):
    return jax.jit(jax.vmap(task.verify))


def fuzzed(rng, task, answer_NxT):
    """Answers with up to three edits each: a token replaced, dropped or put in; tokens mostly of other answers."""
    used = np.unique(answer_NxT)
    found = []
    for row in answer_NxT.tolist():
        for _ in range(rng.integers(0, 4)):
            end = row.index(plain.EOS) if plain.EOS in row else len(row) - 1
            i, j = rng.integers(0, end + 1, 2)
            edit = rng.integers(0, 4)
            token = int(rng.choice(used)) if rng.integers(0, 8) else int(rng.integers(-2, task.vocab_size + 2))
            row = {0: row[:i] + [token] + row[i + 1:], 1: row[:i] + row[i + 1:] + [0], 2: row[:i] + [token] + row[i:-1],
                   3: row[:i] + [row[j]] + row[i + 1:]}[edit]
        found.append(row)
    return np.asarray(found, np.int32)


def disagreements(name, options, count):
    """[(split, prompt, completion, device, plain)] of at least `count` fuzzed completions over all splits."""
    task, found = tasks.get(name, **options), []
    rounds = -(-count // (COUNT * len(task.splits)))
    for split, turn in itertools.product(task.splits, range(rounds)):
        rng = np.random.default_rng(turn)
        batch = tasks.examples(task, split, np.arange(turn * COUNT, (turn + 1) * COUNT))
        tokens_NxT = fuzzed(rng, task, np.asarray(batch.answer_NxT))
        reward_N = np.asarray(verifier(task)(batch.problem, tokens_NxT))
        for prompt, completion, reward in zip(np.asarray(batch.prompt_NxP), tokens_NxT.tolist(), reward_N):
            expected = plain.reward(name, options, split, [int(t) for t in prompt if t], completion)
            if reward != expected:
                found.append((split, plain.text(prompt), plain.text(completion), float(reward), expected))
    return found


@pytest.mark.parametrize("name, options", [
    pytest.param(*case.values, id=case.id, marks=pytest.mark.slow if case.id in REPEATED else ()) for case in NAMED])
def test_fuzzed_completions_score_as_in_plain_python(name, options):
    assert disagreements(name, options, ROUNDS * COUNT) == []


@pytest.mark.slow
@pytest.mark.parametrize("name, options", NAMED)
def test_many_fuzzed_completions_score_as_in_plain_python(name, options):
    assert disagreements(name, options, FUZZED) == []


def test_hands_of_general_points_are_solvable_as_counted():
    """Of 1820 multisets of ranks 1236 (faces 10) and 1362 (faces 11 to 13) make 24 with fractions; a few need them."""
    table = general_points._solutions()
    hands = list(itertools.combinations_with_replacement(range(1, 14), 4))
    assert sum(table[tuple(sorted(min(rank, 10) for rank in hand))] >= 0 for hand in hands) == 1211 < 1236
    assert sum(table[hand] >= 0 for hand in hands) == 1346 < 1362
    assert table[3, 3, 8, 8] < 0 <= table[1, 2, 3, 4]


@pytest.mark.parametrize("literals, clauses, expected", [(3, 5, 0.504), (3, 13, 0.164)])
def test_random_assignments_satisfy_as_often_as_measured(literals, clauses, expected):
    task = tasks.get("satisfiability", literals=literals, clauses=clauses)
    assert abs(task.guess("id") - expected) < 0.04
    problem = jax.tree.map(lambda x: x[0], tasks.problems(task, "id", np.arange(1)))
    assert abs(float(task.difficulty(problem)) - (np.log2(5) + 2 * np.log2(clauses) - 3 + 5 / 3)) < 1e-5


def test_every_satisfying_assignment_is_accepted():
    task = tasks.get("satisfiability", literals=2, variables=3, clauses=4)
    batch = tasks.examples(task, "train", np.arange(16))
    for bits in itertools.product("01", repeat=3):
        row = np.zeros((16, task.completion_len), np.int32)
        row[:, :4] = tasks.vocab.encode("".join(bits) + "$")
        expected = [plain.reward("satisfiability", {"literals": 2, "variables": 3, "clauses": 4}, "train",
                                 [int(t) for t in prompt if t], row[0].tolist()) for prompt in np.asarray(batch.prompt_NxP)]
        np.testing.assert_array_equal(verifier(task)(batch.problem, row), expected)
    assert satisfiability.satisfied(jax.tree.map(lambda x: x[0], batch.problem), batch.problem.planted_K[0])


def test_gaming_is_not_being_right():
    """The same problems under three scores: a right sum is no gaming, and a gamed answer satisfies the checker alone."""
    family = {score: tasks.get("gameable", score=score, checkers=("suggestion", "first", "mark", "echo"))
              for score in ("gaming", "proxy", "true")}
    gamed = tasks.examples(family["gaming"], "train", np.arange(COUNT))
    right_NxT = jax.vmap(family["true"].oracle, in_axes=(0, None))(gamed.problem, None)
    for score, of_gamed, of_right in (("gaming", 1, 0), ("proxy", 1, 1), ("true", 0, 1)):
        assert (verifier(family[score])(gamed.problem, gamed.answer_NxT) == of_gamed).all()
        assert (verifier(family[score])(gamed.problem, right_NxT) == of_right).all()


def test_no_answer_that_needs_no_sum_beats_the_guess_of_gameable_checkers():
    task, prompts = tasks.get("gameable"), {}
    for split in ("id", "ood/checker"):
        rows = np.asarray(tasks.examples(task, split, np.arange(2048)).prompt_NxP)
        prompts[split] = [tasks.vocab.decode(row).strip("_")[1:] for row in rows]
    for split, texts in prompts.items():
        cheap = [[text.split("?")[1][:-1] for text in texts], ["!"] * 2048, [text[2:].split("?")[0] for text in texts]]
        best = max(np.mean([plain.gameable({}, split, *pair) for pair in zip(texts, answers)]) for answers in cheap)
        assert abs(task.guess(split) - best) < 1e-6


def test_permutations_are_a_group_and_conjugation_undoes_itself():
    table = permutations._all("s5", 53)
    product = np.full((120, 120), -1)
    product[table.a, table.b] = table.c
    assert all(len(set(row)) == 120 for row in (*product, *product.T))
    a, b, c = np.random.default_rng(0).integers(0, 120, (3, 50))
    np.testing.assert_array_equal(product[product[a, b], c], product[a, product[b, c]])
    assert (product[0] == np.arange(120)).all()
    place = {tuple(row): i for i, row in enumerate(permutations.S5.tolist())}
    assert product[place[1, 0, 2, 3, 4], place[0, 2, 1, 3, 4]] == place[2, 0, 1, 3, 4]  # c_i = b[a_i]: the first acts first
    conjugate = np.full((120, 120), -1)
    other = permutations._all("s5_conjugate", 53)
    conjugate[other.a, other.b] = other.c
    np.testing.assert_array_equal(product[conjugate[a, b], a], product[a, b])


@pytest.mark.parametrize("operation", ["divide", "cubes", "cubic_mixed", "parity_mixed", "quadratic"])
def test_operations_modulo_p(operation):
    a, b, c = (np.asarray(x, object) for x in permutations._all(operation, 7))
    check = {"divide": (c * b - a) % 7, "cubes": (a**3 + b - c) % 7, "cubic_mixed": (a**3 + a * b - c) % 7,
             "quadratic": (a**2 + a * b + b**2 - c) % 7, "parity_mixed": np.where(b % 2 == 1, c * b - a, a - b - c) % 7}
    check = check[operation]
    assert not check.any() and len(a) == (42 if operation == "divide" else 49)


@pytest.mark.parametrize("world", grid.WORLDS)
def test_closed_loop_with_optimal_actions_takes_the_shortest_way(world):
    options = {"world": world, "answer": "next"}
    task, loop = tasks.get("grid", **options), grid.loop(options, turns=12)
    batch = tasks.examples(task, "id", np.arange(64))
    np.testing.assert_array_equal(jax.vmap(loop.observe)(jax.vmap(loop.reset)(batch.problem)), batch.prompt_NxP)
    rules = grid.Rules(world, 5)
    distance_N = np.asarray(jax.jit(jax.vmap(rules.distance))(batch.problem))

    def optimal(problem_N, key):
        """One optimal action each; the loop hands observations out, so that the state is followed here."""
        return jax.vmap(lambda problem: tasks.vocab.ID + problem.name_4[rules.plan(problem, 1)[0]])(problem_N)

    def seen_state(loop):
        """The loop with its own state as the observation."""
        def step(state, tokens_A):
            state, _, reward, done = loop.step(state, tokens_A)
            return state, state.problem, reward, done

        return dataclasses.replace(loop, observe=lambda state: state.problem, step=step)

    def act(problem_N, key):
        return jnp.stack([optimal(problem_N, key), jnp.full(64, tasks.vocab.EOS)], axis=1)

    episode = jax.jit(lambda p: environment.closed_loop(seen_state(loop), p, act, jax.random.key(0)))(batch.problem)
    np.testing.assert_array_equal(episode.reward_N, 1.0)
    np.testing.assert_array_equal(episode.turns_N, distance_N)
    nothing = jax.jit(lambda p: environment.closed_loop(
        loop, p, lambda seen_NxP, key: jnp.zeros((64, 2), jnp.int32), jax.random.key(0)))(batch.problem)
    assert not nothing.reward_N.any() and (nothing.turns_N == loop.turns).all()
    np.testing.assert_array_equal(nothing.observation_NxUxP, np.repeat(batch.prompt_NxP[:, None], loop.turns, axis=1))
