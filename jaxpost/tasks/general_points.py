"""General Points: four cards make 24 under a rule that says what the face cards are worth.

Prompt `^j=10,q=10,k=10;7,j,3,1?24=` (the rule, then the cards as dealt; an ace is 1), answer an infix expression over the
cards' values, `(10-7)*(3+1)*...$`, every value used exactly once. Evaluation is exact, with fractions (`expression`). After
arXiv:2501.17161 and arXiv:2510.00237; differs from the papers in: reward 1 or 0 instead of a table from -3 to 5, no float
evaluation (which refuses 8/(3-8/3)), no formula in JSON, no verifier messages and second attempts.

Hands are dealt with all four ranks uniform and redrawn until some expression with whole, non-negative values on the way makes
24: the few hands that need fractions are never dealt. Content is the multiset of ranks, whatever the rule, so that a hand of an
evaluation split is in training under no rule.

Splits:
    train, id      a rule of `rules`
    ood/rule       j, q, k = 11, 12, 13, with a face card at least
    ood/all_5, ood/all_7, ood/all_12   all face cards are worth that, with a face card at least
    ood/large      face cards worth 14 to 19 each, drawn anew, with a face card at least
    ood/fake       the prompt announces 11, 12, 13 and the verifier goes by the first of `rules`, with a face card at least:
            what is
                   right here has not read the rule

Reasoning (`traces`) as in Countdown: one join a step, detours are joins after which 24 is out of reach.

Difficulty: the number of face cards. Guess baseline: the best fixed template over the values in ascending order, measured over
2,048 problems of the split.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxpost.tasks import base, expression, joins, traces, vocab

NAME, VERSION = "general_points", 1
PAPER, VERIFIER = "arXiv:2501.17161, arXiv:2510.00237", "exact value of the expression, every card once"
TARGET, LARGEST = 24, 19
FACES = "jqk"
RULES = 8  # most of them
GUESS_PROBLEMS = 2048


class Problem(NamedTuple):
    """A hand, the rule that is announced, and a solution under the rule that holds."""

    rank_4: Any  # i32, 1 to 13, as dealt
    shown_3: Any  # i32, announced values of j, q, k
    joins: Any  # joins.Joins over the values in ascending order


def make(rules=((10, 10, 10),), style="answer", room=0):
    """General Points.

    Args:
        rules: (j, q, k) values from 1 to 19 of train and id, one to eight rules; several are what the papers call prompt
            diversity.
        style, room: see `traces`.
    Returns:
        Task with P = 31 and answers of at most 16 tokens.
    """
    def good(rule):
        return isinstance(rule, tuple) and len(rule) == 3 and all(isinstance(x, int) and 1 <= x <= LARGEST for x in rule)

    some = isinstance(rules, tuple) and 1 <= len(rules) <= RULES
    base.require(some and all(map(good, rules)), NAME, "rules", rules,
                 f"one to {RULES} triples of integers from 1 to {LARGEST}")
    expression.check_range(4, LARGEST)
    answer_len = 4 * 2 + 3 + 2 * 2 + 1

    def setting(fold, chosen=rules, shown=(0, 0, 0), face=0, large=0):
        padded = (tuple(chosen) * RULES)[:RULES]
        return base.setting(fold, rule_Rx3=padded, count=len(chosen), shown=shown, face=face, large=large)

    def evaluation(*rule, **more):
        return setting(base.EVAL_FOLD, (rule,), face=1, **more)

    def verify(problem, tokens_A):
        value_4 = problem.joins.number_K
        return expression.equals(tokens_A, value_4, value_4 > 0, TARGET).astype(jnp.float32)

    def answer(problem):
        return joins.text_of(problem.joins, 2, answer_len)

    @functools.cache
    def guess(split):
        problem_N = base.problems(task, split, np.arange(GUESS_PROBLEMS)).joins
        return joins.best_template(problem_N, lambda drawn, tokens_A: verify(Problem(None, None, drawn), tokens_A),
                                   lambda drawn: answer(Problem(None, None, drawn)))

    task = traces.make(
        name=NAME, version=VERSION, style=style, room=room, prompt_len=1 + 3 * 5 + 4 * 3 + 3, answer_len=answer_len,
        splits={"train": setting(base.TRAIN_FOLD), "id": setting(base.EVAL_FOLD),
                "ood/rule": evaluation(11, 12, 13), "ood/all_5": evaluation(5, 5, 5), "ood/all_7": evaluation(7, 7, 7),
                "ood/all_12": evaluation(12, 12, 12), "ood/large": evaluation(14, 14, 14, large=1),
                "ood/fake": evaluation(*rules[0], shown=(11, 12, 13))},
        sample=_sample, prompt=_prompt, answer=answer, verify=verify, guess=guess, content=_content,
        difficulty=lambda problem: jnp.sum(problem.rank_4 > 10).astype(jnp.float32),
        reasoning=traces.Reasoning(lambda problem, key, detours: joins.steps_of(problem.joins, key, detours, value_width=4),
                                   longest=3 * (3 * 4 + 3), detour=3 * 4 + 3))
    return task


def _sample(key, knobs):
    solutions = jnp.asarray(_solutions())

    def draw(rank_word, rule_word, large_word, face_word):
        rank_4 = base.span(rank_word, 1, 13)
        rank_4 = rank_4.at[0].set(jnp.where(knobs["face"] == 1, base.span(face_word[0], 11, 13), rank_4[0]))
        rank_4 = rank_4[jnp.argsort(face_word[1:])]
        rule_3 = jnp.asarray(knobs["rule_Rx3"])[base.below(rule_word[0], knobs["count"])]
        rule_3 = jnp.where(knobs["large"] == 1, base.span(large_word, 14, LARGEST), rule_3)
        shown_3 = jnp.where(knobs["shown"][0] > 0, knobs["shown"], rule_3)
        value_4 = jnp.sort(jnp.where(rank_4 > 10, rule_3[jnp.maximum(rank_4 - 11, 0)], rank_4))
        left_3, right_3, op_3 = jnp.moveaxis(jnp.asarray(_programs())[solutions[tuple(value_4)]], -1, 0)
        solvable = solutions[tuple(value_4)] >= 0
        return Problem(rank_4, shown_3, joins.Joins(value_4, jnp.int32(4), jnp.int32(TARGET), left_3, right_3, op_3)), solvable

    def accept(drawn):
        problem, solvable = drawn
        return solvable & (base.fold_of(_content(problem)) == knobs["fold"])

    return base.choose(key, (4, 1, 3, 5), draw, accept)[0]


def _content(problem):
    return jnp.sort(problem.rank_4)


def _prompt(problem):
    """BOS j=.., q=.., k=..; cards ? 24 =, LEFT-padded."""
    pieces = [vocab.BOS]
    for i, face in enumerate(FACES):
        pieces += [face + "=", traces.number(problem.shown_3[i], 2), "," if i < 2 else ";"]
    for i in range(4):
        rank = problem.rank_4[i]
        letter = jnp.asarray(vocab.encode(FACES))[jnp.maximum(rank - 11, 0)]
        digits = traces.number(rank, 2)
        pieces += [jnp.where(rank > 10, jnp.asarray([letter, vocab.PAD]), digits), "," if i < 3 else "?"]
    tokens = traces.joined(*pieces, "24=")
    return vocab.pack(tokens, tokens != vocab.PAD, 1 + 3 * 5 + 4 * 3 + 3, "right")


@functools.cache
def _programs():
    """Every program of three joins, i32[C, 3, 3]: (left slot, right slot, operator); left is the larger value's for - and /."""
    swaps = [(a, b, op) for a, b in itertools.combinations(range(4), 2) for op in range(4)]
    each = [[(a, b, op) for a, b, op in swaps if b < live] for live in (4, 3, 2)]
    plain = np.asarray(list(itertools.product(*each)), np.int32)
    swapped = [plain]  # which operand is larger is not known before the values are: both orders of - and /
    for place in range(3):
        new = []
        for part in swapped:
            turned = part[part[:, place, 2] % 2 == 1].copy()
            turned[:, place, :2] = turned[:, place, 1::-1]
            new += [part, turned]
        swapped = new
    return np.concatenate(swapped)


@functools.cache
def _solutions():
    """For ascending values: the first program that makes 24 with whole values on the way, i16[20, 20, 20, 20]; -1: none."""
    hand_Hx4 = np.asarray(list(itertools.combinations_with_replacement(range(1, LARGEST + 1), 4)), np.int32)
    found_H = np.full(len(hand_Hx4), -1, np.int16)
    last = {}  # a prefix of joins -> (values, which hands it is possible for), so that it is computed once
    for number, program in enumerate(_programs().tolist()):
        values, good = hand_Hx4, np.ones(len(hand_Hx4), bool)
        for step, (left, right, op) in enumerate(program):
            prefix = tuple(map(tuple, program[:step + 1]))
            if prefix not in last:
                last[prefix] = _apply(values, good, left, right, op)
            values, good = last[prefix]
            if step == 2:
                del last[prefix]
        found_H = np.where((found_H < 0) & good & (values[:, 0] == TARGET), number, found_H).astype(np.int16)
    table = np.full((LARGEST + 1,) * 4, -1, np.int16)
    table[tuple(hand_Hx4.T)] = found_H
    return table


def _apply(values, good, left, right, op):
    a, b = values[:, left], values[:, right]
    joined = [a + b, a - b, a * b, a // np.maximum(b, 1)][op]
    good = good & ((op % 2 == 0) | (a >= b)) & ((op != expression.DIVIDE) | ((b > 0) & (a % np.maximum(b, 1) == 0)))
    low, high = min(left, right), max(left, right)
    values = values.copy()
    values[:, high] = values[:, -1]
    values[:, low] = joined
    return values[:, :-1], good
