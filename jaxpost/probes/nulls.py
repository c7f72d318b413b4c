"""Null models of the weight statistics: what a geometry-blind update of the same size would have read.

Isotropic: W0 + c G with G Gaussian, drawn once a base tensor on a grid of norms and interpolated at the norm of the
master update; read as float32 and after the bf16 cast. Captured energy: the exact Beta law. Rank: Gaussian matrices of
the same shape. Rounding floor: what storage rounding alone reads. (Magnitude-conditioned nulls are in `visibility`.)

Legend: P points of the norm grid, D draws, S seeds, T tensors.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from jaxpost import linalg
from jaxpost.probes import spectra, visibility
from jaxpost.probes.panel import Panel


def direction(key: jax.Array, draw: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Draw number `draw` of an isotropic direction: Gaussian entries, Frobenius norm 1."""
    g = jax.random.normal(jax.random.fold_in(key, draw), shape)
    return g / jnp.linalg.norm(g)


def isotropic(panel: Panel, u0, s0, v0, w0: jax.Array, key: jax.Array) -> tuple[dict, dict]:
    """Null curves on the norm grid and rounding floors of `spectra.rotation` and relative_norm = ||w - w0|| / ||w0||.

    Curves: w0 + c ||w0|| G, as float32 and after the bf16 cast (there relative_norm is the visible one, not c).
    Floors: what rounding of one end alone reads. bf16: w0 + uniform(+-ULP/2), kept in float32: the error that the cast
    adds to a master anywhere off the grid (casting it back would return w0, which is on the grid). fp32: float32
    rounding of the same variance, ULP^2 / 12, as steps of 0 or +-1 ULP. Both include the error of the SVD.

    Returns: curves, name -> f32[P, D, 2 views, ...]; floors, name -> f32[2 views, ...].
    """
    points, draws = len(panel.null_norms), panel.null_draws
    scale_P = jnp.asarray(panel.null_norms, jnp.float32) * jnp.linalg.norm(w0)
    rounded = _rounded(w0, jax.random.fold_in(key, draws))

    def at(i):
        w = w0 + scale_P[i % points] * direction(key, i // points, w0.shape)
        views = jnp.stack([w, visibility.bf16_values(visibility.bf16_codes(w))])
        return jax.lax.map(read, jnp.where(i == points * draws, rounded, views))

    def read(w):
        out, _ = spectra.rotation(u0, s0, v0, w, panel.ks)
        return out | {"relative_norm": jnp.linalg.norm(w - w0) / jnp.linalg.norm(w0)}

    flat = jax.lax.map(at, jnp.arange(points * draws + 1))  # name -> [D * P + 1, 2, ...]
    curves = {name: x[:-1].reshape(draws, points, *x.shape[1:]).swapaxes(0, 1) for name, x in flat.items()}
    return curves, {name: x[-1] for name, x in flat.items()}


def _rounded(w0: jax.Array, key: jax.Array) -> jax.Array:
    """w0 with the error of one float32 rounding and of one bf16 rounding: f32[2 views, M, N]."""
    key_bf16, key_fp32 = jax.random.split(key)
    codes = visibility.bf16_codes(w0)
    uniform = jax.random.uniform(key_bf16, w0.shape, minval=-0.5, maxval=0.5)
    step = jax.random.uniform(key_fp32, w0.shape)
    step = (step < 1 / 24).astype(jnp.float32) - (step > 23 / 24).astype(jnp.float32)
    return jnp.stack([w0 + step * visibility.ulp(codes, "fp32"), w0 + uniform * visibility.ulp(codes)])


def gaussian_ranks(shape: tuple[int, int], hill_k: int, draws: int, key) -> dict:
    """Gaussian matrices of a shape: their "ranks" f32[D, RANKS], and "spectrum" f32[D, Q] at Frobenius norm 1."""

    def draw(d):
        s_Q = linalg.singular_values(direction(key, d, shape))
        return {"ranks": spectra.ranks(s_Q, hill_k), "spectrum": s_Q}

    return jax.lax.map(draw, jnp.arange(draws))


def energy_dimension(region: str, shape: tuple[int, int], k: int) -> int:
    """Dimension of what a statistic captures: both k^2, left kn, right mk, doubly_off (m-k)(n-k)."""
    m, n = shape
    return {"both": k * k, "left": k * n, "right": m * k, "doubly_off": (m - k) * (n - k)}[region]


def energy_moments(region: str, shape: tuple[int, int], k: int) -> tuple[float, float]:
    """Mean and variance of the share of an isotropic update's energy in a region: Beta(d/2, (mn - d)/2), exactly.

    d = `energy_dimension`: an isotropic Gaussian projected on any d of mn coordinates. Off-principal energy is one
    minus the share of both, left or right; doubly-off energy ||(I-UU')dW(I-VV')||^2/||dW||^2 is a share itself.
    """
    a = energy_dimension(region, shape, k) / 2
    b = shape[0] * shape[1] / 2 - a
    return a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))


def beta_quantiles(mean: np.ndarray, variance: np.ndarray, probabilities=(0.025, 0.975)) -> list[np.ndarray]:
    """Quantiles of the Beta law with given moments: exact for one matrix, moment-matched for a weighted pool."""
    total = mean * (1 - mean) / variance - 1
    return [scipy.stats.beta.ppf(p, mean * total, (1 - mean) * total) for p in probabilities]


def interpolate(norms: np.ndarray, curve_TxPxD: np.ndarray, at_SxT: np.ndarray) -> np.ndarray:
    """Null statistic at given relative norms: f64[S, T, D], NaN outside the grid.

    Linear in log norm; of log value where both neighbours are positive (the statistics are near power laws), else
    of the value.
    """
    log_P = np.log(np.asarray(norms, np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        log_at = np.log(np.asarray(at_SxT, np.float64))
        right = np.clip(np.searchsorted(log_P, log_at), 1, len(log_P) - 1)
        share = ((log_at - log_P[right - 1]) / (log_P[right] - log_P[right - 1]))[..., None]
        curve = np.asarray(curve_TxPxD, np.float64)
        tensor = np.arange(curve.shape[0])[None, :]
        low, high = curve[tensor, right - 1], curve[tensor, right]
        straight = low + share * (high - low)
        power = np.exp(np.log(low) + share * (np.log(high) - np.log(low)))
        value = np.where((low > 0) & (high > 0), power, straight)
        inside = (log_at >= log_P[0] - 1e-6) & (log_at <= log_P[-1] + 1e-6)  # f32 norms
    return np.where(inside[..., None], value, np.nan)


def invert_norm(norms: np.ndarray, read_TxP: np.ndarray, wanted_SxT: np.ndarray) -> np.ndarray:
    """Relative norm of the isotropic update whose *visible* norm is the wanted one: f64[S, T], NaN outside the curve.

    For runs whose master weights are themselves bf16, where the norm before rounding does not exist.
    """
    log_P = np.log(np.asarray(norms, np.float64))
    out = np.full(wanted_SxT.shape, np.nan)
    for t, read_P in enumerate(np.asarray(read_TxP, np.float64)):
        seen = read_P > 0
        if seen.sum() < 2:
            continue
        with np.errstate(divide="ignore"):
            log_wanted = np.log(wanted_SxT[:, t])
        curve = np.maximum.accumulate(np.log(read_P[seen]))
        out[:, t] = np.exp(np.interp(log_wanted, curve, log_P[seen], left=np.nan, right=np.nan))
    return out
