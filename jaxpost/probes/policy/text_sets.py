"""Sets of short texts: their distinct n-grams, how alike they are, and the entropy of their classes; exact counts, float64.

A set is named by a number a text, so that one call reads the sets of all prompts, of all prompts but one, or of other prompts.

    similarity   mean over n = 1 .. 5 of the mean cosine between vectors of n-gram counts over all pairs of the set's texts
                 that have an n-gram; with unit vectors u of m texts it is (|sum u|^2 - m) / (m (m - 1)), without a pair loop
    entropy      -sum_c p_c log p_c, p_c = share of the set's texts in class c (plug-in: at most log m, and biased down)

Similarity is the n-gram form of the embedding similarity of arXiv:2310.06452, which needs a sentence encoder (reconstructed).

Legend: M texts, T words, S sets, O orders of n-grams, R (text, n-gram) pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxpost.probes import samples

NO_WORD = -1  # a place without a word


class Grams(NamedTuple):
    """The n-grams of one order: each kind of each text once."""

    text_R: np.ndarray
    kind_R: np.ndarray
    count_R: np.ndarray
    kinds: int  # number of kinds in all texts


def aligned(tokens_MxT: np.ndarray) -> np.ndarray:
    """The words of each text from place 0 on, then NO_WORD."""
    order = np.argsort(tokens_MxT == NO_WORD, axis=1, kind="stable")
    return np.take_along_axis(tokens_MxT, order, axis=1)


def grams(words_MxT: np.ndarray) -> tuple[Grams, ...]:
    """The n-grams of `aligned` texts, of every order in `samples.ORDERS`."""
    M, T = words_MxT.shape
    length_M, word_MxT = (words_MxT != NO_WORD).sum(1), np.unique(words_MxT, return_inverse=True)[1].reshape(M, T)
    code_MxT, width, by_order = word_MxT, int(word_MxT.max(initial=0)) + 1, []
    for n in samples.ORDERS:
        if n > 1:  # the n-gram at t is the (n - 1)-gram there and the word n - 1 further on
            longer = code_MxT[:, :-1] * width + word_MxT[:, n - 1:] if T >= n else code_MxT[:, :0]
            code_MxT = np.unique(longer, return_inverse=True)[1].reshape(longer.shape)
        text_R, place_R = np.nonzero(np.arange(code_MxT.shape[1]) <= length_M[:, None] - n)
        kinds = int(code_MxT.max(initial=0)) + 1
        pair_R, count_R = np.unique(text_R * kinds + code_MxT[text_R, place_R], return_counts=True)
        by_order.append(Grams(pair_R // kinds, pair_R % kinds, count_R, kinds))
    return tuple(by_order)


def distinct(grams: tuple[Grams, ...], set_M: np.ndarray, sets: int) -> tuple[np.ndarray, np.ndarray]:
    """(distinct n-grams [S, O], n-grams [S, O]) of the union of each set's texts, no n-gram across two texts."""
    kinds = [np.bincount(np.unique(set_M[g.text_R] * g.kinds + g.kind_R) // g.kinds, minlength=sets) for g in grams]
    totals = [np.bincount(set_M[g.text_R], g.count_R, minlength=sets) for g in grams]
    return np.stack(kinds, axis=-1), np.stack(totals, axis=-1)


def distinct_without(grams: tuple[Grams, ...], texts: int) -> tuple[np.ndarray, np.ndarray]:
    """`distinct` of the set of all texts without each one of them: [M, O] twice."""
    kinds, totals = [], []
    for g in grams:
        owners = np.bincount(g.kind_R, minlength=g.kinds)
        alone = np.bincount(g.text_R, owners[g.kind_R] == 1, minlength=texts)
        kinds.append((owners > 0).sum() - alone)
        totals.append(g.count_R.sum() - np.bincount(g.text_R, g.count_R, minlength=texts))
    return np.stack(kinds, axis=-1), np.stack(totals, axis=-1)


def similarity(grams: tuple[Grams, ...], set_M: np.ndarray, sets: int) -> np.ndarray:
    """Mean cosine of each set's pairs, [S] in [0, 1]; NaN for a set without two texts that have a word."""
    each = []
    for g in grams:
        key, place = np.unique(set_M[g.text_R] * g.kinds + g.kind_R, return_inverse=True)
        length2 = np.bincount(key // g.kinds, np.bincount(place, _unit(g)) ** 2, minlength=sets)
        each.append(_of_pairs(length2, _texts(g, set_M, sets)))
    return _over_orders(np.stack(each, axis=-1))


def similarity_without(grams: tuple[Grams, ...], texts: int) -> np.ndarray:
    """`similarity` of the set of all texts without each one of them, [M]."""
    each = []
    for g in grams:
        unit_R = _unit(g)
        sum_K = np.bincount(g.kind_R, unit_R, minlength=g.kinds)
        with_M = np.bincount(g.text_R, unit_R * sum_K[g.kind_R], minlength=texts)
        has_M = np.bincount(g.text_R, minlength=texts) > 0
        length2_M = (sum_K**2).sum() - 2 * with_M + has_M
        each.append(_of_pairs(length2_M, has_M.sum() - has_M))
    return _over_orders(np.stack(each, axis=-1))


def entropy(class_M: np.ndarray, set_M: np.ndarray, sets: int) -> np.ndarray:
    """Plug-in entropy of each set's classes in nats, [S]; classes are integers from 0 on."""
    kinds = int(class_M.max(initial=0)) + 1
    pair, count = np.unique(set_M * kinds + class_M, return_counts=True)
    m = np.bincount(set_M, minlength=sets)
    return np.log(m) - np.bincount(pair // kinds, count * np.log(count), minlength=sets) / m


def classes(words_MxT: np.ndarray, solved_M: np.ndarray | None = None) -> np.ndarray:
    """Number of each text's class, [M]: the same words; with `solved_M` all solved texts are one class."""
    same_M = np.unique(words_MxT, axis=0, return_inverse=True)[1].reshape(-1)
    return same_M if solved_M is None else np.where(solved_M, 0, same_M + 1)


def _unit(g: Grams) -> np.ndarray:
    """Entries of the unit vectors of counts, [R]."""
    return g.count_R / np.sqrt(np.bincount(g.text_R, g.count_R**2))[g.text_R]


def _texts(g: Grams, set_M: np.ndarray, sets: int) -> np.ndarray:
    """Texts of each set that have an n-gram."""
    return np.bincount(set_M[np.unique(g.text_R)], minlength=sets)


def _of_pairs(length2: np.ndarray, m: np.ndarray) -> np.ndarray:
    pairs = m * (m - 1.0)
    return np.clip(np.divide(length2 - m, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0), 0.0, 1.0)


def _over_orders(x_SxO: np.ndarray) -> np.ndarray:
    count = np.isfinite(x_SxO).sum(-1)
    return np.divide(np.nansum(x_SxO, axis=-1), count, out=np.full(count.shape, np.nan), where=count > 0)
