"""Pools over matrices: what is not a number stays in the scopes of its matrix."""

import numpy as np
import scipy.stats

from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.inventory import TensorInfo

INFOS = [TensorInfo("l0/q", "q", 0, (4, 4)), TensorInfo("l0/v", "v", 0, (4, 4)), TensorInfo("embed", "embed", None, (4, 4))]


def test_sums_are_broken_only_where_the_broken_matrix_is_used():
    scopes = pooling.scopes_of(INFOS)  # three matrices, three kinds, body, global
    x = np.array([[1.0, 2.0, 4.0], [np.inf, 2.0, 4.0], [1.0, np.nan, 4.0], [np.inf, -np.inf, 4.0], [np.inf, 2.0, np.nan]])
    used = np.ones(x.shape, bool)
    inf, nan = np.inf, np.nan
    expected = [[1, 2, 4, 1, 2, 4, 3, 7], [inf, 2, 4, inf, 2, 4, inf, inf], [1, nan, 4, 1, nan, 4, nan, nan],
                [inf, -inf, 4, inf, -inf, 4, nan, nan], [inf, 2, nan, inf, 2, nan, inf, nan]]
    np.testing.assert_array_equal(pooling.total(x, used, scopes), expected)
    np.testing.assert_array_equal(pooling.total(np.stack([x, x], -1), used, scopes)[..., 1], expected)
    used[:, 0] = False
    np.testing.assert_array_equal(pooling.total(x, used, scopes)[1], [0, 2, 4, 0, 2, 4, 2, 6])


def test_a_closed_form_null_spans_95_percent_of_a_normal_law_cut_to_shares():
    value, deviation = np.array([0.5, 0.02, 0.99]), np.array([0.1, 0.05, 0.01])
    lo, hi = scipy.stats.norm.interval(0.95, value, deviation)
    found = pooling.around(value, deviation)
    np.testing.assert_allclose(found, (value, np.maximum(lo, 0), np.minimum(hi, 1)), atol=1e-7)
    assert found[1][1] == 0 and found[2][2] == 1
