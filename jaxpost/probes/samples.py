"""What several samples of one prompt say: pass@k and expectation-adjusted distinct n-grams, as formulas.

    pass@k  1 - C(n - c, k) / C(n, k), c of n samples solved: the chance that k of them, drawn without replacement, include a
            solved one                                                                                  arXiv:2107.03374
    EAD     distinct n-grams over what C draws from V alike words would give, V (1 - ((V - 1) / V)^C)   arXiv:2202.13587

Counts are made on device; ratios on the host in float64.

Legend: N prompts, G samples a prompt (n of the formula), T tokens, V vocabulary, C n-grams of a text.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
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
    check_k(k, n)
    c_N = np.asarray(solved_N)
    if c_N.size and (c_N.min() < 0 or c_N.max() > n):
        raise ValueError(f"solved samples from {c_N.min()} to {c_N.max()}; expected 0 to n={n}")
    every = math.comb(n, k)
    return np.asarray([(every - math.comb(n - c, k)) / every for c in range(n + 1)])[c_N.astype(np.int64)]


def guess_at_k(guess: float, k: int, prompts: int) -> tuple[float, float, float]:
    """(value, lo, hi) of pass@k of guesses that solve a problem with probability g each.

    The value is k independent guesses, 1 - (1 - g)^k. The band runs from one guess said k times, g, to k guesses that exclude
    each other, min(1, k g), each end widened to the 95 % range of a binomial share of the prompts (the widest law in [0, 1]).
    """
    from_, to = guess, min(1.0, k * guess)
    share = 1.959963984540054 / math.sqrt(prompts)
    return (1 - (1 - guess) ** k, max(0.0, from_ - share * math.sqrt(from_ * (1 - from_))),
            min(1.0, to + share * math.sqrt(to * (1 - to))))


def distinct(tokens_T: jax.Array, word_T: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(distinct n-grams of each order int32[5], number of words) of one text; O(T^2), jit-pure.

    Args:
      tokens_T: int32; word_T: > 0 where a token is a word of the text. What is no word is taken out before n-grams are formed.
    """
    T, order = tokens_T.shape[0], jnp.argsort(word_T <= 0, stable=True)
    text_T, words = tokens_T[order], (word_T > 0).sum()
    place = jnp.arange(T)
    same = equal = text_T[:, None] == text_T[None, :]
    found = []
    for n in ORDERS:
        if n > 1:  # the words n - 1 further on are equal too; what wraps around starts no n-gram
            same = same & jnp.roll(equal, (1 - n, 1 - n), (0, 1))
        starts = place <= words - n
        before = (same & (place[None, :] < place[:, None])).any(axis=1)
        found.append((starts & ~before).sum(dtype=jnp.int32))
    return jnp.stack(found), words.astype(jnp.int32)


def expected_distinct(grams: np.ndarray, kinds: float) -> np.ndarray:
    """Expected distinct outcomes of C independent draws from V alike kinds: V (1 - ((V - 1) / V)^C), float64."""
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.where(np.asarray(grams) > 0, np.asarray(grams, np.float64) * np.log1p(-1 / kinds), 0.0)
    return -kinds * np.expm1(inside)


def _variance(grams: np.ndarray, kinds: float) -> np.ndarray:
    """Variance of the distinct outcomes: V (V - 1) (1 - 2/V)^C + V (1 - 1/V)^C - V^2 (1 - 1/V)^2C."""
    grams = np.asarray(grams, np.float64)
    if kinds > 1e6:  # the terms cancel: to first order in 1 / V the repeats are Poisson
        return grams * (grams - 1) / (2 * kinds)
    one, two = (1 - 1 / kinds) ** grams, np.maximum(1 - 2 / kinds, 0.0) ** grams
    return np.maximum(kinds * (kinds - 1) * two + kinds * one - (kinds * one) ** 2, 0.0)


def ead(distinct_xO: np.ndarray, words_x: np.ndarray, vocabulary: int) -> np.ndarray:
    """Expectation-adjusted distinct of each text: mean over the orders n that it is long enough for, NaN without a word.

    Args:
      distinct_xO: distinct n-grams, [..., 5]; words_x: words of the text; vocabulary: V, the same for every n (so that the
        value may exceed 1).

    Raises: ValueError for a vocabulary below 1.

    Source: Liu et al., arXiv:2202.13587; V and the mean over n as in Kirk et al., arXiv:2310.06452.
    """
    grams_xO = _grams(words_x, vocabulary)
    each = np.divide(distinct_xO, expected_distinct(grams_xO, vocabulary), out=np.zeros(grams_xO.shape), where=grams_xO > 0)
    return _over_orders(each, grams_xO)


def ead_null(words_x: np.ndarray, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """(expectation, bound of the standard deviation) of `ead` of texts of independent, equally likely words.

    n-grams fall on V^n kinds. Exact for n = 1; for more, n-grams that overlap still coincide in pairs with probability V^-n
    (an error of second order; 2 % of the mean and of the deviation at V = 2). The deviation of a mean over n is at most the
    mean of the deviations.
    """
    grams_xO = _grams(words_x, vocabulary)
    under = expected_distinct(grams_xO, vocabulary)
    parts = []
    for found in (expected_distinct, lambda c, v: np.sqrt(_variance(c, v))):
        by_order = np.stack([found(grams_xO[..., i], float(vocabulary) ** n) for i, n in enumerate(ORDERS)], axis=-1)
        parts.append(_over_orders(np.divide(by_order, under, out=np.zeros(under.shape), where=grams_xO > 0), grams_xO))
    return parts[0], parts[1]


def _grams(words_x: np.ndarray, vocabulary: int) -> np.ndarray:
    if vocabulary < 1:
        raise ValueError(f"a vocabulary of {vocabulary} words; expected at least 1")
    return np.maximum(np.asarray(words_x, np.int64)[..., None] + 1 - np.asarray(ORDERS), 0)


def _over_orders(x_xO: np.ndarray, grams_xO: np.ndarray) -> np.ndarray:
    count = (grams_xO > 0).sum(-1)
    return np.divide((x_xO * (grams_xO > 0)).sum(-1), count, out=np.full(count.shape, np.nan), where=count > 0)
