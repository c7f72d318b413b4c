"""Whether chains of draws agree and how many independent draws they are worth. Host side, float64.

Both halves of a chain count as chains of their own, so that a drift within chains shows as well.

Legend: C chains, N draws a chain.
"""

from __future__ import annotations

import numpy as np


def _halves(x_CxN: np.ndarray) -> np.ndarray:
    """[2C, N // 2]; of an odd number of draws the one in the middle is left out."""
    x_CxN = np.asarray(x_CxN, np.float64)
    if x_CxN.ndim != 2 or x_CxN.shape[1] < 8:
        raise ValueError(f"mixing: expected draws [chains, draws >= 8]; found shape {x_CxN.shape}")
    half = x_CxN.shape[1] // 2
    return np.concatenate([x_CxN[:, :half], x_CxN[:, -half:]])


def _variances(x_CxN: np.ndarray) -> tuple[float, float]:
    """(W, (N - 1)/N W + B/N): the mean variance within chains, and the pooled estimate."""
    n = x_CxN.shape[1]
    within = np.where(np.ptp(x_CxN, axis=1) > 0, x_CxN.var(1, ddof=1), 0.0).mean()  # a constant's own variance may be rounding
    return within, (n - 1) / n * within + x_CxN.mean(1).var(ddof=1)


def split_r_hat(x_CxN: np.ndarray) -> float:
    """sqrt(pooled variance / variance within chains) of half chains: 1 where all of them have one law; NaN without variance.

    Source: Gelman and Rubin 1992, with halves as in Vehtari et al., arXiv:1903.08008 (without their ranks).
    """
    within, pooled = _variances(_halves(x_CxN))
    return float(np.sqrt(pooled / within)) if within > 0 else np.nan


def effective_draws(x_CxN: np.ndarray) -> float:
    """C N / tau, tau = -1 + 2 sum_k P_k, P_k = rho_2k + rho_2k+1; NaN without variance.

    rho_t = 1 - (W - mean autocovariance at lag t) / pooled variance, of half chains. The sum ends before the first P_k below 0,
    and no P_k counts for more than the one before it (Geyer 1992). Source: Vehtari et al., arXiv:1903.08008.
    """
    halves = _halves(x_CxN)
    chains, n = halves.shape
    within, pooled = _variances(halves)
    if not within > 0:
        return np.nan
    power = np.abs(np.fft.rfft(halves - halves.mean(1, keepdims=True), 2 * n)) ** 2
    covariance_N = np.fft.irfft(power)[:, :n].mean(0) / n
    rho_N = 1 - (within - covariance_N) / pooled
    rho_N[0] = 1
    pairs = rho_N[: n // 2 * 2].reshape(-1, 2).sum(1)
    negative = np.flatnonzero(pairs < 0)
    kept = np.minimum.accumulate(pairs[: negative[0] if len(negative) else None])
    return float(chains * n / max(-1 + 2 * kept.sum(), 1 / np.log10(chains * n)))
