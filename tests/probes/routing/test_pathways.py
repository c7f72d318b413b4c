"""Pathways and edit distances against brute force, planted weights, and what must not change them."""

import functools
import itertools

import numpy as np
import pytest

from jaxpost import stats
from jaxpost.probes.gradients import statistics as gradient_statistics
from jaxpost.probes.routing import pathways


def brute(a, b):
    """Levenshtein's distance by its recursion."""
    @functools.cache
    def d(i, j):
        if i == 0 or j == 0:
            return i + j
        return min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return d(len(a), len(b))


def spelled(order, length, sample):
    """The pathway of one sample as a tuple of (layer, expert)."""
    return tuple((layer, int(e)) for layer, n in enumerate(length[sample]) for e in order[sample, layer, :n])


def random_probs(n, layers, experts, seed=0, sharp=1.0):
    return np.random.default_rng(seed).dirichlet(np.full(experts, 1 / sharp), size=(n, layers))


def test_planted_weights_give_known_pathways():
    p = np.asarray([[[0.5, 0.1, 0.3, 0.1], [0.25, 0.25, 0.25, 0.25]],
                    [[0.1, 0.1, 0.75, 0.05], [0.0, 0.0, 0.0, 1.0]]])
    found = pathways.pathways(p)
    assert spelled(found.order_NxLxE, found.length_NxL, 0) == ((0, 0), (0, 2), (1, 0), (1, 1), (1, 2))
    assert spelled(found.order_NxLxE, found.length_NxL, 1) == ((0, 2), (1, 3))
    coded, length = pathways.symbols(found.order_NxLxE, found.length_NxL)
    np.testing.assert_array_equal(coded, [[0, 2, 4, 5, 6], [2, 7, -1, -1, -1]])
    np.testing.assert_array_equal(length, [5, 2])


def test_the_threshold_is_strict_and_ties_go_to_the_lower_expert():
    found = pathways.pathways(np.asarray([[[0.25, 0.5, 0.25]]]), threshold=0.75)
    assert spelled(found.order_NxLxE, found.length_NxL, 0) == ((0, 1), (0, 0), (0, 2))  # 0.75 is not above 0.75
    found = pathways.pathways(np.asarray([[[0.25, 0.5, 0.25]]]), threshold=0.74)
    assert spelled(found.order_NxLxE, found.length_NxL, 0) == ((0, 1), (0, 0))


def test_levenshtein_of_every_short_pair():
    words = [w for n in range(4) for w in itertools.product(range(3), repeat=n)]
    pairs = list(itertools.product(words, words))
    padded = lambda side: np.asarray([[*pair[side], *[-1] * (3 - len(pair[side]))] for pair in pairs], np.int32)  # noqa: E731
    found = pathways.levenshtein(padded(0), [len(a) for a, _ in pairs], padded(1), [len(b) for _, b in pairs])
    np.testing.assert_array_equal(found, [brute(a, b) for a, b in pairs])


def test_distances_of_random_pathways_are_those_of_brute_force():
    p = random_probs(14, 3, 6, sharp=2.0)
    found = pathways.pathways(p)
    first, second = pathways.pairs(np.arange(14), 10**6)
    raw, longer = pathways.distances(found.order_NxLxE, found.length_NxL, first, second)
    words = [spelled(found.order_NxLxE, found.length_NxL, i) for i in range(14)]
    np.testing.assert_array_equal(raw, [brute(words[i], words[j]) for i, j in zip(first, second)])
    np.testing.assert_array_equal(longer, [max(len(words[i]), len(words[j])) for i, j in zip(first, second)])
    layered = [[brute(tuple(s for s in words[i] if s[0] == layer), tuple(s for s in words[j] if s[0] == layer))
                for layer in range(3)] for i, j in zip(first, second)]
    np.testing.assert_array_equal(pathways.by_layer(found.order_NxLxE, found.length_NxL, first, second), layered)
    assert (raw <= np.sum(layered, axis=1)).all()


def test_an_expert_in_two_layers_is_two_symbols():
    p = np.asarray([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    found = pathways.pathways(p)
    assert pathways.distances(found.order_NxLxE, found.length_NxL, np.array([0]), np.array([1]))[0] == [2]


def test_relabelling_experts_in_a_layer_changes_no_distance():
    p = random_probs(10, 2, 5)
    q = np.stack([p[:, layer, np.random.default_rng(layer + 1).permutation(5)] for layer in range(2)], axis=1)
    first, second = pathways.pairs(np.arange(10), 10**6)
    a, b = (pathways.pathways(x) for x in (p, q))
    for x, y in zip(pathways.distances(*a[:2], first, second), pathways.distances(*b[:2], first, second)):
        np.testing.assert_array_equal(x, y)


def test_pairs_are_all_or_a_fixed_choice_that_nests():
    first, second = pathways.pairs(np.asarray([7, 2, 9]), 10)
    assert list(zip(first, second)) == [(2, 7), (2, 9), (7, 9)]
    members = np.arange(60)
    few, many = (set(zip(*pathways.pairs(members, cap))) for cap in (100, 400))
    assert len(few) == 100 and len(many) == 400 and few < many and all(i < j for i, j in many)
    assert set(zip(*pathways.pairs(members, 100))) == few
    inside = {pair for pair in few if max(pair) < 40}
    assert inside <= set(zip(*pathways.pairs(np.arange(40), 100)))  # chosen among many: chosen among fewer
    counts = np.bincount(np.concatenate([list(pair) for pair in many]), minlength=60)
    assert counts.min() > 3 and counts.max() < 27  # 800 ends on 60 samples, about 13 each


def test_the_jackknife_over_all_pairs_is_that_of_stats():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(9, 9))
    first, second = pathways.pairs(np.arange(9), 10**6)
    mean, without = pathways.mean_of_pairs(x[first, second], first, second)
    wanted = stats.jackknife_pairs(x)
    lo, hi = gradient_statistics.jackknife(without, mean)
    np.testing.assert_allclose([mean, lo, hi], [wanted.value, wanted.lo, wanted.hi], rtol=1e-12)


def test_one_pair_has_a_mean_and_nothing_without_either():
    mean, without = pathways.mean_of_pairs(np.asarray([4]), np.asarray([0]), np.asarray([3]))
    assert mean == 4 and np.isnan(without).all()


def test_rounding_of_ties_and_cuts_is_bounded():
    settled = pathways.pathways(np.asarray([[[0.5, 0.3, 0.2]]]))
    assert pathways.unsettled(settled, 1e-6)[0].sum() == 0 and pathways.unsettled(settled, 1e-6)[1] == 0
    cut = pathways.pathways(np.asarray([[[0.6, 0.1 + 1e-8, 0.3 - 1e-8]], [[0.4, 0.3 + 1e-8, 0.3 - 1e-8]]]))
    edits, ends = pathways.unsettled(cut, 1e-6)
    np.testing.assert_array_equal(edits, [[0.0], [2.0]])  # 0.4 + 0.3 ends at the threshold; and its second expert is tied
    assert ends == 1


def test_the_bound_holds_for_every_perturbation_within_it():
    rng, tolerance = np.random.default_rng(5), 0.02
    p = np.round(random_probs(12, 2, 5, seed=6), 2)
    base = pathways.pathways(p)
    first, second = pathways.pairs(np.arange(12), 10**6)
    edits, _ = pathways.unsettled(base, tolerance)
    allowed = (edits[first] + edits[second]).sum(1)
    assert (allowed == 0).any() and (allowed > 0).any()
    before = pathways.distances(*base[:2], first, second)[0]
    for _ in range(50):
        moved = pathways.pathways(p + rng.uniform(-1, 1, p.shape) * tolerance / 10)  # cumulative sums of five stay within it
        after = pathways.distances(*moved[:2], first, second)[0]
        assert (np.abs(after - before) <= allowed).all()


def test_random_routing_draws_without_replacement_by_load():
    load = np.asarray([[0.6, 0.3, 0.1, 0.0]])
    order = pathways.random_routing(load, np.full((60_000, 1), 2), np.random.default_rng(0))[:, 0]
    assert (np.sort(order, axis=1) == np.arange(4)).all() and (order[:, 3] == 3).all()  # no load: last
    share = np.bincount(order[:, 0], minlength=4) / len(order)
    np.testing.assert_allclose(share, load[0], atol=4 * np.sqrt(0.25 / len(order)))
    after_first = np.bincount(order[order[:, 0] == 0, 1], minlength=4) / (order[:, 0] == 0).sum()
    np.testing.assert_allclose(after_first, [0, 0.75, 0.25, 0], atol=0.01)


def test_shuffled_samples_keep_every_layers_pathways():
    found = pathways.pathways(random_probs(50, 3, 4))
    mixed = pathways.shuffled_samples(found, np.random.default_rng(1))
    for layer in range(3):
        rows = [{tuple(row) for row in np.concatenate([x.order_NxLxE[:, layer], x.length_NxL[:, [layer]]], axis=1)}
                for x in (found, mixed)]
        assert rows[0] == rows[1]
        np.testing.assert_array_equal(np.sort(found.length_NxL[:, layer]), np.sort(mixed.length_NxL[:, layer]))
    same = (found.weight_NxLxE[:, :, 0] == mixed.weight_NxLxE[:, :, 0]).mean()
    assert same < 0.2


@pytest.mark.parametrize("experts", [1, 2])
def test_few_experts(experts):
    found = pathways.pathways(np.full((3, 2, experts), 1.0 / experts))
    np.testing.assert_array_equal(found.length_NxL, np.full((3, 2), experts))
    first, second = pathways.pairs(np.arange(3), 10)
    assert pathways.distances(*found[:2], first, second)[0].sum() == 0


def test_no_member_has_no_pair():
    first, second = pathways.pairs(np.asarray([], int), 10)
    assert len(first) == len(second) == 0
