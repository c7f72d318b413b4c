"""Share of a blind update's energy in given subspaces, after rounding: expectation and variance in closed form.

Entries d_a of a blind update are independent with E d_a^2 = v_a and E d_a^4 = q_a (of what the reader sees: small weights show
more of an update than large ones, so v follows the base). For a projection A of matrix space with diagonal A_aa,

    R = sum_ab A_ab d_a d_b / sum_a d_a^2,   E R = R0 = sum A_aa v_a / S,   S = sum v_a,
    Var R = [2 (T - 2 R0 sum A_aa v_a^2 + R0^2 sum v_a^2) + sum (A_aa - R0)^2 (q_a - 3 v_a^2)] / S^2,   T = sum A_ab^2 v_a v_b

to first order in the fluctuation of the denominator. The regions are products of a projection on rows and one on columns:
both UU' x VV', left UU' x I, right I x VV', doubly off (I - UU') x (I - VV'), so A_aa = x_i y_j, and T factors if v_ij is
replaced there by its row sums times its column sums over S (exact where v is such a product, as for equal variances: then
the moments are those of Beta(d/2, (mn - d)/2) for a Gaussian, up to O(1/mn)).

Legend: M rows, N columns, K dimensions of subspaces, R leading vectors; regions in the order of REGIONS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

REGIONS = ("both", "left", "right", "doubly_off")
_ON_ROWS, _ON_COLUMNS = np.array([0, 0, 1, 2]), np.array([0, 1, 0, 2])  # which of UU', I, I - UU' a region has there


def shares(blocks: Iterable[tuple[slice, Any, Any]], u_MxR: Any, v_NxR: Any, ks: tuple[int, ...], xp: Any,
           matmul: Callable, settle: Callable = lambda x: x) -> tuple[Any, Any]:
    """(mean, variance) of the share of energy in each region: [4, K] twice, NaN where nothing is visible.

    Args:
      blocks: (rows, second moments, fourth moments of their visible entries), in any unit s^2 and s^4.
      u_MxR, v_NxR: orthonormal leading vectors of the base. ks: dimensions, at most R of which are used.
      xp: numpy or jax.numpy. matmul: product at full precision. settle: applied to what is summed (jax: a barrier to fusion, so
        that a matrix reads the same bits alone as among others).
    """
    sides = [(_diagonals(u_MxR[:, :k], xp), _diagonals(v_NxR[:, :k], xp)) for k in ks]
    sums, rows = None, []
    for where, v, q in blocks:
        square, excess = settle((v * v, q - 3 * v * v))
        forms = xp.stack([xp.stack([matmul(matmul(left[where].T, v), right), matmul(matmul(left[where].T, square), right),
                                    matmul(matmul(left[where].T ** 2, excess), right**2),
                                    matmul(matmul(left[where].T, excess), right)]) for left, right in sides])
        settled = settle((forms, square.sum(0), excess.sum(0), v.sum(0)))
        sums = settled if sums is None else tuple(a + b for a, b in zip(sums, settled))
        rows.append(settle(v.sum(1)))
    forms, square_sum, excess_sum, cols_N = sums[0], sums[1].sum(), sums[2].sum(), sums[3]
    rows_M = xp.concatenate(rows)
    total = rows_M.sum()
    row_norm = xp.stack([_norms(u_MxR[:, :k], left, rows_M, xp, matmul)[_ON_ROWS] for k, (left, _) in zip(ks, sides)], 1)
    col_norm = xp.stack([_norms(v_NxR[:, :k], right, cols_N, xp, matmul)[_ON_COLUMNS] for k, (_, right) in zip(ks, sides)], 1)
    first, second, fourth, cross = forms[:, :, _ON_ROWS, _ON_COLUMNS].transpose(1, 2, 0)
    share = first / total
    form = row_norm * col_norm / total**2 - 2 * share * second + share**2 * square_sum
    kurtosis = fourth - 2 * share * cross + share**2 * excess_sum
    return share, xp.maximum(2 * form + kurtosis, 0.0) / total**2


def _diagonals(vectors: Any, xp: Any) -> Any:
    """Diagonals of P, I and I - P as columns, P the projection on `vectors`."""
    diagonal = (vectors**2).sum(1)
    return xp.stack([diagonal, xp.ones_like(diagonal), 1 - diagonal], axis=1)


def _norms(vectors: Any, diagonals: Any, sums: Any, xp: Any, matmul: Callable) -> Any:
    """sum_ii' P_ii'^2 s_i s_i' of P, I and I - P, s the `sums`."""
    block = (matmul(vectors.T, vectors * sums[:, None]) ** 2).sum()
    whole = (sums**2).sum()
    return xp.stack([block, whole, whole - 2 * (diagonals[:, 0] * sums**2).sum() + block])
