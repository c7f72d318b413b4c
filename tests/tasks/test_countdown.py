"""Countdown: the device verifier against Python's parser with exact fractions."""

import ast
import functools
import itertools
import operator
import warnings
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost import tasks
from jaxpost.tasks import base, countdown, expression, vocab

COUNT = 256
CHUNK = 2048
TASK = tasks.get("countdown")
OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
SYMBOLS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def evaluate(text):
    """(value, sorted numbers) of an expression by Python's own parser, or None if it is not one of our grammar."""
    if not text or set(text) - set("0123456789+-*/()"):
        return None
    used = []

    def value(node):
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return SYMBOLS[OPERATORS[type(node.op)]](value(node.left), value(node.right))
        if isinstance(node, ast.Constant) and type(node.value) is int:
            used.append(node.value)
            return Fraction(node.value)
        raise ValueError(ast.dump(node))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return value(ast.parse(text, mode="eval").body), sorted(used)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def expected(texts, numbers, target):
    """Reward by `evaluate`, 0 without EOS; numbers and target may be one for all texts or one a text."""
    rows = numbers if isinstance(numbers[0], list) else [numbers] * len(texts)
    targets = [target] * len(texts) if isinstance(target, int) else target
    found = [evaluate(text[: text.index("$")]) if "$" in text else None for text in texts]
    return np.asarray([f == (t, sorted(row)) for f, t, row in zip(found, targets, rows, strict=True)])


_equals = jax.jit(jax.vmap(expression.equals))


def verified(texts, numbers, target, length=16):
    """The device's verdict on texts, padded to `length`, in chunks of one shape (one compilation a length)."""
    rows = numbers if isinstance(numbers[0], list) else [numbers] * len(texts)
    padded = -len(texts) % CHUNK + len(texts)
    tokens, number = np.zeros((padded, length), np.int32), np.zeros((padded, 6), np.int32)
    for i, (text, row) in enumerate(zip(texts, rows, strict=True)):
        tokens[i, : len(text)], number[i, : len(row)] = vocab.encode(text), row
    wanted = np.ones((padded,), np.int32)
    wanted[: len(texts)] = target
    parts = [slice(start, start + CHUNK) for start in range(0, padded, CHUNK)]
    verdict = [_equals(tokens[part], number[part], number[part] > 0, wanted[part]) for part in parts]
    return np.concatenate(verdict)[: len(texts)]


def shown(split, count=COUNT):
    """(numbers, target, answer text) of the first problems, read from the prompt's text."""
    batch = tasks.examples(TASK, split, jnp.arange(count))
    for prompt, answer in zip(np.asarray(batch.prompt_NxP), np.asarray(batch.answer_NxT), strict=True):
        numbers, target = vocab.decode(prompt).strip("_^=").split("?")
        yield [int(n) for n in numbers.split(",")], int(target), vocab.decode(answer).strip("_")


@pytest.mark.parametrize("split", list(TASK.splits))
def test_problems_are_in_range_and_oracles_are_right(split):
    setting = tasks.knobs(TASK, split)
    for numbers, target, answer in shown(split):
        assert len(numbers) == setting["count"] and all(1 <= n <= 25 for n in numbers)
        assert setting["low"] <= target <= setting["high"]
        assert evaluate(answer[:-1]) == (target, sorted(numbers))


def test_all_operators_and_shapes_occur():
    answers = [answer for *_, answer in shown("ood/numbers")]
    assert all(0.1 < np.mean([op in answer for answer in answers]) for op in "+-*/")
    assert any(")+(" in answer or ")*(" in answer for answer in answers) and any("((" in answer for answer in answers)


@pytest.mark.parametrize(
    "text,numbers,target,right",
    [
        ("2+3*4$", [2, 3, 4], 14, True),  # precedence
        ("2+3*4$", [2, 3, 4], 20, False),
        ("(2+3)*4$", [2, 3, 4], 20, True),
        ("20-5-3$", [20, 5, 3], 12, True),  # left associativity
        ("20-5-3$", [20, 5, 3], 18, False),
        ("20-(5-3)$", [20, 5, 3], 18, True),
        ("24/4/2$", [24, 4, 2], 3, True),
        ("24/(4/2)$", [24, 4, 2], 12, True),
        ("24/4*2$", [24, 4, 2], 12, True),
        ("2*3+4*5$", [2, 3, 4, 5], 26, True),
        ("9-8/4*2$", [9, 8, 4, 2], 5, True),
        ("((2)+((3)))*4$", [2, 3, 4], 20, True),  # redundant parentheses
        ("(((2+3)))$", [2, 3], 5, True),
        ("8/(3-8/3)$", [8, 3, 8, 3], 24, True),  # a fraction on the way, numbers twice in the multiset
        ("3/2*4$", [2, 3, 4], 6, True),
        ("5/2$", [2, 5], 2, False),  # no rounding
        ("2+3$", [2, 3, 4], 5, False),  # a number missing
        ("2+3+4+4$", [2, 3, 4], 13, False),  # one twice
        ("2+2$", [2, 2], 4, True),
        ("2+2$", [2, 3], 4, False),
        ("4/(2-2)$", [4, 2, 2], 4, False),  # division by zero
        ("(2-2)/4+3$", [4, 2, 2, 3], 3, True),
        ("4*(2-2)/(3-3)$", [4, 2, 2, 3, 3], 1, False),
        ("-2+5$", [2, 5], 3, False),  # no unary operator
        ("2--5$", [2, 5], 7, False),
        ("02+5$", [2, 5], 7, False),  # no leading zero
        ("2+5", [2, 5], 7, False),  # no EOS
        ("2+5)$", [2, 5], 7, False),
        ("(2+5$", [2, 5], 7, False),
        ("()2+5$", [2, 5], 7, False),
        ("(2)(5)$", [2, 5], 10, False),
        ("2(5)$", [2, 5], 10, False),
        ("(2)5$", [2, 5], 7, False),
        ("2+5=$", [2, 5], 7, False),
        ("2_+5$", [2, 5], 7, False),
        ("+$", [2, 5], 7, False),
        ("$2+5", [2, 5], 7, False),
        ("25$", [2, 5], 25, False),
        ("25$", [25], 25, True),
        ("1-2$", [1, 2], 1, False),  # a negative value
        ("(1-3)*(2-5)$", [1, 2, 3, 5], 6, True),
        ("6/(1-3)+9$", [6, 1, 3, 9], 6, True),  # a negative denominator
    ],
)
def test_known_expressions(text, numbers, target, right):
    assert verified([text], numbers, target)[0] == right
    assert expected([text], numbers, target)[0] == right


@pytest.mark.parametrize("longest", [4, pytest.param(5, marks=pytest.mark.slow)])
def test_every_short_string(longest):
    """All strings of so many symbols over an alphabet of eight, 1 + 1 numbers: 4,680 texts, or 37,448."""
    alphabet = "12+-*/()"
    texts = ["".join(t) + "$" for n in range(1, longest + 1) for t in itertools.product(alphabet, repeat=n)]
    for numbers, target in (([1, 2], 2), ([12, 1], 12), ([2, 1, 1], 4))[:longest - 2]:
        want = expected(texts, numbers, target)
        np.testing.assert_array_equal(verified(texts, numbers, target), want)
        assert want.sum() >= 2


def test_every_right_expression_is_accepted():
    """Writes down all expressions of each problem in four styles; all that reach the target must earn the reward."""
    texts, all_numbers, targets = [], [], []
    for numbers, target, _ in shown("id", 24):
        styles = set()
        for a, b, c in itertools.permutations(numbers):
            for p, q in itertools.product("+-*/", repeat=2):
                styles |= {f"({a}{p}{b}){q}{c}$", f"{a}{p}({b}{q}{c})$", f"{a}{p}{b}{q}{c}$", f"(({a}){p}{b}){q}{c}$"}
        styles = sorted(text for text in styles if len(text) <= TASK.completion_len)
        texts += styles
        all_numbers += [numbers] * len(styles)
        targets += [target] * len(styles)
    want = expected(texts, all_numbers, targets)
    np.testing.assert_array_equal(verified(texts, all_numbers, targets), want)
    assert want.sum() > 100


@pytest.mark.parametrize("split", list(TASK.splits))
def test_mutated_answers(split):
    """Oracle answers with up to three symbols inserted, removed, replaced or swapped."""
    rng = np.random.default_rng(0)
    alphabet = "0123456789+-*/()$_,"
    texts, numbers, targets = [], [], []
    for row_numbers, target, answer in shown(split):
        for _ in range(4):
            text = list(answer)
            for _ in range(rng.integers(1, 4)):
                place, symbol = rng.integers(len(text)), alphabet[rng.integers(len(alphabet))]
                kind = rng.integers(4)
                other = rng.integers(len(text))
                if kind == 0:
                    text.insert(place, symbol)
                elif kind == 1 and len(text) > 1:
                    del text[place]
                elif kind == 2:
                    text[place] = symbol
                else:
                    text[place], text[other] = text[other], text[place]
            texts.append("".join(text)[: TASK.completion_len])
            numbers.append(row_numbers)
            targets.append(target)
    want = expected(texts, numbers, targets)
    np.testing.assert_array_equal(verified(texts, numbers, targets), want)
    assert 0 < want.sum() < len(texts) / 2


def random_expression(rng, leaves):
    """A random expression text over the leaves, parenthesised at random (sometimes twice)."""
    if len(leaves) == 1:
        text = str(leaves[0])
    else:
        cut = rng.integers(1, len(leaves))
        text = random_expression(rng, leaves[:cut]) + "+-*/"[rng.integers(4)] + random_expression(rng, leaves[cut:])
    return f"({text})" if rng.random() < 0.4 else text


@pytest.mark.parametrize("count,largest", [(3, 25), (4, 99), (5, 38), (6, 20)])
def test_random_expressions_at_the_largest_numbers(count, largest):
    """Values up to the documented bound: the target is the true value where it is a positive integer, else a decoy."""
    expression.check_range(count, largest)
    rng = np.random.default_rng(count)
    texts, numbers, targets = [], [], []
    while len(texts) < 1200:
        leaves = rng.integers(1 if len(texts) % 2 else max(1, largest - 3), largest + 1, count).tolist()
        text = random_expression(rng, leaves)
        found = evaluate(text)
        if len(text) > 40 or found is None and rng.random() < 0.8:
            continue
        value = found[0] if found else Fraction(1)
        whole = 0 < value <= expression.INT_MAX and value.denominator == 1
        target = int(value) if whole else int(rng.integers(1, expression.INT_MAX))
        texts.append(text + "$")
        numbers.append(leaves)
        targets.append(target + (len(texts) % 7 == 0 and whole))  # now and then off by one
    want = expected(texts, numbers, targets)
    np.testing.assert_array_equal(verified(texts, numbers, targets, 41), want)
    assert want.sum() > 200


def test_a_product_that_wraps_around_to_the_right_value_is_not_accepted():
    """target * denominator = 2**32 * m + numerator must not pass."""
    numbers, text = [16, 16, 16, 1], "1/16/16/16$"  # 1 / 4096
    for target in (1, 2**20, 2**20 + 1, 2**31 - 1):
        assert not verified([text], numbers, target)[0]
    assert not verified(["1/16/16*(1-1)$"], [16, 16, 1, 1, 1], 2**20)[0]
    with pytest.raises(ValueError, match="exact evaluation is in i32"):
        expression.check_range(5, 99)


def test_deep_nesting_up_to_the_row_is_read():
    for length in (7, 16):
        depth = (length - 2) // 2
        assert verified(["(" * depth + "7" + ")" * depth + "$"], [7], 7, length)[0]
        assert not verified(["(" * (length - 1) + "$"], [7], 7, length)[0]


def test_unlucky_draws_fall_back_to_a_plain_sum():
    knobs = {"fold": np.int32(0), "count": np.int32(3), "low": np.int32(10**6), "high": np.int32(10**6)}
    keys = tasks.problem_keys(TASK, "train", np.arange(COUNT))
    batch = base._examples(TASK, keys, knobs)
    numbers = np.asarray(batch.problem.number_K)
    np.testing.assert_array_equal(batch.problem.target, numbers.sum(-1))
    texts = [vocab.decode(answer).strip("_") for answer in np.asarray(batch.answer_NxT)]
    assert verified(texts, numbers[:, :3].tolist(), numbers.sum(-1)).all()


def test_guess_is_the_best_template():
    problems = [(numbers, target) for numbers, target, _ in shown("ood/numbers", countdown.GUESS_PROBLEMS)]

    @functools.cache
    def values(ops):  # of the first numbers, joined from the left
        before = values(ops[:-1]) if ops else None
        first = [Fraction(numbers[0]) for numbers, _ in problems]
        return [SYMBOLS[ops[-1]](x, numbers[len(ops)]) for x, (numbers, _) in zip(before, problems)] if ops else first

    hits = [sum(value == target for value, (_, target) in zip(values(ops), problems, strict=True))
            for ops in itertools.product("+-*/", repeat=3)]
    assert TASK.guess("ood/numbers") == pytest.approx(max(hits) / len(problems), abs=1e-6)
