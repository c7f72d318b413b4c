"""Two teachers of a given overlap: exact agreement, order parameters, and forgetting that follows them."""

import itertools

import numpy as np
import pytest

from jaxpost import tasks
from jaxpost.tasks import teachers


@pytest.mark.parametrize("flipped", [0, 1, 4, 7, 9])
def test_agreement_is_that_of_all_inputs_and_the_overlap_is_exact(flipped):
    pair = teachers.pair(9, flipped, 3)
    every = np.asarray(list(itertools.product((-1, 1), repeat=9)))
    share = np.mean(np.sign(every @ pair[0]) == np.sign(every @ pair[1]))
    assert teachers.agreement(9, flipped) == share and pair[0] @ pair[1] == 9 - 2 * flipped
    np.testing.assert_array_equal(pair[0], teachers.pair(9, 0, 3)[1])
    assert list(tasks.get("teachers", inputs=9, flipped=flipped).splits)[2:] == ["ood/disagree"] * (flipped > 0)


def test_agreement_goes_to_the_arccosine_of_large_perceptrons():
    near = [abs(1 - teachers.generalisation_error(1 - 2 * k / D) - teachers.agreement(D, k)) for D, k in ((21, 5), (201, 48))]
    assert near[1] < 0.003 < near[0] < 0.03


def test_order_parameters_by_hand_and_of_a_student_known_by_its_answers():
    pair = teachers.pair(21, 6, 0)
    q, m_2, cosine_2 = teachers.order_parameters(3.0 * pair[1], pair)
    np.testing.assert_allclose([q, *m_2, *cosine_2], [9, 3 * 9 / 21, 3, 9 / 21, 1])
    np.testing.assert_array_equal(teachers.order_parameters(np.zeros(21), pair)[2], 0.0)
    inputs = 2 * np.random.default_rng(0).integers(0, 2, (20_000, 21)) - 1
    seen = teachers.hebbian(inputs, np.sign(inputs @ pair[1]))
    np.testing.assert_allclose(teachers.order_parameters(seen, pair)[2], [9 / 21, 1], atol=0.03)


def test_a_perceptron_forgets_the_first_task_as_far_as_the_teachers_differ():
    """Rosenblatt's rule on one task and then the other: nothing is kept, so that success falls to the agreement."""
    D, rng = 21, np.random.default_rng(1)
    for flipped in (2, 9):
        pair, weight, success = teachers.pair(D, flipped, 0), np.zeros(D), []
        for teacher in pair:
            for x in 2 * rng.integers(0, 2, (4000, D)) - 1:
                label = np.sign(teacher @ x)
                weight = weight + (label * (weight @ x) <= 0) * label * x
            test = 2 * rng.integers(0, 2, (4000, D)) - 1
            success.append(np.mean(np.sign(test @ weight) == np.sign(test @ pair[0])))
        assert success[0] > 0.95 and abs(success[1] - teachers.agreement(D, flipped)) < 0.05
