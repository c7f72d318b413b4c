"""Null models of the weight statistics: what a geometry-blind update of the same size would have read.

Isotropic: W0 + c G with G Gaussian, drawn once a base tensor on a grid of norms and interpolated at the norm of the
master update; read as float32 and after the bf16 cast; where decompositions are dear, read at few norms and continued
by first-order perturbation theory. Rounding floor: what storage rounding alone reads. (Magnitude-conditioned nulls are in
`visibility`, energies in `blind_energy`, ranks in `blind`.)

Legend: P points of the norm grid, D draws, S seeds, T tensors, A anchors.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from jaxpost import linalg
from jaxpost.probes.weights import spectra, visibility
from jaxpost.probes.weights.panel import Panel

ANCHORS = (1e-3, 1e-2, 0.1)  # relative norms at which `first_order` decomposes
BASE_READINGS = ("gap", "separation")


def direction(key: jax.Array, draw: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Draw number `draw` of an isotropic direction: Gaussian entries, Frobenius norm 1."""
    g = jax.random.normal(jax.random.fold_in(key, draw), shape)
    return g / jnp.linalg.norm(g)


def relative_norms(panel: Panel, w0: jax.Array, key: jax.Array) -> jax.Array:
    """Relative norm ||w - w0|| / ||w0|| of the isotropic updates, as float32 and bf16 see them: f32[P, D, 2 views]."""
    points, draws = len(panel.null_norms), panel.null_draws
    scale_P = jnp.asarray(panel.null_norms, jnp.float32) * jnp.linalg.norm(w0)

    def at(i):
        w = w0 + scale_P[i % points] * direction(key, i // points, w0.shape)
        return jax.lax.map(lambda view: jnp.linalg.norm(view - w0) / jnp.linalg.norm(w0), _views(w))

    return jax.lax.map(at, jnp.arange(points * draws)).reshape(draws, points, 2).swapaxes(0, 1)


def _views(w: jax.Array) -> jax.Array:
    return jnp.stack([w, visibility.bf16_values(visibility.bf16_codes(w))])


def isotropic(panel: Panel, before: spectra.Frame, w0: jax.Array, key: jax.Array) -> tuple[dict, dict]:
    """Null curves on the norm grid and rounding floors of rotation, spectral shift and relative norm.

    Curves: w0 + c ||w0|| G, as float32 and after the bf16 cast (there relative_norm is the visible one, not c).
    Floors: `rounded`, read in the same way; both include the error of the SVD.

    Returns: curves, name -> f32[P, D, 2 views, ...]; floors, name -> f32[2 views, ...].
    """
    points, draws = len(panel.null_norms), panel.null_draws
    scale_P = jnp.asarray(panel.null_norms, jnp.float32) * jnp.linalg.norm(w0)
    noisy = rounded(w0, jax.random.fold_in(key, draws))

    def at(i):
        views = _views(w0 + scale_P[i % points] * direction(key, i // points, w0.shape))
        return jax.lax.map(read, jnp.where(i == points * draws, noisy, views))

    def read(w):
        after = spectra.frame(w, panel.ks, "exact")
        out = spectra.rotation(before, after, panel.ks) | {"spectral_shift": spectra.spectral_shift(before.s, after.s)}
        norm = jnp.linalg.norm(w - w0) / jnp.linalg.norm(w0)
        return out | {"relative_norm": norm} | _base_reading(before, after, panel.ks)

    flat = jax.lax.map(at, jnp.arange(points * draws + 1))  # name -> [D * P + 1, 2, ...]
    curves = {name: x[:-1].reshape(draws, points, *x.shape[1:]).swapaxes(0, 1) for name, x in flat.items()}
    return {name: x for name, x in curves.items() if name not in BASE_READINGS}, {name: x[-1] for name, x in flat.items()}


def _base_reading(before: spectra.Frame, after: spectra.Frame, ks: tuple[int, ...]) -> dict[str, jax.Array]:
    """What the base's own rows need of a rounded base: its gaps, and s_k(W0) - s_{k+1} of it: f32[K] each."""
    q = min(before.u_MxR.shape[0], before.v_NxR.shape[0])
    at_K = np.minimum(ks, q - 1)
    return {"gap": jnp.abs(spectra.gaps(after.s, ks, q) - spectra.gaps(before.s, ks, q)),
            "separation": before.s[at_K - 1] - after.s[at_K]}


def first_order(panel: Panel, before: spectra.Frame, w0: jax.Array, key: jax.Array) -> tuple[dict, dict]:
    """`isotropic` for certified leading triplets, with decompositions at ANCHORS instead of the whole grid.

    The rotation by an isotropic update depends on its norm only, linearly to first order (mean_sin2: quadratically), so
    draws at the anchors give it there, powers of the norm below the first, straight lines in log-log between them, and
    nothing above the last. What bf16 sees of an update is read as isotropic with the norm that is visible: the pattern
    of visible entries is neglected (against draws at every norm: within their spread; see the tests).

    Returns: curves and floors as of `isotropic`, without the spectral shift.
    """
    draws = panel.null_draws
    anchor_A = jnp.asarray(ANCHORS, jnp.float32)
    seen_PxDx2 = relative_norms(panel, w0, key)

    norm0, anchored = jnp.linalg.norm(w0), len(ANCHORS) * draws
    noisy = rounded(w0, jax.random.fold_in(key, draws))

    def at(i):  # the anchors first, then the two floors
        drawn = w0 + anchor_A[i // draws] * norm0 * direction(key, i % draws, w0.shape)
        w = jnp.where(i < anchored, drawn, noisy[jnp.maximum(i - anchored, 0)])
        after = spectra.frame(w, panel.ks, "top")
        return (spectra.rotation(before, after, panel.ks) | _base_reading(before, after, panel.ks)
                | {"relative_norm": jnp.linalg.norm(w - w0) / norm0})

    read = jax.lax.map(at, jnp.arange(anchored + len(noisy)))  # name -> [A * D + 2, ...]
    curves = {"relative_norm": seen_PxDx2}
    for name, power in (("mean_sin2", 2), ("max_angle", 1)):
        read_AxD = read[name][:anchored].reshape(len(ANCHORS), draws, *read[name].shape[1:])
        curves[name] = _continued(read_AxD, anchor_A, seen_PxDx2, power)
    return curves, {name: x[anchored:] for name, x in read.items()}


def _continued(read_AxD: jax.Array, anchor_A: jax.Array, norm_PxDx2: jax.Array, power: int) -> jax.Array:
    """Readings at the anchors, at other norms: f32[P, D, 2, ...]; 0 at norm 0, NaN above the last anchor."""
    log_A, log_read = jnp.log(anchor_A), jnp.log(read_AxD)
    slope = jnp.diff(log_read, axis=0) / jnp.diff(log_A).reshape(-1, *[1] * (read_AxD.ndim - 1))
    slope = jnp.concatenate([jnp.full_like(slope[:1], power), slope])  # segment i ends at anchor i
    log_norm = jnp.log(norm_PxDx2)
    segment = jnp.clip(jnp.searchsorted(log_A, log_norm), 0, len(anchor_A) - 1)
    draw = jnp.arange(read_AxD.shape[1])[None, :, None]
    distance = (log_norm - log_A[segment]).reshape(*log_norm.shape, *[1] * (read_AxD.ndim - 2))
    value = jnp.exp(log_read[segment, draw] + slope[segment, draw] * distance)
    inside = (log_norm <= log_A[-1] + 1e-3).reshape(distance.shape)  # a cast moves the norm by less
    nothing = (norm_PxDx2 == 0).reshape(distance.shape)
    return jnp.where(nothing, 0.0, jnp.where(inside, value, jnp.nan))


def rounded(w0: jax.Array, key: jax.Array) -> jax.Array:
    """w0 with the error of one float32 rounding and of one bf16 rounding: f32[2 views, M, N].

    bf16: w0 + uniform(+-ULP/2), kept in float32: the error that the cast adds to a master anywhere off the grid (casting
    it back would return w0, which is on the grid). fp32: float32 rounding of the same variance, ULP^2 / 12, as steps of
    0 or +-1 ULP.
    """
    key_bf16, key_fp32 = jax.random.split(key)
    codes = visibility.bf16_codes(w0)
    uniform = jax.random.uniform(key_bf16, w0.shape, minval=-0.5, maxval=0.5)
    step = jax.random.uniform(key_fp32, w0.shape)
    step = (step < 1 / 24).astype(jnp.float32) - (step > 23 / 24).astype(jnp.float32)
    return jnp.stack([w0 + step * visibility.ulp(codes, "fp32"), w0 + uniform * visibility.ulp(codes)])


def rounding_ranks(before: spectra.Frame, w0: jax.Array, floor: dict, ks: tuple[int, ...], level: str, key) -> dict:
    """Floors of the rows about dW itself and of the Wedin bound: what pure rounding noise of the base would read.

    Returns: "ranks" f32[2 views, ranks of the level] and "wedin_bound" f32[2 views, K], the noise being that of `rounded`.
    """

    def read(w):
        noise = w - w0
        if level == "exact":
            s_Q = linalg.singular_values(noise)
            return {"ranks": spectra.ranks(s_Q, ks[0]), "norm2": s_Q[0]}
        s_K, _ = linalg.leading_values(noise, min(ks[0], min(w0.shape)), jax.random.key(spectra.SKETCH))
        return {"ranks": spectra.leading_ranks(jnp.linalg.norm(noise), s_K, ks[0]), "norm2": s_K[0]}

    out = jax.lax.map(read, rounded(w0, key))
    separation = floor["separation"]
    bound = jnp.where(separation > 0, out["norm2"][:, None] / jnp.where(separation > 0, separation, 1.0), jnp.nan)
    return {"ranks": out["ranks"], "wedin_bound": bound}


def beta_quantiles(mean: np.ndarray, variance: np.ndarray, probabilities=(0.025, 0.975)) -> list[np.ndarray]:
    """Quantiles of the Beta law with given moments: exact for a Gaussian update of one matrix, moment-matched otherwise.

    Without variance, the mean.
    """
    spread = (variance > 0) & (mean > 0) & (mean < 1)
    total = np.where(spread, mean * (1 - mean) / np.where(spread, variance, 1.0) - 1, 1.0)
    law = [scipy.stats.beta.ppf(p, np.where(spread, mean, 0.5) * total, np.where(spread, 1 - mean, 0.5) * total)
           for p in probabilities]
    return [np.where(spread, quantile, mean) for quantile in law]


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
