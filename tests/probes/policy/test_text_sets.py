"""Sets of texts against Python sets and loops over pairs; duplicates, names of words, and leaving one out."""

import itertools
from collections import Counter

import numpy as np
import pytest

from jaxpost.probes import samples
from jaxpost.probes.policy import text_sets

M, T, SETS = 24, 9, 5


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    tokens = np.where(rng.random((M, T)) < rng.random((M, 1)), rng.integers(0, 3, (M, T)), text_sets.NO_WORD)
    tokens[3] = text_sets.NO_WORD  # a text without a word
    tokens[4] = tokens[7]
    return text_sets.aligned(tokens), rng.integers(0, SETS, M)


def grams_of(text, n):
    words = [int(w) for w in text if w != text_sets.NO_WORD]
    return Counter(tuple(words[i:i + n]) for i in range(len(words) - n + 1))


def similar(texts):
    """Independent: a loop over pairs."""
    by_order = []
    for n in samples.ORDERS:
        counts = [c for c in (grams_of(text, n) for text in texts) if c]
        cosines = [sum(a[g] * b[g] for g in a) / np.sqrt(sum(x * x for x in a.values()) * sum(x * x for x in b.values()))
                   for a, b in itertools.combinations(counts, 2)]
        by_order += [np.mean(cosines)] if cosines else []
    return np.mean(by_order) if by_order else np.nan


def test_sets_read_as_loops_over_their_texts(texts):
    words, sets = texts
    found = text_sets.grams(words)
    kinds, totals = text_sets.distinct(found, sets, SETS)
    for s in range(SETS):
        for i, n in enumerate(samples.ORDERS):
            every = sum((grams_of(text, n) for text in words[sets == s]), Counter())
            assert (kinds[s, i], totals[s, i]) == (len(every), sum(every.values()))
    want = [similar(words[sets == s]) for s in range(SETS)]
    np.testing.assert_allclose(text_sets.similarity(found, sets, SETS), want, rtol=1e-12, atol=1e-15)
    classes = text_sets.classes(words)
    counts = [Counter(map(tuple, words[sets == s].tolist())).values() for s in range(SETS)]
    entropies = [-sum(c / sum(x) * np.log(c / sum(x)) for c in x) for x in counts]
    np.testing.assert_allclose(text_sets.entropy(classes, sets, SETS), entropies, rtol=1e-12, atol=1e-15)


def test_without_each_text_is_the_set_of_the_others(texts):
    words, _ = texts
    found = text_sets.grams(words)
    kinds, totals = text_sets.distinct_without(found, M)
    similarity = text_sets.similarity_without(found, M)
    for i in (0, 3, 4, M - 1):
        rest = text_sets.grams(np.delete(words, i, 0))
        for got, want in zip((kinds[i], totals[i]), text_sets.distinct(rest, np.zeros(M - 1, int), 1), strict=True):
            np.testing.assert_array_equal(got, want[0])
        assert similarity[i] == pytest.approx(text_sets.similarity(rest, np.zeros(M - 1, int), 1)[0], rel=1e-12)


def test_duplicates_and_strangers_are_the_ends():
    one = np.asarray([[0, 1, 2, text_sets.NO_WORD]] * 3)
    together = np.zeros(3, int)
    assert text_sets.similarity(text_sets.grams(one), together, 1)[0] == pytest.approx(1.0, abs=1e-15)
    assert text_sets.entropy(text_sets.classes(one), together, 1)[0] == pytest.approx(0.0, abs=1e-15)
    strangers = np.arange(6).reshape(3, 2)
    assert text_sets.similarity(text_sets.grams(strangers), together, 1)[0] == 0.0
    assert text_sets.entropy(text_sets.classes(strangers), together, 1)[0] == pytest.approx(np.log(3))
    solved = np.asarray([True, False, True])
    verified = text_sets.entropy(text_sets.classes(strangers, solved), together, 1)[0]
    assert verified == pytest.approx(np.log(3) - 2 / 3 * np.log(2))
    names = np.asarray([5, 3, 4, 0, 1, 2])[strangers]
    assert text_sets.similarity(text_sets.grams(names), together, 1)[0] == 0.0


@pytest.mark.parametrize("shape", [(3, 2), (1, 4)])
def test_texts_without_pairs_or_words_have_no_similarity(shape):
    found = text_sets.grams(np.full(shape, text_sets.NO_WORD))
    assert np.isnan(text_sets.similarity(found, np.zeros(shape[0], int), 1)[0])
    assert text_sets.distinct(found, np.zeros(shape[0], int), 1)[1].sum() == 0
