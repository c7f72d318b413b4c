"""Load statistics against counting by hand, their nulls against enumeration, and co-activation against a fit by iteration."""

import itertools

import numpy as np
import pytest
import scipy.stats

from jaxpost.probes.routing import load as router_load

TOP = np.asarray([[[0, 2], [2, 1], [-1, -1]], [[2, 0], [2, 3], [0, 3]]])  # 2 samples, 3 positions, one of them padding


def test_choices_and_pairs_are_counted_without_padding():
    np.testing.assert_array_equal(router_load.selected_experts(TOP, 5), [[1, 1, 2, 0, 0], [2, 0, 2, 2, 0]])
    both = np.zeros((2, 5, 5))
    for sample, a, b in ((0, 0, 2), (0, 1, 2), (1, 0, 2), (1, 2, 3), (1, 0, 3)):
        both[sample, a, b] = both[sample, b, a] = 1
    np.testing.assert_array_equal(router_load.together(TOP, 5), both)


def test_all_pairs_of_the_top_k_count_not_only_adjacent_ranks():
    top = np.asarray([[[3, 1, 0, 2]]])
    assert router_load.together(top, 4).sum() == 12  # 6 pairs, both ways; adjacent ranks alone are 3


def test_load_statistics():
    count = np.asarray([[4.0, 0, 2, 2], [2, 2, 2, 2], [0, 0, 0, 0]])
    np.testing.assert_allclose(router_load.load_cv(count), [np.std([4, 0, 2, 2]) / 2, 0, np.nan])
    np.testing.assert_allclose(router_load.load_max(count), [0.5, 0.25, np.nan])
    np.testing.assert_array_equal(router_load.without_one(count), count.sum(0) - count)


@pytest.mark.parametrize("experts, k, tokens", [(3, 1, 4), (4, 2, 3), (3, 3, 2), (1, 1, 3), (4, 3, 3)])
def test_nulls_of_equal_load_are_every_choice_of_every_token(experts, k, tokens):
    subsets = list(itertools.combinations(range(experts), k))
    counts = np.asarray([np.bincount(np.concatenate(choice), minlength=experts)
                         for choice in itertools.product(subsets, repeat=tokens)], float)
    cv2 = (router_load.load_cv(counts) ** 2).mean()
    np.testing.assert_allclose(router_load.load_cv_null(experts, k, tokens), np.sqrt(cv2), rtol=1e-12)
    np.testing.assert_allclose(router_load.dead_null(experts, k, tokens), (counts == 0).sum(1).mean(), atol=1e-12)


def test_the_null_of_the_largest_share_is_near_that_of_drawn_tokens():
    rng = np.random.default_rng(1)
    drawn = np.argsort(rng.random((2000, 300, 6)), axis=-1)[..., :2]
    count = (drawn[..., None] == np.arange(6)).sum((1, 2))
    wanted, found = router_load.load_max(count), router_load.load_max_null(6, 2, 300)
    np.testing.assert_allclose(found.mean(), wanted.mean(), rtol=0.01)
    np.testing.assert_allclose(np.quantile(found, 0.975), np.quantile(wanted, 0.975), rtol=0.02)
    np.testing.assert_array_equal(router_load.load_max_null(1, 1, 10), np.ones(999))
    np.testing.assert_allclose(router_load.load_max_null(4, 4, 10), np.full(999, 0.25))


@pytest.mark.parametrize("margin", [[0.25] * 4, [0.1, 0.2, 0.3, 0.4], [0.45, 0.3, 0.2, 0.05], [0.4, 0.35, 0.2, 0.05, 0.0]])
def test_quasi_independence_is_the_fit_by_iteration(margin):
    margin = np.asarray(margin)
    r = 1.0 - np.eye(len(margin))
    for _ in range(20_000):
        r *= (margin / np.maximum(r.sum(1), 1e-300))[:, None]
        r *= (margin / np.maximum(r.sum(0), 1e-300))[None]
    found = router_load.quasi_independence(margin)
    np.testing.assert_allclose(found, r, atol=1e-9)
    np.testing.assert_allclose(found.sum(1), margin, atol=1e-12)
    np.testing.assert_array_equal(np.diagonal(found), 0)


def test_an_expert_in_every_pair_leaves_one_law():
    found = router_load.quasi_independence(np.asarray([0.5, 0.25, 0.15, 0.1]))
    np.testing.assert_allclose(found[0], [0, 0.25, 0.15, 0.1], atol=1e-9)
    np.testing.assert_allclose(found[1:, 1:], 0, atol=1e-9)


def test_coactivation_of_planted_pairs():
    blocks = np.zeros((4, 4))
    blocks[0, 1] = blocks[1, 0] = blocks[2, 3] = blocks[3, 2] = 50  # 0 with 1, 2 with 3, never across
    np.testing.assert_allclose(router_load.coactivation(blocks), 2 / 3, rtol=1e-9)  # equal load: r is 1/6 a pair, q is 1/2
    w = np.asarray([3.0, 2, 2, 1])
    free = np.outer(w, w) * (1 - np.eye(4))
    np.testing.assert_allclose(router_load.coactivation(free), 0, atol=1e-9)
    assert np.isnan(router_load.coactivation(np.zeros((4, 4))))
    np.testing.assert_allclose(router_load.coactivation(np.stack([blocks, free])), [2 / 3, 0], atol=1e-9)
    drawn = router_load.coactivation_null(blocks, 50)
    assert 0 < drawn.mean() < 0.25 and drawn.max() < 2 / 3


def test_the_null_of_coactivation_is_what_independent_tokens_read():
    rng = np.random.default_rng(2)
    top = np.argsort(rng.gumbel(size=(1, 400, 5)), axis=-1)[..., :2]
    both = router_load.together(top, 5)[0]
    drawn = router_load.coactivation_null(both, 400)
    assert np.quantile(drawn, 0.005) < router_load.coactivation(both) < np.quantile(drawn, 0.995)
    assert np.isnan(router_load.coactivation_null(np.zeros((5, 5)), 3)).all()


def test_mutual_information_is_that_of_entropies():
    rng = np.random.default_rng(3)
    label, weight = rng.integers(0, 3, 40) * 7, rng.dirichlet(np.ones(4), 40)  # labels need not be 0, 1, 2
    joint = router_load.joint(label, weight)
    np.testing.assert_allclose(joint, [weight[label == y].sum(0) for y in (0, 7, 14)])
    p = joint / joint.sum()
    wanted = scipy.stats.entropy(p.sum(0)) + scipy.stats.entropy(p.sum(1)) - scipy.stats.entropy(p.ravel())
    np.testing.assert_allclose(router_load.mutual_information(joint), wanted, rtol=1e-12)
    np.testing.assert_allclose(router_load.mutual_information(np.eye(4)), np.log(4))
    np.testing.assert_allclose(router_load.mutual_information(np.outer([1, 2], [3, 4, 0])), 0, atol=1e-15)


def test_label_permutations_are_about_their_enumeration():
    label, weight = np.asarray([0, 0, 1, 1, 1]), np.random.default_rng(4).dirichlet(np.ones(3), 5)
    every = [router_load.mutual_information(router_load.joint(np.asarray(order), weight))
             for order in set(itertools.permutations(label))]
    drawn = router_load.label_permutations(label, weight)
    assert len(drawn) == router_load.LABEL_DRAWS
    assert all(np.isclose(every, x, rtol=1e-9).any() for x in drawn)
    assert abs(drawn.mean() - np.mean(every)) < 4 * np.std(every) / np.sqrt(len(drawn))


def test_overlap_and_its_null_are_enumerated():
    last = np.asarray([[[2, 0], [1, 2], [-1, -1]], [[0, 1], [3, 2], [4, 0]]])
    np.testing.assert_array_equal(router_load.overlap(TOP, last), [4, 4])
    np.testing.assert_array_equal(router_load.overlap(TOP, TOP), [4, 6])
    now, then = [(0, 1), (0, 1), (2, 3)], [(0, 2), (1, 3), (1, 2)]  # choices of three tokens at two steps
    every = np.mean([len(set(a) & set(b)) / 2 for a in now for b in then])  # any of one with any of the other
    load = lambda choices: np.bincount(np.concatenate(choices), minlength=4)  # noqa: E731
    np.testing.assert_allclose(router_load.overlap_null(load(now), load(then), 3, 2), every)


def test_load_entropy_is_that_of_the_shares_and_its_null_that_of_drawn_tokens():
    count = np.asarray([[4.0, 0, 2, 2], [2, 2, 2, 2], [8, 0, 0, 0], [0, 0, 0, 0]])
    wanted = [scipy.stats.entropy(x) if x.sum() else np.nan for x in count]
    np.testing.assert_allclose(router_load.load_entropy(count), wanted, atol=1e-15)
    np.testing.assert_allclose(router_load.load_entropy(count[:, [2, 0, 3, 1]]), wanted, atol=1e-15)
    rng = np.random.default_rng(1)
    drawn = np.argsort(rng.random((2000, 100, 6)), axis=-1)[..., :2]
    blind = router_load.load_entropy((drawn[..., None] == np.arange(6)).sum((1, 2)).astype(float))
    found = router_load.load_entropy_null(6, 2, 100)
    np.testing.assert_allclose(np.log(6) - found.mean(), np.log(6) - blind.mean(), rtol=0.05)
    np.testing.assert_allclose(np.log(6) - np.quantile(found, 0.025), np.log(6) - np.quantile(blind, 0.025), rtol=0.1)
    np.testing.assert_array_equal(router_load.load_entropy_null(1, 1, 10), 0)
    assert np.isnan(router_load.load_entropy_null(4, 2, 0)).all()


def test_raw_counts_of_pairs_are_those_of_sets_and_of_their_null():
    rng = np.random.default_rng(3)
    top = np.argsort(rng.random((5, 40, 6)), axis=-1)[..., :3]
    both = router_load.together(top, 6).sum(0)
    by_hand = {pair: sum(set(pair) <= set(token) for token in top.reshape(-1, 3).tolist())
               for pair in itertools.combinations(range(6), 2)}
    assert router_load.most_together(both) == max(by_hand.values())
    assert both.sum() / 2 == sum(by_hand.values()) == 200 * 3
    drawn = router_load.independent_pairs(both, 200)
    np.testing.assert_array_equal(drawn, drawn.swapaxes(1, 2))
    np.testing.assert_array_equal(drawn.sum((1, 2)) / 2, 600)
    np.testing.assert_array_equal(router_load.coactivation(drawn), router_load.coactivation_null(both, 200))
    most = router_load.most_together(drawn)
    assert most.min() <= router_load.most_together(both) <= most.max() + 9
