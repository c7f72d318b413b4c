"""Templates of `omega`: (words, more words, level) -> Drawn, a prompt, its exact answer, and its content."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.tasks import base, traces, vocab

WORDS = (8, 72)  # random words of a template: a few, and those of a grid or a matrix
CONTENT = 9  # integers, at most
LETTERS = 5  # kinds in a bag
TRANSFORMED = 3  # the level of problems that need another method
PRIME = 10_007  # above every minor of the matrices here, so that ranks modulo it are exact
CHOOSE = np.asarray([[math.comb(n, k) for k in range(4)] for n in range(13)], np.int32)


class Drawn(NamedTuple):
    """A problem of a template; a numerator of 0 says that it is none."""

    tokens: Any  # i32, PAD where there is a gap
    numerator: Any  # i32[]
    denominator: Any  # i32[], positive
    content: Any  # i32[CONTENT], or less


def _signed(value, width, first=False):
    """`+n` or `-n`; of the first number of a prompt the sign is written only where it is negative."""
    sign = jnp.where(value < 0, vocab.TOKEN["-"], vocab.PAD if first else vocab.TOKEN["+"])
    return traces.joined(sign, traces.number(abs(value), width))


def _codes(digit_NxM, radix):
    """Rows of small digits as numbers."""
    return digit_NxM @ radix ** jnp.arange(digit_NxM.shape[1])


def _smallest(code_FxC):
    """The form with the smallest hash."""
    return code_FxC[jnp.argmin(jax.vmap(base.hash_of)(code_FxC))]


def _grid(n, blocked_NxN):
    """Ways through the first n of N rows and columns, of which two corners are never blocked."""
    N = blocked_NxN.shape[0]
    place_N = jnp.arange(N)
    inside_N = place_N < n
    first_N, last_N = place_N == 0, place_N == n - 1
    free_NxN = ~blocked_NxN | (first_N[:, None] & first_N[None]) | (last_N[:, None] & last_N[None])
    free_NxN = free_NxN & inside_N[:, None] & inside_N[None]

    def row(above_N, free_N):
        def cell(left, now):
            ways = jnp.where(now[1], left + now[0], 0)
            return ways, ways

        ways_N = jax.lax.scan(cell, jnp.int32(0), (above_N, free_N))[1]
        return ways_N, ways_N

    ways_NxN = jax.lax.scan(row, jnp.where(first_N, 1, 0), free_NxN)[1]
    token_NxN = jnp.where(inside_N[None], jnp.where(free_NxN, vocab.TOKEN["."], vocab.TOKEN["%"]), vocab.PAD)
    token_NxV = jnp.concatenate([token_NxN, jnp.full((N, 1), vocab.TOKEN["|"])], axis=1)
    turned_NxN = jnp.roll(free_NxN[::-1, ::-1], (n - N, n - N), (0, 1))
    code_4xN = jnp.stack([_codes(x.astype(jnp.int32), 2) for x in (free_NxN, free_NxN.T, turned_NxN, turned_NxN.T)])
    tokens = jnp.where(inside_N[:, None], token_NxV, vocab.PAD).reshape(-1)
    return Drawn(traces.joined("p", tokens, "="), ways_NxN[n - 1, n - 1], jnp.int32(1), _smallest(code_4xN))


def _paths(word_W, word_V, level):
    """One cell in six blocked; in a maze, 7 of 10 of those that are on neither of two random ways."""
    kept_6x6 = jnp.zeros((6, 6), bool)
    for word_10 in (word_V[36:46], word_V[46:56]):
        down_10 = jnp.argsort(word_10) < 5
        y_11, x_11 = (jnp.cumsum(jnp.append(0, step)) for step in (down_10, ~down_10))
        kept_6x6 = kept_6x6.at[y_11, x_11].set(True)
    drawn_6x6 = word_V[:36].reshape(6, 6)
    blocked_6x6 = jnp.where(level == TRANSFORMED, ~kept_6x6 & (base.below(drawn_6x6, 10) < 7), base.below(drawn_6x6, 6) == 0)
    return _grid(jnp.where(level == TRANSFORMED, 6, 2 * level + 1 + base.below(word_W[0], 2)), blocked_6x6)


def rank_of(matrix_NxN):
    """Rank by elimination modulo PRIME without division; exact while all minors are below it in size: i32[]."""
    place_N = jnp.arange(matrix_NxN.shape[0])

    def clear(state, column):
        matrix, rank = state
        open_N = (matrix[:, column] != 0) & (place_N >= rank)
        pivot, pivots = jnp.argmax(open_N), jnp.any(open_N)
        swapped = matrix.at[rank].set(matrix[pivot]).at[pivot].set(matrix[rank])
        cleared = (swapped * swapped[rank, column] - swapped[:, column, None] * swapped[rank][None]) % PRIME
        after = jnp.where((place_N > rank)[:, None], cleared, swapped)
        return (jnp.where(pivots, after, matrix), rank + pivots), None

    return jax.lax.scan(clear, (matrix_NxN % PRIME, jnp.int32(0)), place_N)[0][1]


def _matrix(word_W, word_V, n, N):
    """A product of an n x r and an r x n matrix with entries -1, 0, 1, r from 1 to 3: its tokens, rank and content."""
    entry = base.below(word_V[:6 * N], 3).reshape(2, N, 3) - 1
    inside_N, thin_3 = jnp.arange(N) < n, jnp.arange(3) <= base.below(word_W[0], 3)
    left_Nx3, right_Nx3 = entry * (inside_N[:, None] & thin_3[None])[None]
    matrix_NxN = left_Nx3 @ right_Nx3.T
    token_NxNx2 = jax.vmap(jax.vmap(lambda value: _signed(value, 1)))(matrix_NxN)
    token_NxV = jnp.where(inside_N[None, :, None], token_NxNx2, vocab.PAD).reshape(N, -1)
    token_NxV = jnp.concatenate([token_NxV, jnp.full((N, 1), vocab.TOKEN["|"])], axis=1)
    tokens = jnp.where(inside_N[:, None], token_NxV, vocab.PAD).reshape(-1)
    return tokens, rank_of(matrix_NxN), jnp.sort(_codes(matrix_NxN + 3, 7))


def _rank(word_W, word_V, level):
    tokens, rank, content = _matrix(word_W, word_V, jnp.where(level == TRANSFORMED, 6, 2 + level), 6)
    return Drawn(traces.joined("k", tokens, "="), rank, jnp.int32(1), content)


def _bag(word_12, n):
    """Tokens of n random letters, and how often the letters are there, the commonest first: i32[12], i32[LETTERS]."""
    letter_12 = jnp.where(jnp.arange(12) < n, base.below(word_12, LETTERS), -1)
    count_5 = jnp.sum(letter_12[None] == jnp.arange(LETTERS)[:, None], axis=1)
    return jnp.where(letter_12 >= 0, vocab.LETTER + letter_12, vocab.PAD), -jnp.sort(-count_5)


def _ways(count, k):
    """Ways to take k of one of so many: the sum of binomial coefficients."""
    return jnp.sum(jnp.asarray(CHOOSE)[count, k])


def _draws(word_W, word_V, level):
    n, k = 4 * level + 1 + base.below(word_W[0], 4), 2 + base.below(word_W[1], level)
    letters, count_5 = _bag(word_V[:12], n)
    return Drawn(traces.joined("d", letters, ":", vocab.DIGIT + k, "="), _ways(count_5, k), _ways(n, k),
                 jnp.append(count_5, k))


def _rank_and_draws(word_W, word_V, level):
    del level
    matrix, k, code_3 = _matrix(word_W, word_V, 3, 3)
    n = 5 + base.below(word_W[1], 4)
    letters, count_5 = _bag(word_V[-12:], n)
    ways = jnp.where(k > 1, _ways(count_5, k), 0)  # a single letter is always the same
    return Drawn(traces.joined("kd", matrix, letters, "="), ways, _ways(n, k), jnp.append(code_3, count_5))


def _gcd(word_W, word_V, level):
    del word_V
    most = jnp.where(level == 1, 99, 999)
    common = 2 + base.below(word_W[0], jnp.where(level == 1, 20, 100))
    number_2 = common * (1 + base.below(word_W[1:3], most // common))
    tokens = traces.joined("g", traces.number(number_2[0], 3), ",", traces.number(number_2[1], 3), "=")
    return Drawn(tokens, jnp.gcd(number_2[0], number_2[1]), jnp.int32(1), jnp.sort(number_2))


def _polynomial(lead, root, other):
    """(lead x - root) (x - other): tokens, and coefficients i32[3]."""
    coefficient_3 = jnp.stack([lead, -root - lead * other, root * other])
    return traces.joined(*(_signed(c, 1 + i, not i) for i, c in enumerate(coefficient_3))), coefficient_3


def _roots(word_W, word_V, level):
    """Roots root / lead and other."""
    del word_V
    lead = jnp.where(level == 1, 1, 2 + base.below(word_W[0], 2))
    root, other = base.below(word_W[1:3], 19) - 9
    tokens, coefficient_3 = _polynomial(lead, root, other)
    larger = root > lead * other
    return Drawn(traces.joined("r", tokens, "="), jnp.where(larger, root, other), jnp.where(larger, lead, 1), coefficient_3)


def _roots_and_gcd(word_W, word_V, level):
    del word_V, level
    large_2 = (2 + base.below(word_W[0], 3)) * (1 + base.below(word_W[1:3], 3))
    small_2 = large_2 - 1 - base.below(word_W[3:5], 9)
    (first, a_3), (second, b_3) = (_polynomial(jnp.int32(1), large_2[i], small_2[i]) for i in range(2))
    return Drawn(traces.joined("rg", first, ",", second, "="), jnp.gcd(large_2[0], large_2[1]), jnp.int32(1),
                 _smallest(jnp.stack([jnp.append(a_3, b_3), jnp.append(b_3, a_3)])))


# name: (template, length of its longest prompt at levels 1 and 2, and transformed)
SKILLS = {"paths": (_paths, 44, 44), "rank": (_rank, 38, 80), "draws": (_draws, 16, 0), "gcd": (_gcd, 9, 0),
          "roots": (_roots, 11, 0)}
COMPOSED = {("rank", "draws"): (_rank_and_draws, 32), ("roots", "gcd"): (_roots_and_gcd, 22)}
