"""Inductive-bias complexity: the figures of the published inputs, numpy in closed form, spheres of known dimension."""

import math

import numpy as np
import pytest
import scipy.special

from jaxpost import tasks
from jaxpost.tasks import complexity

# Data set: bits, N, m, radius, classes, margin, error. Inputs and bits as in the authors' code and its output.
PUBLISHED = {"mnist": (1.48e16, 60000, 14, 17.179045827183984, 10, 2.3987084824335305, 0.001),
             "svhn": (1.21e31, 73257, 19, 53.86932485133339, 10, 1.5766998174969105, 0.01),
             "cifar10": (3.44e32, 50000, 27, 54.9156786783691, 10, 2.7506414616587023, 0.01),
             "imagenet": (3.58e41, 1280901, 48, 943.5923, 1000, 65, 0.1)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_bits_of_the_published_inputs(name):
    bits, *inputs = PUBLISHED[name]
    assert 10 ** complexity.log10_bits(*inputs) == pytest.approx(bits, rel=5e-3)  # three digits


def test_bits_where_the_data_matter_against_numpy():
    N, m, r, c, delta, error, bound = 40, 2.5, 1.7, 3, 0.9, 0.05, 2.0
    o, M = c - 1, 2 * np.pi * r / delta
    K = (np.sqrt((m - 1) ** 2 + 4 * M**2) - (m - 1)) / 2
    E = scipy.special.binom(m + K, m) + scipy.special.binom(m + K - 1, m)
    W = r * np.sqrt(m / 6) * (2 * np.pi ** ((m + 1) / 2) * c / (scipy.special.gamma((m + 1) / 2) * N)) ** (1 / m)
    bits = (2 * o * c * E - N * o) * np.log2(bound * o**0.5 * c**0.5 * K * o**0.5 / r / error * W)
    assert complexity.log10_bits(N, m, r, c, delta, error, bound) == pytest.approx(np.log10(bits), rel=1e-12)
    assert complexity.log10_bits(10**9, m, r, c, delta, error) == -math.inf  # the data leave nothing open


def test_dimension_of_spheres_and_of_what_repeats():
    rng = np.random.default_rng(0)
    for m in (2, 4):
        on = rng.standard_normal((4000, m + 1))
        on = np.pad(on / np.linalg.norm(on, axis=1, keepdims=True), ((0, 0), (0, 7 - m))) @ np.linalg.qr(
            rng.standard_normal((8, 8)))[0]
        assert complexity.intrinsic_dimension(on) == pytest.approx(m, rel=0.06)
        assert complexity.intrinsic_dimension(np.concatenate([on, on[:500]])) == complexity.intrinsic_dimension(on)
    assert complexity.intrinsic_dimension(np.eye(9)) == math.inf  # all distances tie
    with pytest.raises(ValueError, match="5 different points and neighbours=5"):
        complexity.intrinsic_dimension(np.concatenate([np.eye(5), np.eye(5)]))


def test_margin_and_complexity_of_points():
    rng = np.random.default_rng(1)
    points, label = rng.standard_normal((300, 3)), rng.integers(0, 4, 300)
    points[7], label[7], label[8] = points[8], 0, 1  # they coincide and differ: no margin
    plain = min(np.linalg.norm(a - b) for a, x in zip(points, label, strict=True) for b, y in zip(points, label, strict=True)
                if x != y and (a != b).any())
    assert complexity.class_margin(points, label) == pytest.approx(plain, rel=1e-6)
    of_all, scaled = complexity.of_points(points, label), complexity.of_points(2.5 * points @ np.linalg.qr(
        rng.standard_normal((3, 3)))[0], label[::-1][::-1])
    assert scaled.dimension == pytest.approx(of_all.dimension) and scaled.margin == pytest.approx(2.5 * of_all.margin)
    assert scaled.log10_bits == pytest.approx(of_all.log10_bits)  # it has no unit of length
    one = complexity.of_points(points, np.zeros(300))
    assert one.margin == math.inf and math.isnan(one.log10_bits)
    with pytest.raises(ValueError, match="error=1.0: a share"):
        complexity.of_points(points, label, 1.0)


def test_points_of_a_task_are_apart_by_the_tokens_that_differ():
    task = tasks.get("addition", digits=2)
    points, label = complexity.points_of(task, "id", np.arange(50))
    drawn = tasks.examples(task, "id", np.arange(50, dtype=np.uint32))
    prompt, answer = np.asarray(drawn.prompt_NxP), np.asarray(drawn.answer_NxT)
    square = ((points[:, None] - points[None]) ** 2).sum(-1)
    np.testing.assert_allclose(square, 2 * (prompt[:, None] != prompt[None]).sum(-1))
    np.testing.assert_array_equal(label[:, None] == label[None], (answer[:, None] == answer[None]).all(-1))
