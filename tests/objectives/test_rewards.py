"""Reward terms at known lengths, their schedule, what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpost.objectives import rewards
from jaxpost.objectives.rewards import Answer, Reward


def test_length_terms_at_known_points():
    n = jnp.asarray([0., 5, 10, 15, 20, 30])
    np.testing.assert_allclose(rewards.triangular_length(n, 10), [0, .5, 1, .5, 0, 0], atol=1e-6)
    np.testing.assert_allclose(rewards.triangular_length(n, 10, flat=True), [1, 1, 1, .5, 0, 0], atol=1e-6)
    np.testing.assert_allclose(rewards.soft_overlong(n, 20, 10), [0, 0, 0, -.5, -1, -1], atol=1e-6)
    one, zero = jnp.ones(6), jnp.zeros(6)
    np.testing.assert_allclose(rewards.cosine_length(one, n, 20, (2., 1.), (-10., 0.)),
                               1 + (1 + np.cos(np.pi * np.minimum(n / 20, 1))) / 2, atol=1e-6)
    np.testing.assert_allclose(rewards.cosine_length(zero, n, 20, (2., 1.), (-10., 0.))[jnp.asarray([0, 2, 4, 5])],
                               [-10, -5, 0, 0], atol=1e-5)


def test_terms_add_with_their_weights_and_are_seen_one_by_one():
    terms = (Reward("correct"), Reward("finished", 0.5), Reward("triangular_length", 1.0, 0.0, horizon=10, length=4))
    correct, length, finished = jnp.asarray([1., 0]), jnp.asarray([4., 2]), jnp.asarray([1., 1])
    for step, weight in ((0, 1.0), (5, 0.5), (10, 0.0), (99, 0.0)):
        total, seen = rewards.compose(terms, Answer(correct, length, finished), step)
        np.testing.assert_allclose(total, [1 + .5 + weight, 0.5 + weight * .5], atol=1e-6)
        assert set(seen) == {"correct", "finished", "triangular_length"}
        np.testing.assert_allclose(seen["triangular_length"], [1, .5])


def test_the_dynamic_length_of_wrong_answers():
    """Two groups: right answers of mean length 4; none, with target 8."""
    correct = jnp.asarray([1.0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    length = jnp.asarray([3.0, 5, 0, 4, 6, 9, 0, 4, 8, 20, 2, 6])
    eighth = 0.125 * np.cos(np.pi * np.array([0.25, 0.75]))
    wanted = [0, 0, -0.5, 0, -0.25, -0.5, -0.25, -0.125, 0, 0, *(-0.125 - eighth)]
    np.testing.assert_allclose(rewards.dynamic_length(correct, length, 6, 8), wanted, atol=1e-6)
    answer = Answer(correct, length, correct, group=6)
    np.testing.assert_allclose(Reward("dynamic_length", length=8).value(answer), wanted, atol=1e-6)


def test_a_refusal_is_worth_more_the_later_it_comes():
    """2 / (1 + exp(-c2 (x - c1))) - 1 with c2 = ln(10) / (4 spread), as its paper writes it; right and wrong are 1 and -1."""
    n = np.asarray([0.0, 2, 6, 10, 14, 400, 3, 3])
    score = jnp.asarray([0.5, 0.5, 0.5, 0.3, 0.5, 0.5, 1, 0])
    expected = 2 / (1 + np.exp(-np.log(10) / 8 * (n[:6] - 6))) - 1
    assert expected[4] == pytest.approx(9 / 11) and expected[1] == pytest.approx(2 / (1 + 10 ** 0.5) - 1)
    term = Reward("refusal", length=6, spread=2.0)
    np.testing.assert_allclose(term.value(Answer(score, jnp.asarray(n), score)), [*expected, 1, -1], atol=1e-6)
    later = term.value(Answer(score, jnp.asarray(n), score, budget=jnp.asarray(10.0)))
    np.testing.assert_allclose(later[3], 0, atol=1e-6)


def test_weights_along_training():
    cosine = Reward("correct", 1.0, 0.2, horizon=10, shape="cosine")
    np.testing.assert_allclose([cosine.at(t) for t in (0, 2.5, 5, 10, 99)],
                               [1, 0.6 + 0.4 * np.cos(np.pi / 4), 0.6, 0.2, 0.2], atol=1e-6)
    staged = Reward("correct", stages=(0.0, 0.5, 1.0), horizon=9)
    np.testing.assert_allclose([staged.at(t) for t in (0, 2, 3, 8, 9, 50)], [0, 0, 0.5, 1, 1, 1])


@pytest.mark.parametrize("parts, message", [
    ({"kind": "right"}, "did you mean|valid: band_length, correct"), ({"kind": "band_length"}, "need one above 0"),
    ({"kind": "correct", "length": 3}, "take None"), ({"kind": "soft_overlong", "length": 3}, "needs one"),
    ({"kind": "refusal", "length": 3}, "'refusal' needs one above 0"), ({"kind": "correct", "spread": 1.0}, "others take None"),
    ({"kind": "correct", "end_weight": 0.1}, "needs a horizon and one of the two"),
    ({"kind": "correct", "stages": (1.0,), "horizon": 4, "end_weight": 0.1}, "one of the two"),
    ({"kind": "correct", "end_weight": 0.1, "horizon": 4, "shape": "cubic"}, "valid: linear, cosine")])
def test_what_is_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        Reward(**parts)


def test_a_kind_appears_once():
    with pytest.raises(ValueError, match="may appear once"):
        rewards.compose((Reward("correct"), Reward("correct", 2.0)), Answer(*(jnp.ones(2),) * 3), 0)
