"""Rows of the weight probes: pooling over matrices, nulls at the update's own size, floors, errors, statuses. Host side.

A statistic of a kind, of the body or of the whole model pools as `METRICS` says: counts as ratios of sums, norms in
quadrature, energies weighted by ||dW||^2, spectra, rotations and ranks as unweighted means; its null pools the
same way. Here: what counts entries (exact, no numerical error but that of masks made of singular vectors); rows about
norms, spectra and subspaces are in `weights.spectral_rows`.

Legend: S seeds, T matrices, C scopes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.rows.pooling import ABSENT, DEGENERATE, OK, RowTable, divide, mean, total
from jaxpost.probes.weights import blind_moments
from jaxpost.probes.weights import spectral_rows as weight_spectral_rows
from jaxpost.probes.weights.panel import PREDICTIONS, Panel, masks_of
from jaxpost.probes.weights.values import Readings
from jaxpost.probes.weights.visibility import LAWS


def finalize(
    panel: Panel,
    infos: Sequence[TensorInfo],
    refs: Mapping[str, Mapping],
    vals: Mapping[str, np.ndarray],
    *,
    arm: str,
    step: int,
    seeds: Sequence[int],
    conditional_on: str,
    row_ids: Callable[[dict], Sequence[str]],
) -> dict[str, np.ndarray]:
    """Columns of measurement rows (role "seed", and "null" for further nulls) for every matrix, kind, body and global.

    Args:
      panel: the panel of `measure`. infos: the matrices, in any order. refs: of `prepare` (this or the full panel).
      vals: of `measure`, every leaf with a leading axis over `seeds` (host or device arrays).
      arm, step, conditional_on: constant columns. row_ids: columns -> row identity, from records.
    Raises: ValueError when values, seeds and infos do not fit together.
    """
    r = Readings(panel, infos, refs, vals, len(seeds))
    scopes = pooling.scopes_of(infos)
    table = RowTable(scopes, seeds, {"arm": arm, "step": step, "conditional_on": conditional_on})
    _sparsity(r, table)
    _overlap(r, table)
    weight_spectral_rows.add(r, table)
    return table.columns(row_ids)


def _sparsity(r: Readings, table: RowTable) -> None:
    prediction = dict(zip(PREDICTIONS, np.moveaxis(r.value("visible_mean"), 2, 0)[..., 0], strict=True))
    variance = dict(zip(PREDICTIONS, np.moveaxis(r.value("visible_variance"), 2, 0)[..., 0], strict=True))
    rounded = r.bf16_master_S[:, None]  # of these runs only what was rounded exists: their blind law is a range
    for dtype, permuted in (("bf16", "permuted"), ("fp32", "permuted_fp32")):
        bands = [(r.n_T - np.where(rounded, prediction[f"sized_{law}"], prediction[permuted]),
                  np.where(rounded, variance[f"sized_{law}"], variance[permuted])) for law in LAWS]
        gaussian = [np.where(rounded, x["rounded_gaussian"], x["gaussian"]) for x in (prediction, variance)]
        kind = np.where(rounded, "law_range", "halfulp_permuted").astype(object)
        _add_fraction(r, table, f"weight.sparsity.{dtype}", r.value(f"same_{dtype}"), kind, bands, dtype=dtype,
                      further=(r.n_T - gaussian[0], gaussian[1]) if dtype == "bf16" else None)
    kind = np.full(rounded.shape, "law_range", object)
    within_abs, within_rel = r.value("same_abs"), r.value("same_rel")
    calibrated = [r.value(f"rounded_within{what}") for what in ("", "_variance")]
    for i, tol in enumerate(r.panel.abs_tols):
        bands = []
        for j, law in enumerate(LAWS):
            of_size = _within(law, tol, r.value("update_size"), r.n_T)
            bands.append([np.where(rounded, x[:, :, j, i], y) for x, y in zip(calibrated, of_size, strict=True)])
        _add_fraction(r, table, "weight.sparsity.abs", within_abs[..., i], kind, bands, dtype="fp32",
                      params={"tol": f"{tol:g}"})
    relative = [np.where(rounded[..., None, None], np.nan, r.value(f"rel_blind{what}")) for what in ("", "_variance")]
    for i, eta in enumerate(r.panel.rel_etas):
        bands = [[x[:, :, j, i] for x in relative] for j in range(len(LAWS))]
        _add_fraction(r, table, "weight.sparsity.rel", within_rel[..., i], np.where(rounded, None, kind), bands, dtype="fp32",
                      params={"eta": f"{eta:g}"})


def _within(law: str, tol: float, size: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expected number of n entries with |d| <= tol for d of a law whose mean absolute size was measured, and its variance.

    The size comes from the same entries: with X = 1{|d| <= tol}, b = dP / dE|d| and A = |d| only X - b A varies freely.
    """
    sigma = size / blind_moments.mean_size(law)
    x = divide(np.full_like(size, tol), sigma)
    p, below, slope = (np.where(sigma > 0, x, still) for x, still in zip(blind_moments.inside(law, x), (1.0, 0.0, 0.0)))
    unit = blind_moments.mean_size(law)
    b = slope / unit
    variance = p * (1 - p) - 2 * b * (below - p * unit) + b**2 * (1 - unit**2)
    return n * p, n * np.maximum(variance, 0.0)


def _add_fraction(r, table, metric, count, kind, laws, *, dtype, params=None, further=None) -> None:
    """A fraction of entries, by parameter and (pools only) by tensor.

    `laws` holds (expected count, variance) [S, T] under each law that stands for the blind update, the primary first; the band
    is the union of their 95 % intervals.
    """
    scopes, all_used = table.scopes, np.ones(count.shape, bool)
    status, reason = pooling.statuses(r.finite_SxT, scopes, "")
    n = np.broadcast_to(r.n_T, count.shape)
    pools = scopes.member_CxT.sum(1) > 1

    def by_param(x):
        return total(x, all_used, scopes) / total(n, all_used, scopes)

    def by_tensor(x):
        return mean(x / n, all_used, scopes)

    def deviation(v, weighting):
        if weighting == "by_tensor":
            return np.sqrt(total(v / n**2, all_used, scopes)) / total(n / n, all_used, scopes)
        return np.sqrt(total(v, all_used, scopes)) / total(n, all_used, scopes)

    for weighting, pool, only in (("by_param", by_param, None), ("by_tensor", by_tensor, pools)):
        null = pooling.union([pooling.around(pool(expected), deviation(variance, weighting)) for expected, variance in laws])
        weighted = dict(params or {}) | ({"weighting": weighting} if weighting == "by_tensor" else {})
        row = table.add(metric, pool(count), status, reason, null=(kind, *null), floor=0.0, num_err=0.0, only=only,
                        dtype=dtype, params=_params(weighted))
        if further is not None:
            band = pooling.around(pool(further[0]), deviation(further[1], weighting))
            table.add_null(row, "gaussian_equal_norm", *band)


def _params(params: Mapping[str, str]) -> str | None:
    return ";".join(f"{key}={params[key]}" for key in sorted(params)) or None


def _overlap(r: Readings, table: RowTable) -> None:
    for i, (mask, k, alpha) in enumerate(masks_of(r.panel)):
        _add_overlap(r, table, i, f"weight.overlap.{mask}", k, _params({"alpha": f"{alpha:g}"}))


def _add_overlap(r: Readings, table: RowTable, i: int, metric: str, k: int | None, params: str | None) -> None:
    """Share of visible entries inside mask i; null: blind updates of the same magnitudes; further: mask density.

    Numerical error: the share of visible entries that could lie on the other side of a mask made of singular vectors.
    """
    visible = r.n_T - r.value("same_bf16")
    state = r.state(k)
    state = np.where((state == OK) & (visible == 0), DEGENERATE, state)
    used = state != ABSENT
    status, reason = pooling.statuses(state, table.scopes, f"k={k} needs min(m, n) > k")
    means, variances = r.value("visible_mean"), r.value("visible_variance")

    def pooled(x):
        return total(x, used, table.scopes)

    def blind(prediction):
        p = PREDICTIONS.index(prediction)
        expected = pooled(means[..., p, 0])
        ratio = divide(pooled(means[..., p, 1 + i]), expected)
        inside, outside = variances[..., p, 1 + i], variances[..., p, 0] - variances[..., p, 1 + i]
        spread = (1 - ratio) ** 2 * pooled(inside) + ratio**2 * np.maximum(pooled(outside), 0.0)
        return ratio, divide(np.sqrt(spread), expected)

    permuted = pooling.around(*blind("permuted"))
    calibrated = pooling.union([pooling.around(*blind(f"calibrated_{law}")) for law in LAWS])
    bf16_master = r.bf16_master_S[:, None]
    kind = np.where(bf16_master, "law_range", "magnitude_conditioned").astype(object)
    null = [np.where(bf16_master, c, p) for c, p in zip(calibrated, permuted, strict=True)]
    value = divide(pooled(r.value("overlap")[..., i]), pooled(visible))
    error = np.minimum(divide(pooled(np.broadcast_to(r.ambiguous(i), visible.shape)), pooled(visible)), 1.0)
    row = table.add(metric, value, status, reason, null=(kind, *null), floor=0.0, num_err=error, dtype="bf16", k=k,
                    params=params)
    density = divide(pooled(r.value("mask_size")[..., i]), pooled(np.broadcast_to(r.n_T, visible.shape)))
    table.add_null(row, "mask_density", density, None, None)
