"""Singular values and leading subspaces of a tall matrix from its float64 Gram matrix, with bounds of their errors.

Weights are float32 or less, so W'W in float64 is exact to 1e-15 ||W||^2: its eigenvalues give all singular values above
3e-8 s_1. A matrix is read by blocks of rows (`matrices`), an array or not: nothing of its size is held but U.

Legend: M rows >= N columns, K dimensions of subspaces, R leading vectors, Q = N singular values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.special

from jaxpost.compare.matrices import ROWS

GRAM_ERROR = 64 * 2.0**-52  # of s_1^2: error of an eigenvalue of a Gram matrix


class Frame(NamedTuple):
    """All singular values, the leading vectors and their residuals."""

    u_MxR: np.ndarray
    s_Q: np.ndarray
    v_NxR: np.ndarray
    residual_R: np.ndarray
    v_NxQ: np.ndarray  # all right vectors


def rows_of(w_MxN: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks of rows in float64."""
    for first in range(0, len(w_MxN), ROWS):
        yield np.asarray(w_MxN[first:first + ROWS], np.float64)


def gram(w_MxN: np.ndarray) -> np.ndarray:
    """W'W in float64 (numpy takes the symmetric product, and lets other threads run)."""
    return sum(block.T @ block for block in rows_of(w_MxN))


def right(w_MxN: np.ndarray, v_NxR: np.ndarray) -> np.ndarray:
    """W V in float64."""
    return np.concatenate([block @ v_NxR for block in rows_of(w_MxN)])


def left(w_MxN: np.ndarray, u_MxR: np.ndarray) -> np.ndarray:
    """W'U in float64."""
    return sum(block.T @ u_MxR[i * ROWS:(i + 1) * ROWS] for i, block in enumerate(rows_of(w_MxN)))


def values_of(gram_NxN: np.ndarray) -> np.ndarray:
    """All singular values, descending."""
    return np.sqrt(np.maximum(np.linalg.eigvalsh(gram_NxN)[::-1], 0.0))


def frame(w_MxN: np.ndarray, kept: int) -> Frame:
    """The leading `kept` triplets and all singular values of a tall matrix."""
    lam, v = np.linalg.eigh(gram(w_MxN))  # not scipy's tridiagonal form: half the price, but other threads would wait for it
    s = np.sqrt(np.maximum(lam[::-1], 0.0))
    every = v[:, ::-1]
    v = np.ascontiguousarray(every[:, :kept])
    image = right(w_MxN, v)
    u = np.linalg.qr(image / np.maximum(s[:kept], 1e-300))[0]
    u *= np.where(np.sum(u * image, axis=0) < 0, -1.0, 1.0)
    residual = np.maximum(np.linalg.norm(image - u * s[:kept], axis=0), np.linalg.norm(left(w_MxN, u) - v * s[:kept], axis=0))
    return Frame(u, s, v, residual, every)


def subspace_error(f: Frame, k: int) -> float:
    """Bound of ||sin Theta||_F of the first k computed triplets: residuals over the gap (Wedin), 1 where it says nothing."""
    gap = f.s_Q[k - 1] - f.s_Q[k]
    size = np.sqrt(2 * np.sum(f.residual_R[:k] ** 2)) + GRAM_ERROR * f.s_Q[0] ** 2 / max(f.s_Q[k - 1], 1e-300)
    return float(min(size / gap, 1.0)) if gap > 0 else 1.0


def angles(a_MxK: np.ndarray, b_MxK: np.ndarray) -> tuple[np.ndarray, float]:
    """(principal angles, radians, descending; ||sin Theta||_F) of two subspaces: arcsin up to 45 degrees, then arccos."""
    c = a_MxK.T @ b_MxK
    s = b_MxK - a_MxK @ c
    sine = np.clip(np.linalg.svd(s, compute_uv=False), 0.0, 1.0)
    cosine = np.clip(np.linalg.svd(c, compute_uv=False)[::-1], 0.0, 1.0)
    return np.where(sine**2 <= 0.5, np.arcsin(sine), np.arccos(cosine)), float(np.linalg.norm(s))


def rotation(before: Frame, after: Frame, ks: tuple[int, ...], q: int) -> dict[str, np.ndarray]:
    """mean_sin2 and max_angle with errors, [2 sides, K]; NaN where k does not fit."""
    out = {name: np.full((2, len(ks)), np.nan) for name in ("mean_sin2", "max_angle", "mean_sin2_error", "max_angle_error")}
    for i, k in enumerate(ks):
        if k > q - 1:
            continue
        e0, e1 = subspace_error(before, k), subspace_error(after, k)
        for side, (a, b) in enumerate(((before.u_MxR, after.u_MxR), (before.v_NxR, after.v_NxR))):
            theta, distance = angles(a[:, :k], b[:, :k])
            e = e0 + e1 + 1e-13
            out["mean_sin2"][side, i] = distance**2 / k
            out["max_angle"][side, i] = theta[0]
            out["mean_sin2_error"][side, i] = min((2 * distance * e + e**2) / k, 1.0)
            out["max_angle_error"][side, i] = min(np.arcsin(e0) + np.arcsin(e1) + 1e-8, np.pi / 2)
    return out


def value_errors(s: np.ndarray) -> np.ndarray:
    """Bound of the error of every singular value that came from a Gram matrix."""
    if not s[0]:
        return np.zeros_like(s)
    return np.minimum(GRAM_ERROR * s[0] ** 2 / np.maximum(2 * s, 1e-300), np.sqrt(GRAM_ERROR) * s[0])


def ranks(s: np.ndarray, norm: float, hill_k: int, exact: bool) -> np.ndarray:
    """Ranks in the order of `spectra.RANKS` (exact) or `LEADING_RANKS`; NaN for a zero matrix."""
    with np.errstate(divide="ignore", invalid="ignore"):
        hill = (hill_k - 1) / np.sum(np.log(s[:hill_k - 1] / s[hill_k - 1])) if hill_k <= len(s) else np.nan
        stable = (norm / s[0]) ** 2
        if not exact:
            return np.asarray([stable, hill])
        energy = np.cumsum((s / s[0]) ** 2)
        rank = [np.nan if np.isnan(energy[-1]) else min(1 + np.sum(energy < share * energy[-1]), len(s))
                for share in (0.9, 0.99)]
        return np.asarray([stable, *rank, _exp_entropy(s**2), _exp_entropy(s), hill])


def _exp_entropy(weight: np.ndarray) -> float:
    p = weight / weight.sum()
    return float(np.exp(-np.sum(scipy.special.xlogy(p, p))))
