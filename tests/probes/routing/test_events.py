"""Memorised and generalised events against the definitions spelled out, and their nulls against every order of steps."""

import itertools

import numpy as np
import pytest

from jaxpost.probes.routing import events

EPS, DELTA = 0.5, 0.05


def memorised_from(loss, eps=EPS, delta=DELTA):
    """The paper's words, one sample: the first step from which all later ones are low and near the last; None if never."""
    for t in range(len(loss)):
        if all(x <= eps and abs(x - loss[-1]) <= delta for x in loss[t:]):
            return t
    return None


def generalised_from(correct):
    """The earliest step after which mean accuracy > 0.8 with at most one error; None if never."""
    for t in range(len(correct)):
        rest = correct[t:]
        if sum(rest) / len(rest) > 0.8 and len(rest) - sum(rest) <= 1:
            return t
    return None


def by(first, steps):
    return np.asarray([[t is not None and p >= t for t in first] for p in range(steps)])


def test_planted_losses():
    planted = {
        "falls and stays": ([2.0, 0.1, 0.1, 0.1], 1),
        "too high at the end": ([0.4, 0.6, 0.55, 0.55], None),
        "low, but near its end only late": ([0.4, 0.3, 0.06, 0.02], 2),
        "low and near throughout": ([0.30, 0.31, 0.32, 0.30], 0),
        "at both limits": ([0.55, 0.50, 0.50, 0.50], 1),
        "not finite at the end": ([0.02, 0.02, 0.02, np.nan], None),
        "not finite between": ([0.02, np.inf, 0.02, 0.02], 2),
    }
    loss = np.asarray([path for path, _ in planted.values()]).T
    np.testing.assert_array_equal(events.memorised(loss, EPS, DELTA), by([first for _, first in planted.values()], 4))


def test_both_limits_belong_to_memorised():
    loss = np.asarray([[0.5625, 0.5625, 0.6250], [0.5, 0.5625, 0.5], [0.5, 0.5, 0.5]])  # exact in binary, as delta is
    wanted = [[False, False, False], [True, False, True], [True, True, True]]
    np.testing.assert_array_equal(events.memorised(loss, 0.5, 0.0625), wanted)
    np.testing.assert_array_equal(events.memorised(loss, 0.5625, 0.0625)[0], [True, True, False])


def test_events_are_those_of_the_definitions():
    rng = np.random.default_rng(0)
    loss = np.round(rng.choice([0.02, 0.05, 0.3, 0.6], size=(7, 300), p=[0.5, 0.3, 0.1, 0.1]), 2)
    np.testing.assert_array_equal(events.memorised(loss, EPS, DELTA), by([memorised_from(x) for x in loss.T], 7))
    correct = (rng.random((9, 400)) < 0.8).astype(float)
    np.testing.assert_array_equal(events.generalised(correct), by([generalised_from(x) for x in correct.T], 9))


def test_one_error_needs_six_steps():
    assert events.generalised(np.asarray([[1.0]] * 5 + [[0.0]]))[0, 0]  # 5/6
    assert not events.generalised(np.asarray([[1.0]] * 4 + [[0.0]])).any()  # 4/5 is not above 0.8
    assert events.generalised(np.asarray([[0.0], [0.0], [1.0]]))[:, 0].tolist() == [False, False, True]


@pytest.mark.parametrize("loss", [[0.1, 0.7, 0.1, 0.4, 0.1], [0.1, 0.1, 0.1, 0.1, 0.1], [0.7, 0.7, 0.7, 0.7, 0.1],
                                  [0.1, 0.1, 0.1, 0.1, 0.7], [0.1]])
def test_the_null_of_memorising_is_every_order_of_the_earlier_steps(loss):
    orders = [[*earlier, loss[-1]] for earlier in itertools.permutations(loss[:-1])]
    wanted = np.mean([by([memorised_from(x)], len(loss))[:, 0] for x in orders], axis=0)
    np.testing.assert_allclose(events.memorised_null(np.asarray(loss)[:, None], EPS, DELTA)[:, 0], wanted, atol=1e-14)


@pytest.mark.parametrize("steps", [1, 3, 5, 6, 7, 8])
def test_the_null_of_generalising_is_every_order_of_the_steps(steps):
    for errors in range(steps + 1):
        places = [set(x) for x in itertools.combinations(range(steps), errors)]
        orders = [[float(t not in wrong) for t in range(steps)] for wrong in places]
        wanted = np.mean([by([generalised_from(x)], steps)[:, 0] for x in orders], axis=0)
        one = np.asarray([0.0] * errors + [1.0] * (steps - errors))[:, None]
        np.testing.assert_allclose(events.generalised_null(one)[:, 0], wanted, atol=1e-14, err_msg=f"{errors} errors")
