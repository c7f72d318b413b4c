"""Rows of the weight probes: pooling over matrices, nulls at the update's own size, floors, errors, statuses. Host side.

A statistic of a kind, of the body or of the whole model pools as `METRICS` says: counts as ratios of sums, norms in
quadrature, energies weighted by ||dW||^2, spectra, rotations and ranks as unweighted means; its null pools the
same way. Here: what counts entries (exact, no numerical error but that of masks made of singular vectors); rows about
norms, spectra and subspaces are in `weight_spectral_rows`.

Legend: S seeds, T matrices, C scopes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import scipy.stats

from jaxpost.probes import pooling, weight_spectral_rows
from jaxpost.probes.panel import PREDICTIONS, Panel, TensorInfo, masks_of
from jaxpost.probes.pooling import ABSENT, DEGENERATE, OK, RowTable, divide, mean, total
from jaxpost.probes.weight_readings import Readings

UNIT_LAWS = {  # host versions of visibility.LAWS: P(|X| <= x), unit variance
    "gaussian": lambda x: 2 * scipy.stats.norm.cdf(x) - 1,
    "laplace": lambda x: -np.expm1(-np.sqrt(2) * x),
    "t3": lambda x: 2 * scipy.stats.t.cdf(np.sqrt(3) * x, 3) - 1,
}


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
    rounded = r.bf16_master_S[:, None]  # these runs' blind updates are rounded before anything is counted
    for dtype, permuted in (("bf16", "permuted"), ("fp32", "permuted_fp32")):
        primary = {
            name: np.where(rounded, table_["rounded_gaussian"], table_[permuted])
            for name, table_ in (("mean", prediction), ("variance", variance))
        }
        kind = np.where(rounded, "gaussian_equal_norm", "halfulp_permuted").astype(object)
        gaussian = [np.where(rounded, table_["rounded_gaussian"], table_["gaussian"]) for table_ in (prediction, variance)]
        further = (r.n_T - gaussian[0], gaussian[1]) if dtype == "bf16" else None
        _add_fraction(
            r, table, f"weight.sparsity.{dtype}", r.value(f"same_{dtype}"), kind,
            [r.n_T - primary["mean"]], primary["variance"], further=further, dtype=dtype,
        )
    sigma = r.norm(0) / np.sqrt(r.n_T)
    within_abs, within_rel, calibrated = r.value("same_abs"), r.value("same_rel"), r.value("rounded_within")
    for i, tol in enumerate(r.panel.abs_tols):
        with np.errstate(divide="ignore"):
            laws = [np.where(rounded, calibrated[:, :, law, i], r.n_T * inside(tol / sigma))
                    for law, inside in enumerate(UNIT_LAWS.values())]
        kind = np.where(rounded, "calibrated_gaussian", "gaussian_equal_norm").astype(object)
        _add_fraction(r, table, "weight.sparsity.abs", within_abs[..., i], kind, laws, None,
                      dtype="fp32", params={"tol": f"{tol:g}"})
    for i, eta in enumerate(r.panel.rel_etas):
        kind = np.where(rounded, None, "gaussian_equal_norm")
        expected = np.where(rounded, np.nan, r.value("rel_gaussian")[..., i])
        _add_fraction(r, table, "weight.sparsity.rel", within_rel[..., i], kind, [expected], None, dtype="fp32",
                      params={"eta": f"{eta:g}"})


def _add_fraction(r, table, metric, count, kind, expected, variance, *, dtype, params=None, further=None) -> None:
    """A fraction of entries, by parameter and (pools only) by tensor.

    `expected` holds expected counts [S, T], the primary first; the band is the range over all of them, or 95 % from the
    variance [S, T] of the primary where that is given.
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
        values = [pool(x) for x in expected]
        if variance is not None:
            null = pooling.around(values[0], deviation(variance, weighting))
        elif len(values) > 1:
            null = (values[0], np.min(values, axis=0), np.max(values, axis=0))
        else:
            null = (values[0], None, None)
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
    laws = [blind(f"calibrated_{law}")[0] for law in UNIT_LAWS]
    calibrated = (laws[0], np.min(laws, axis=0), np.max(laws, axis=0))
    bf16_master = r.bf16_master_S[:, None]
    kind = np.where(bf16_master, "calibrated_gaussian", "magnitude_conditioned").astype(object)
    null = [np.where(bf16_master, c, p) for c, p in zip(calibrated, permuted, strict=True)]
    value = divide(pooled(r.value("overlap")[..., i]), pooled(visible))
    error = np.minimum(divide(pooled(np.broadcast_to(r.ambiguous(i), visible.shape)), pooled(visible)), 1.0)
    row = table.add(metric, value, status, reason, null=(kind, *null), floor=0.0, num_err=error, dtype="bf16", k=k,
                    params=params)
    density = divide(pooled(r.value("mask_size")[..., i]), pooled(np.broadcast_to(r.n_T, visible.shape)))
    table.add_null(row, "mask_density", density, None, None)
