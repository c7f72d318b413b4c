"""Fourier mathematics on Z_p: logits that depend on a + b, and norms of tables of numbers, in float64 on the host.

Of the 2-D Fourier transform of a table over (a, b), only the direction of a + b is used: for frequency w the two
functions cos(2 pi w (a + b) / p) and sin(2 pi w (a + b) / p). A product mask over the frequencies of a and of b would
keep (1 + 2K)^2 components for K frequencies instead of 1 + 2K.

Legend: p modulus (odd), F = (p - 1) / 2 frequencies 1 .. F, c answers (p of them), N rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def waves(p: int) -> np.ndarray:
    """cos and sin of 2 pi w s / p, f64 [F, 2, p] for w = 1 .. F and s = 0 .. p - 1. Raises: ValueError for an even p."""
    if p < 3 or p % 2 == 0:
        raise ValueError(f"modulus {p}; frequencies 1 .. (p - 1) / 2 need an odd modulus of at least 3, such as a prime")
    angle_FxP = 2 * np.pi * np.outer(np.arange(1, (p - 1) // 2 + 1), np.arange(p)) / p
    return np.stack([np.cos(angle_FxP), np.sin(angle_FxP)], axis=1)


def centred(logits: np.ndarray) -> np.ndarray:
    """Logits in float64 minus their mean over answers (last axis), which no softmax sees."""
    wide = np.asarray(logits, np.float64)
    return wide - wide.mean(axis=-1, keepdims=True)


def sum_coefficients(logits_PxPxC: np.ndarray) -> np.ndarray:
    """Coefficients C[w] of cos and sin(2 pi w (a + b) / p) in logits: C = (2 / p^2) sum_ab logits wave, [F, 2, C]."""
    p = logits_PxPxC.shape[0]
    by_sum_PxC = np.zeros((p, logits_PxPxC.shape[-1]))
    np.add.at(by_sum_PxC, np.add.outer(np.arange(p), np.arange(p)) % p, logits_PxPxC)
    return 2 / p**2 * np.einsum("fks,sc->fkc", waves(p), by_sum_PxC)


def shares(coefficients_FxKxC: np.ndarray, total: float, p: int) -> np.ndarray:
    """Share of each frequency in a total energy: sum_c (C_cos^2 + C_sin^2) p^2 / 2 over it, [F]."""
    return (coefficients_FxKxC**2).sum((1, 2)) * p**2 / 2 / total


def cosine_coefficients(coefficients_FxKxC: np.ndarray, p: int) -> np.ndarray:
    """Coefficients of cos(2 pi w (a + b - c) / p) in logits: (2 / p^3) sum_abc logits cos, [F], from `sum_coefficients`.

    cos(w (s - c)) = cos(w s) cos(w c) + sin(w s) sin(w c), so that the sum over a and b is done already.
    """
    return np.einsum("fkc,fkc->f", coefficients_FxKxC, waves(p)) / p


def key_frequencies(share_F: np.ndarray, reach: float, cap: int) -> np.ndarray:
    """Key frequencies (from 1): the fewest of largest share that together have `reach` of all shares, at most `cap`.

    In descending order of share; ties go to the lower frequency; empty where no frequency has a share.
    """
    total = share_F.sum()
    if not total > 0:
        return np.zeros(0, int)
    order = np.argsort(-share_F, kind="stable")
    needed = 1 + int(np.searchsorted(np.cumsum(share_F[order]), reach * total))
    return 1 + order[: min(needed, cap)]


def components(coefficients_FxKxC: np.ndarray, keys: Sequence[int], p: int) -> np.ndarray:
    """What the keys' waves contribute to the logits of each sum s: [p, C]."""
    at = np.asarray(keys, int) - 1
    return np.einsum("fks,fkc->sc", waves(p)[at], coefficients_FxKxC[at])


def nll(logits_NxC: np.ndarray, answer_N: np.ndarray) -> np.ndarray:
    """-log softmax(logits)[answer], float64 [N], from differences to the answer's own logit: exact to the last bits near 0."""
    difference = logits_NxC - np.take_along_axis(logits_NxC, answer_N[:, None], axis=1)
    rest = np.where(np.arange(logits_NxC.shape[1]) == answer_N[:, None], -np.inf, difference)
    top_N = np.maximum(rest.max(axis=1), 0.0)
    # log(1 + sum exp(rest)): log1p where the answer leads, shifted by the largest where it does not.
    shifted = np.exp(rest - top_N[:, None]).sum(axis=1)
    return np.where(top_N > 0, top_N + np.log(np.exp(-top_N) + shifted), np.log1p(shifted))


def restricted_loss(mean_C: np.ndarray, component_PxC: np.ndarray, count_PxC: np.ndarray) -> float:
    """Mean loss of logits = mean over inputs + key components, over all data.

    Args:
      mean_C: mean over inputs of the logits; the waves have none, so that adding back the mean of what was removed
        restores exactly it.
      component_PxC: `components` of the keys.
      count_PxC: number of problems with sum s and answer c.
    """
    s, c = np.nonzero(count_PxC)
    logits_PxC = mean_C + component_PxC
    return float(nll(logits_PxC[s], c) @ count_PxC[s, c] / count_PxC.sum())


def excluded_loss(logits_NxC: np.ndarray, sum_N: np.ndarray, answer_N: np.ndarray, component_PxC: np.ndarray) -> float:
    """Mean loss of rows after the key components are taken from their logits; no mean is added back."""
    return float(nll(logits_NxC - component_PxC[sum_N], answer_N).mean())


def norms(table_PxD: np.ndarray) -> np.ndarray:
    """Norms of the Fourier components of a table of numbers along p: constant, then each frequency, f64 [1 + F].

    In the orthonormal basis (1 / sqrt p, sqrt(2 / p) cos, sqrt(2 / p) sin), cos and sin of a frequency together.
    """
    wide = np.asarray(table_PxD, np.float64)
    p = len(wide)
    constant = np.linalg.norm(wide.sum(0)) / np.sqrt(p)
    parts = np.einsum("fks,sd->fkd", waves(p), wide) * np.sqrt(2 / p)
    return np.concatenate([[constant], np.sqrt((parts**2).sum((1, 2)))])


def gini(x_N: np.ndarray) -> float:
    """Gini coefficient of non-negative numbers: sum_i (2 i - n - 1) x_(i) / (n sum x), ascending; NaN where all are 0.

    >>> round(gini(np.r_[np.ones(5), np.zeros(52)]), 3)
    0.912
    """
    ordered = np.sort(np.asarray(x_N, np.float64))
    n, total = len(ordered), ordered.sum()
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total)) if total > 0 else np.nan
