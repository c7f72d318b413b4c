"""The bidiagonal law of Gaussian singular values against decomposed Gaussian matrices."""

import numpy as np
import pytest

from jaxpost.probes.weights import gaussian_spectra


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (9, 9), (5, 1)])
def test_the_law_is_that_of_drawn_matrices(shape):
    rng = np.random.default_rng(0)
    drawn = gaussian_spectra.draw(shape, 4000, rng)
    exact = np.linalg.svd(rng.normal(size=(4000, *shape)), compute_uv=False)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    assert np.allclose((drawn**2).sum(1), 1) and np.all(np.diff(drawn, axis=1) <= 0)
    for power in (1, 2):
        spread = 5 * np.hypot(*(np.std(x**power, axis=0) for x in (drawn, exact))) / np.sqrt(4000)
        assert np.all(np.abs((drawn**power).mean(0) - (exact**power).mean(0)) <= spread + 1e-12)
    assert np.allclose(np.cov(drawn[:, :3].T), np.cov(exact[:, :3].T), atol=3e-4)


def test_leading_values_are_those_of_the_whole_spectrum():
    whole, leading = (gaussian_spectra.draw((50, 20), 3, np.random.default_rng(1), leading=k) for k in (None, 4))
    np.testing.assert_allclose(leading, whole[:, :4], rtol=1e-12)
