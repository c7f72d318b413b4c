"""What several samples of one prompt say: pass@k, all@k and expectation-adjusted distinct n-grams, as formulas.

    pass@k  1 - C(n - c, k) / C(n, k), c of n samples solved: the chance that k of them, drawn without replacement, include a
            solved one                                                                                  arXiv:2107.03374
    all@k   C(c, k) / C(n, k): the chance that all k of them are solved, unbiased for p^k
    EAD     distinct n-grams over what C draws from V alike words would give, V (1 - ((V - 1) / V)^C)   arXiv:2202.13587

Exact fractions and float64, on the host.

Legend: N prompts, V vocabulary, C n-grams of a text or of a set of texts, O orders of n-grams.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

ORDERS = (1, 2, 3, 4, 5)  # n of the n-grams


def check_k(k: int, n: int) -> None:
    """Refuse k outside 1 .. n. Raises: ValueError that names the nearest valid k."""
    if not 1 <= k <= n:
        raise ValueError(f"pass@k with k={k} of n={n} samples a prompt: k must lie in 1 .. n; nearest valid: "
                         f"k={min(max(k, 1), n)}" + (f", or samples={k}" if k > n else ""))


def pass_at_k(solved_N: np.ndarray, n: int, k: int) -> np.ndarray:
    """1 - C(n - c, k) / C(n, k) of each prompt, float64, rounded once from the exact fraction.

    Args:
      solved_N: c, integers from 0 to n, any shape; n: samples a prompt; k: drawn from them.

    Raises:
      ValueError: k > n or k < 1; c outside 0 .. n.

    Source: Chen et al., arXiv:2107.03374 (unbiased for 1 - (1 - p)^k).
    """
    return _of_subsets(solved_N, n, k, lambda c: math.comb(n, k) - math.comb(n - c, k))


def all_at_k(solved_N: np.ndarray, n: int, k: int) -> np.ndarray:
    """C(c, k) / C(n, k) of each prompt: reliability, the chance that k repeated attempts all solve it.

    Arguments, rounding and errors as in `pass_at_k`; unbiased for p^k. pass@k + all@k of what is not solved = 1.
    """
    return _of_subsets(solved_N, n, k, lambda c: math.comb(c, k))


def _of_subsets(solved_N: np.ndarray, n: int, k: int, subsets: Callable[[int], int]) -> np.ndarray:
    """subsets(c) / C(n, k) of each prompt."""
    check_k(k, n)
    c_N = np.asarray(solved_N)
    if c_N.size and (c_N.min() < 0 or c_N.max() > n):
        raise ValueError(f"solved samples from {c_N.min()} to {c_N.max()}; expected 0 to n={n}")
    return np.asarray([subsets(c) / math.comb(n, k) for c in range(n + 1)])[c_N.astype(np.int64)]


def guess_at_k(guess: float, k: int, prompts: int) -> tuple[float, float, float]:
    """(value, lo, hi) of pass@k of guesses that solve a problem with probability g each.

    The value is k independent guesses, 1 - (1 - g)^k. The band runs from one guess said k times, g, to k guesses that exclude
    each other, min(1, k g), each end widened to the 95 % range of a binomial share of the prompts (the widest law in [0, 1]).
    """
    from_, to = guess, min(1.0, k * guess)
    return 1 - (1 - guess) ** k, *_widened(from_, to, prompts)


def guess_all_at_k(guess: float, k: int, prompts: int) -> tuple[float, float, float]:
    """(value, lo, hi) of all@k of guesses: k independent ones, g^k; from never all right, 0, to one said k times, g."""
    return guess**k, *_widened(0.0, guess, prompts)


def _widened(from_: float, to: float, prompts: int) -> tuple[float, float]:
    share = 1.959963984540054 / math.sqrt(prompts)
    return max(0.0, from_ - share * math.sqrt(from_ * (1 - from_))), min(1.0, to + share * math.sqrt(to * (1 - to)))


def expected_distinct(grams: np.ndarray, kinds: float) -> np.ndarray:
    """Expected distinct outcomes of C independent draws from V alike kinds: V (1 - ((V - 1) / V)^C), float64."""
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.where(np.asarray(grams) > 0, np.asarray(grams, np.float64) * np.log1p(-1 / kinds), 0.0)
    return -kinds * np.expm1(inside)


def _variance(grams: np.ndarray, kinds: float) -> np.ndarray:
    """Variance of the distinct outcomes: V (V - 1) (1 - 2/V)^C + V (1 - 1/V)^C - V^2 (1 - 1/V)^2C.

    With a = (1 - 1/V)^C and b = (1 - 2/V)^C it is V (a - b) - V^2 (a^2 - b), both differences from logarithms: they are small.
    """
    grams = np.asarray(grams, np.float64)
    if kinds > 1e6:  # also these terms cancel: to first order in 1 / V the repeats are Poisson
        return grams * (grams - 1) / (2 * kinds)
    if kinds == 1:
        return np.zeros(grams.shape)
    one = (1 - 1 / kinds) ** grams
    apart, pairs = (-np.expm1(grams * np.log1p(-((kinds - 1.0) ** -n))) if kinds > 2 else 1.0 for n in (1, 2))
    return np.maximum(kinds * one * apart - (kinds * one) ** 2 * pairs, 0.0)


def grams_of(words_x: np.ndarray) -> np.ndarray:
    """n-grams of texts of so many words, of each order: [..., 5]."""
    return np.maximum(np.asarray(words_x, np.int64)[..., None] + 1 - np.asarray(ORDERS), 0)


def ead(distinct_xO: np.ndarray, grams_xO: np.ndarray, vocabulary: int) -> np.ndarray:
    """Expectation-adjusted distinct of texts or sets: mean over the orders that they have n-grams of, NaN without a word.

    Args:
      distinct_xO: distinct n-grams, [..., 5]; grams_xO: n-grams, C; vocabulary: V, the same for every n (so that the value may
        exceed 1).

    Raises: ValueError for a vocabulary below 1.

    Source: Liu et al., arXiv:2202.13587; V and the mean over n as in Kirk et al., arXiv:2310.06452.
    """
    under = expected_distinct(grams_xO, _checked(vocabulary))
    return _over_orders(np.divide(distinct_xO, under, out=np.zeros(under.shape), where=grams_xO > 0), grams_xO)


def ead_null(grams_xO: np.ndarray, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """(expectation, bound of the standard deviation) of `ead` of texts of independent, equally likely words.

    n-grams fall on V^n kinds. Exact for n = 1; for more, n-grams that overlap still coincide in pairs with probability V^-n
    (an error of second order; 2 % of the mean and of the deviation at V = 2). The deviation of a mean over n is at most the
    mean of the deviations.
    """
    under = expected_distinct(grams_xO, _checked(vocabulary))
    parts = []
    for statistic in (expected_distinct, lambda c, v: np.sqrt(_variance(c, v))):
        by_order = np.stack([statistic(grams_xO[..., i], float(vocabulary) ** n) for i, n in enumerate(ORDERS)], axis=-1)
        parts.append(_over_orders(np.divide(by_order, under, out=np.zeros(under.shape), where=grams_xO > 0), grams_xO))
    return parts[0], parts[1]


def _checked(vocabulary: int) -> int:
    if vocabulary < 1:
        raise ValueError(f"a vocabulary of {vocabulary} words; expected at least 1")
    return vocabulary


def _over_orders(x_xO: np.ndarray, grams_xO: np.ndarray) -> np.ndarray:
    count = (grams_xO > 0).sum(-1)
    return np.divide((x_xO * (grams_xO > 0)).sum(-1), count, out=np.full(count.shape, np.nan), where=count > 0)
