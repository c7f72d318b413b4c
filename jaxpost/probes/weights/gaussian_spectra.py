"""Singular values of Gaussian matrices, drawn without the matrices.

Householder reflections turn a Gaussian M x N matrix into a bidiagonal one whose entries are independent chi variables with
M, M - 1, ..., M - N + 1 degrees of freedom on the diagonal and N - 1, ..., 1 beside it: the same law of singular values for
O(N) numbers (Edelman 1989).
"""

from __future__ import annotations

import numpy as np
import scipy.linalg


def draw(shape: tuple[int, int], draws: int, rng: np.random.Generator, leading: int | None = None) -> np.ndarray:
    """Singular values of Gaussian matrices of Frobenius norm 1, descending: f64[draws, leading], all without `leading`.

    Args:
      shape: of the matrix, either orientation.
    """
    m, n = max(shape), min(shape)
    wanted = {} if leading is None or leading >= n else {"select": "i", "select_range": (n - leading, n - 1)}
    out = []
    for _ in range(draws):
        a = np.sqrt(rng.chisquare(m - np.arange(n)))
        b = np.sqrt(rng.chisquare(n - 1 - np.arange(n - 1)))
        lam = scipy.linalg.eigvalsh_tridiagonal(a**2 + np.append(0.0, b**2), a[:-1] * b, **wanted)
        out.append(np.sqrt(np.maximum(lam[::-1], 0.0) / (a @ a + b @ b)))
    return np.asarray(out)
