"""Pathway statistics against float64 numpy spelled out, and their nulls against enumeration."""

import itertools

import numpy as np
import pytest

from jaxpost.probes.routing import pathway_estimates as estimates
from jaxpost.probes.routing import pathways, router_estimates

RNG = np.random.default_rng(0)
PROBS = RNG.dirichlet(np.ones(4), size=(7, 3))
VECTORS = RNG.normal(size=(3, 6, 4))  # [L, D, E]
GRAM, CROSS = np.einsum("lda,ldb->lab", VECTORS, VECTORS), np.einsum("lda,ldb->lab", VECTORS[:-1], VECTORS[1:])
ROUTER = {"gram_LxExE": GRAM, "cross_LxExE": CROSS, "width": np.int32(6)}
E = np.einsum("lde,nle->nld", VECTORS, PROBS)  # mean routing embeddings


def cos(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def distance_estimates(probs, members=None, cap=10**6, **more):
    found = estimates.distance_estimates(probs, 8, threshold=0.7, cap=cap, draws=4, params={}, members=members, **more)
    return {estimate.metric: estimate for estimate in found}


def nulls(estimate):
    return {null.kind: null for null in estimate.nulls}


def test_cosines_are_those_of_the_mixed_router_vectors():
    wanted = [[cos(e[layer], e[layer + 1]) for layer in range(2)] for e in E]
    np.testing.assert_allclose(estimates.cosines(PROBS, GRAM, CROSS), wanted, rtol=1e-12)
    other = np.roll(np.arange(7), 1)
    wanted = [[cos(E[i, layer], E[j, layer + 1]) for layer in range(2)] for i, j in enumerate(other)]
    np.testing.assert_allclose(estimates.cosines(PROBS, GRAM, CROSS, PROBS[other]), wanted, rtol=1e-12)


def test_the_null_of_the_cosine_is_every_pair_of_samples():
    wanted = np.mean([cos(E[i, layer], E[j, layer + 1]) for i, j in itertools.permutations(range(7), 2) for layer in range(2)])
    np.testing.assert_allclose(estimates.all_pairs_cosine(PROBS, GRAM, CROSS), wanted, rtol=1e-12)


def test_consistency_as_the_paper_writes_it_with_both_signs_of_its_denominator():
    cosine = np.asarray([[0.5, 0.25], [-0.5, -0.25], [0.3, 0.3]])
    np.testing.assert_allclose(estimates.consistency(cosine), [1 - 0.375 / 0.5, 1 - 1.5, 0.0], atol=1e-7)
    np.testing.assert_allclose(estimates.consistency(cosine[:, :1]), 0, atol=1e-6)  # two layers: 0 whatever the routing


def test_rows_of_consistency():
    raw, c = estimates.consistency_estimates(PROBS, ROUTER, 4, 8, {})
    wanted = np.asarray([[cos(e[layer], e[layer + 1]) for layer in range(2)] for e in E])
    np.testing.assert_allclose(raw.value, wanted.mean(), rtol=1e-12)
    np.testing.assert_allclose(c.value, np.mean(1 - wanted.mean(1) / (wanted.max(1) + 1e-8)), rtol=1e-12)
    mean = PROBS.mean(0)
    alike = [cos(VECTORS[layer] @ mean[layer], VECTORS[layer + 1] @ mean[layer + 1]) for layer in range(2)]
    np.testing.assert_allclose(nulls(raw)["equal_load"].value, np.mean(alike), rtol=1e-12)
    assert nulls(c)["shuffled_samples"].lo <= nulls(c)["shuffled_samples"].value <= nulls(c)["shuffled_samples"].hi


def test_the_bound_on_the_cosine_holds_in_float32():
    rng = np.random.default_rng(2)
    for seed in range(20):
        vectors = np.float32(rng.normal(size=(2, 64, 4)) + 3 * (seed % 2))
        probs = np.float32(rng.dirichlet(np.ones(4), size=(5, 2)))
        exact = vectors.astype(np.float64)
        gram, cross = np.einsum("lda,ldb->lab", exact, exact), np.einsum("lda,ldb->lab", exact[:-1], exact[1:])
        rounded = [np.float32(np.add.accumulate(np.float32(a[:, :, :, None] * b[:, :, None, :]), axis=1)[:, -1])
                   for a, b in ((vectors, vectors), (vectors[:-1], vectors[1:]))]
        error = abs(estimates.cosines(probs, *rounded).mean() - estimates.cosines(probs, gram, cross).mean())
        assert error <= estimates.cosine_errors(probs, gram, (64 + 2) * 2.0**-24).mean()


def test_complexity_is_the_trace_of_the_kernels_ridge():
    ridge = 0.3
    H = sum(np.outer(PROBS[:, layer, k], PROBS[:, layer, k]) for layer in range(3) for k in range(4))
    d_eff = lambda h: np.trace(h @ np.linalg.inv(h + ridge * np.eye(len(h))))  # noqa: E731
    np.testing.assert_allclose(estimates.effective_dimension(PROBS, ridge), d_eff(H), rtol=1e-10)
    keep = [np.delete(np.arange(7), i) for i in range(7)]
    np.testing.assert_allclose(estimates.without_one_dimension(PROBS, ridge), [d_eff(H[np.ix_(k, k)]) for k in keep], rtol=1e-9)
    many = np.concatenate([PROBS] * 3)  # more samples than features
    H = np.einsum("nle,mle->nm", many, many)
    np.testing.assert_allclose(estimates.effective_dimension(many, ridge), d_eff(H), rtol=1e-9)


def test_complexity_of_planted_routing():
    groups = np.repeat(np.eye(4)[:, None], 5, axis=0)  # 20 samples, one layer, four groups of five
    found = estimates.complexity_estimate(groups, 8, 1.0, 4)
    np.testing.assert_allclose(found.value, 4 * 5 / 6, rtol=1e-12)
    np.testing.assert_allclose(nulls(found)["equal_load"].value, (20 / 4) / (20 / 4 + 1), rtol=1e-12)
    np.testing.assert_allclose(nulls(found)["shuffled_samples"].value, found.value, rtol=1e-12)  # one layer: nothing to shuffle


def test_the_bounds_on_complexity_and_specialisation_hold_under_relative_errors():
    rng, relative = np.random.default_rng(8), 1e-4
    label = np.arange(7) % 3
    exact = estimates.effective_dimension(PROBS, 0.3), router_estimates.specialisation_estimate(label, PROBS, relative)
    bound = 2 * relative * (PROBS**2).sum() / 0.3
    for _ in range(30):
        moved = PROBS * (1 + relative * rng.choice([-1, 1], PROBS.shape))
        assert abs(estimates.effective_dimension(moved, 0.3) - exact[0]) <= bound * 1.001
        found = router_estimates.specialisation_estimate(label, moved, relative)
        assert (np.abs(found.value - exact[1].value) <= exact[1].num_err * 1.01).all()
    estimate = estimates.complexity_estimate(PROBS, 8, 0.3, 2)
    np.testing.assert_allclose(estimate.num_err, bound / relative * estimates.tolerance(8, 4))


def test_distances_of_planted_groups():
    groups = np.repeat(np.eye(4)[:, None], 5, axis=0).repeat(2, axis=1)  # alike within a group, both symbols differ across
    found = distance_estimates(groups)
    across = (190 - 4 * 10) / 190
    np.testing.assert_allclose(found["pathway.distance"].value, 2 * across)
    np.testing.assert_allclose(found["pathway.distance_normalised"].value, across)
    np.testing.assert_allclose(found["pathway.distance_by_layer"].value, [across, across, 2 * across])
    assert found["pathway.distance"].lo < 2 * across < found["pathway.distance"].hi and found["pathway.distance"].num_err == 0


def test_the_normalised_distance_is_the_mean_over_pairs_of_their_own_ratio():
    found = pathways.pathways(PROBS)
    first, second = pathways.pairs(np.arange(7), 10**6)
    raw, longer = pathways.distances(found.order_NxLxE, found.length_NxL, first, second)
    assert len(set(longer)) > 1
    estimate = distance_estimates(PROBS)["pathway.distance_normalised"]
    np.testing.assert_allclose(estimate.value, np.mean([d / n for d, n in zip(raw, longer)]))
    assert estimate.value <= 1 and estimate.hi - estimate.lo > 0


def test_the_null_of_equal_load_is_that_of_independent_samples():
    """One expert a sample with the layer's load: two samples differ with probability 1 - sum of squares."""
    load = np.asarray([0.5, 0.3, 0.2])
    chosen = np.repeat(np.arange(3), (100 * load).astype(int))
    found = distance_estimates(np.eye(3)[chosen][:, None])["pathway.distance"]
    null = nulls(found)["equal_load"]
    np.testing.assert_allclose(null.value, 1 - (load**2).sum(), atol=0.03)
    assert null.lo <= null.value <= null.hi
    tied = nulls(distance_estimates(np.eye(3)[chosen][:, None].repeat(2, axis=1))["pathway.distance"])
    np.testing.assert_allclose(tied["shuffled_samples"].value, 2 * (1 - (load**2).sum()), rtol=0.03)


def test_members_are_measured_alone_against_all():
    members = np.asarray([0, 2, 5, 6])
    found = distance_estimates(PROBS, members)
    alone = distance_estimates(PROBS[members])
    for name in found:
        for field in ("value", "lo", "hi", "num_err"):
            np.testing.assert_array_equal(getattr(found[name], field), getattr(alone[name], field))
    assert found["pathway.distance"].params["over"] == "memorised" and found["pathway.distance"].n == 4
    everyone = distance_estimates(PROBS)
    for name in ("pathway.distance", "pathway.distance_normalised"):
        assert nulls(found[name])["random_subset"].value == everyone[name].value
    subsets = [distance_estimates(PROBS[list(s)])["pathway.distance"].value for s in itertools.combinations(range(7), 4)]
    np.testing.assert_allclose(np.mean(subsets), everyone["pathway.distance"].value)  # the closed form is the mean of all


@pytest.mark.parametrize("members", [np.asarray([], int), np.asarray([3])])
def test_no_pair_is_said(members):
    found = distance_estimates(PROBS, members)
    for estimate in found.values():
        assert np.isnan(estimate.value).all() and estimate.missing == estimates.ONE_SAMPLE and estimate.n == len(members)
    assert np.shape(found["pathway.distance_by_layer"].value) == (4,)


def test_a_cap_on_pairs_is_recorded_and_reads_about_the_same():
    probs = np.random.default_rng(4).dirichlet(np.ones(4), size=(80, 2))
    every, some = distance_estimates(probs), distance_estimates(probs, cap=600)
    assert "pairs" not in every["pathway.distance"].params and some["pathway.distance"].params["pairs"] == 600
    found = some["pathway.distance"]
    assert found.lo < every["pathway.distance"].value < found.hi


def test_cuts_within_rounding_are_counted():
    probs = np.asarray([[[0.5, 0.2, 0.3]], [[0.4, 0.1, 0.5]], [[0.45, 0.25, 0.3]], [[0.6, 0.3, 0.1]]])
    exact = np.asarray([[[0.5, 0.2, 0.3]], [[0.4, 0.1, 0.5]], [[0.4, 0.3, 0.3]], [[0.6, 0.3, 0.1]]])
    assert distance_estimates(probs)["pathway.distance"].note is None
    assert "1 of 4 prefixes" in distance_estimates(exact)["pathway.distance"].note
    assert distance_estimates(exact)["pathway.distance"].num_err > 0
    assert estimates.length_estimate(exact, 8, 0.7).num_err == 0.25


def test_lengths_and_their_nulls():
    found = estimates.length_estimate(PROBS, 8, 0.7)
    length = pathways.pathways(PROBS).length_NxL
    np.testing.assert_allclose(found.value, [*length.mean(0), length.mean()])
    assert nulls(found)["uniform"].value == 3  # 0.75 of four
    assert nulls(estimates.length_estimate(np.full((2, 1, 10), 0.1), 8, 0.7))["uniform"].value == 8  # 7 are 0.7 and not above
    mean = pathways.pathways(PROBS.mean(0)[None]).length_NxL[0]
    np.testing.assert_allclose(nulls(found)["layer_mean"].value, [*mean, mean.mean()])
    assert (found.lo <= found.value).all() and (found.value <= found.hi).all()


def test_statistics_do_not_see_labels_of_experts_or_the_order_of_samples():
    order, relabel = np.random.default_rng(5).permutation(7), [np.random.default_rng(i).permutation(4) for i in range(3)]
    moved = np.stack([PROBS[order][:, layer, relabel[layer]] for layer in range(3)], axis=1)
    vectors = np.stack([VECTORS[layer][:, relabel[layer]] for layer in range(3)])
    gram, cross = np.einsum("lda,ldb->lab", vectors, vectors), np.einsum("lda,ldb->lab", vectors[:-1], vectors[1:])
    for name, estimate in distance_estimates(moved).items():
        np.testing.assert_allclose(estimate.value, distance_estimates(PROBS)[name].value, rtol=1e-12)
    np.testing.assert_allclose(estimates.cosines(moved, gram, cross), estimates.cosines(PROBS, GRAM, CROSS)[order], rtol=1e-12)
    np.testing.assert_allclose(estimates.effective_dimension(moved, 1.0), estimates.effective_dimension(PROBS, 1.0), rtol=1e-12)


@pytest.mark.parametrize("probs, router, missing", [
    (PROBS, None, estimates.NO_VECTORS), (PROBS[:, :1], ROUTER, estimates.ONE_LAYER), (PROBS[:0], ROUTER, estimates.NO_SAMPLE)])
def test_what_has_no_consistency_is_said(probs, router, missing):
    for estimate in estimates.consistency_estimates(probs, router, 4, 8, {}):
        assert np.isnan(estimate.value) and estimate.missing == missing


def test_a_zero_vector_is_degenerate():
    router = {"gram_LxExE": 0 * GRAM, "cross_LxExE": 0 * CROSS, "width": np.int32(6)}
    for estimate in estimates.consistency_estimates(PROBS, router, 4, 8, {}):
        assert np.isnan(estimate.value) and estimate.missing[0] == "degenerate"
