"""Rows of the weight probes: pooling over matrices, nulls at the update's own size, floors, statuses. Host side.

A statistic of a kind, of the body or of the whole model pools as `METRICS` says: counts as ratios of sums, norms in
quadrature, energies weighted by ||dW||^2, spectra, rotations and ranks as unweighted means; its null pools the
same way.

Legend: S seeds, T matrices, C scopes, D null draws; views as in `panel.VIEWS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import scipy.stats

from jaxpost.probes import nulls, pooling, spectra
from jaxpost.probes.panel import PREDICTIONS, SIDES, VIEWS, Panel, TensorInfo, masks_of
from jaxpost.probes.pooling import ABSENT, DEGENERATE, OK, RowTable, divide, mean, total
from jaxpost.probes.weight_readings import Readings

UNIT_LAWS = {  # host versions of visibility.LAWS: P(|X| <= x), unit variance
    "gaussian": lambda x: 2 * scipy.stats.norm.cdf(x) - 1,
    "laplace": lambda x: -np.expm1(-np.sqrt(2) * x),
    "t3": lambda x: 2 * scipy.stats.t.cdf(np.sqrt(3) * x, 3) - 1,
}
OUTSIDE_GRID = "null absent: the update norm is outside the grid of the isotropic null"


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
    for view in range(len(VIEWS)):
        _norms(r, table, view)
        _spectrum(r, table, view)
        _energy(r, table, view)
        _rank(r, table, view)
        _rotation(r, table, view)
    _gap(r, table)
    return table.columns(row_ids)


def _sparsity(r: Readings, table: RowTable) -> None:
    prediction = dict(zip(PREDICTIONS, np.moveaxis(r.value("visible_mean"), 2, 0)[..., 0], strict=True))
    variance = dict(zip(PREDICTIONS, np.moveaxis(r.value("visible_variance"), 2, 0)[..., 0], strict=True))
    for dtype, permuted, gaussian in (("bf16", "permuted", "gaussian"), ("fp32", "permuted_fp32", "gaussian_fp32")):
        primary = {
            name: np.where(r.bf16_master_S[:, None], table_[gaussian], table_[permuted])
            for name, table_ in (("mean", prediction), ("variance", variance))
        }
        kind = np.where(r.bf16_master_S, "gaussian_equal_norm", "halfulp_permuted").astype(object)[:, None]
        further = (r.n_T - prediction[gaussian], variance[gaussian]) if dtype == "bf16" else None
        _add_fraction(
            r, table, f"weight.sparsity.{dtype}", r.value(f"same_{dtype}"), kind,
            [r.n_T - primary["mean"]], primary["variance"], further=further, dtype=dtype,
        )
    sigma = r.norm(0) / np.sqrt(r.n_T)
    within_abs, within_rel = r.value("same_abs"), r.value("same_rel")
    for i, tol in enumerate(r.panel.abs_tols):
        with np.errstate(divide="ignore"):
            laws = [r.n_T * UNIT_LAWS[law](tol / sigma) for law in UNIT_LAWS]
        _add_fraction(r, table, "weight.sparsity.abs", within_abs[..., i], "gaussian_equal_norm", laws, None,
                      dtype="fp32", params={"tol": f"{tol:g}"})
    for i, eta in enumerate(r.panel.rel_etas):
        _add_fraction(r, table, "weight.sparsity.rel", within_rel[..., i], "gaussian_equal_norm",
                      [r.value("rel_gaussian")[..., i]], None, dtype="fp32", params={"eta": f"{eta:g}"})


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
        row = table.add(metric, pool(count), status, reason, null=(kind, *null), floor=0.0, only=only, dtype=dtype,
                        params=_params(weighted))
        if further is not None:
            band = pooling.around(pool(further[0]), deviation(further[1], weighting))
            table.add_null(row, "gaussian_equal_norm", *band)


def _params(params: Mapping[str, str]) -> str | None:
    return ";".join(f"{key}={params[key]}" for key in sorted(params)) or None


def _overlap(r: Readings, table: RowTable) -> None:
    for i, (mask, k, alpha) in enumerate(masks_of(r.panel)):
        _add_overlap(r, table, i, f"weight.overlap.{mask}", k, _params({"alpha": f"{alpha:g}"}))


def _add_overlap(r: Readings, table: RowTable, i: int, metric: str, k: int | None, params: str | None) -> None:
    """Share of visible entries inside mask i; null: blind updates of the same magnitudes; further: mask density."""
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
    row = table.add(metric, value, status, reason, null=(kind, *null), floor=0.0, dtype="bf16", k=k, params=params)
    density = divide(pooled(r.value("mask_size")[..., i]), pooled(np.broadcast_to(r.n_T, visible.shape)))
    table.add_null(row, "mask_density", density, None, None)


def _finish(table, metric, value, state, absent_reason, null, floor, unresolved=None, **key) -> int:
    """Add a pooled statistic: "unresolved" where it is below its floor, a reason where its null is absent."""
    status, reason = pooling.statuses(state, table.scopes, absent_reason)
    value = np.where(status == "ok", value, np.nan)
    if floor is not None:
        low = value < floor if unresolved is None else unresolved
        low &= status == "ok"
        status[low] = "unresolved"
        reason[low] = [_join(text, "below the noise floor") for text in reason[low]]
    if null is not None and null[0] == "isotropic":
        lost = ~np.isfinite(null[1]) & np.isin(status, ("ok", "unresolved"))
        reason[lost] = [_join(text, OUTSIDE_GRID) for text in reason[lost]]
    return table.add(metric, value, status, reason, null=null, floor=floor, dtype=key.pop("dtype"), **key)


def _join(text: str | None, more: str) -> str:
    return f"{text}; {more}" if text else more


def _norms(r: Readings, table: RowTable, view: int) -> None:
    state = r.finite_SxT
    used = state == OK
    norm0 = np.broadcast_to(r.norm0_T, used.shape)
    draws = r.isotropic("relative_norm", view) * norm0[..., None]
    base = np.sqrt(total(norm0**2, used, table.scopes))
    floor = r.floor("relative_norm", view) * norm0
    absolute = [np.sqrt(total(x**2, used, table.scopes)) for x in (r.norm(view), floor)]
    null_draws = np.sqrt(total(draws**2, used, table.scopes))
    for metric, scale in (("weight.update_norm", np.ones_like(base)), ("weight.relative_norm", base)):
        value, floor = (divide(x, scale) for x in absolute)
        # in float32 the isotropic null has the update's norm by construction: there is nothing to compare
        scaled = pooling.draw_range(divide(null_draws, scale[..., None]))
        null = ("isotropic", *scaled) if VIEWS[view] == "bf16" else None
        _finish(table, metric, value, state, "", null, floor, dtype=VIEWS[view])


def _spectrum(r: Readings, table: RowTable, view: int) -> None:
    relative = r.norm(view) / r.norm0_T
    shift, shift_floor = r.value("spectral_shift")[..., view], r.floor("spectral_shift", view)
    longer = np.asarray([max(info.shape) for info in r.infos], np.float64)
    rho, rho_floor = divide(shift, relative), divide(shift_floor, relative)
    rho_null = r.isotropic("spectral_shift_over_update", view)
    for metric, value, draws, floor, state in (
        ("weight.spectral_shift", shift, r.isotropic("spectral_shift", view), shift_floor, r.state()),
        ("weight.spectral_shift_over_update", rho, rho_null, rho_floor, r.state(view=view)),
        ("weight.spectral_kappa", rho**2 * longer, rho_null**2 * longer[:, None], rho_floor**2 * longer,
         r.state(view=view)),
    ):
        used = state == OK
        null = ("isotropic", *pooling.draw_range(mean(draws, used, table.scopes)))
        _finish(table, metric, mean(value, used, table.scopes), state, "", null, mean(floor, used, table.scopes),
                dtype=VIEWS[view])


def _rotation(r: Readings, table: RowTable, view: int) -> None:
    for i, k in enumerate(r.panel.ks):
        reason = f"k={k} needs min(m, n) > k"
        state = r.state(k)
        used = state == OK
        for statistic in ("mean_sin2", "max_angle"):
            for side, name in enumerate(SIDES):
                value = r.value(statistic)[..., view, side, i]
                draws, floor = r.isotropic(statistic, view, side, i), r.floor(statistic, view, side, i)
                null = ("isotropic", *pooling.draw_range(mean(draws, used, table.scopes)))
                _finish(table, f"weight.rotation.{statistic}", mean(value, used, table.scopes), state, reason, null,
                        mean(floor, used, table.scopes), dtype=VIEWS[view], side=name, k=k)
        bound = r.value("wedin_bound")[..., view, i]
        state = np.where(used & np.isnan(bound), ABSENT, state)
        _finish(table, "weight.rotation.wedin_bound", mean(bound, state == OK, table.scopes), state,
                f"{reason} and s_k(W0) > s_(k+1)(W1)", None, None, dtype=VIEWS[view], side="both", k=k)


def _gap(r: Readings, table: RowTable) -> None:
    """Relative gap (s_k - s_{k+1}) / s_1 of W0: what a rotation at k must be read against."""

    def gap(ref, k):
        s = np.asarray(ref["s"], np.float64)
        return (s[:, k - 1] - s[:, k]) / s[:, 0] if k < s.shape[1] else np.full(len(s), np.nan)

    for k in r.panel.ks:
        state = r.state(k)
        value = np.broadcast_to(r.reference(lambda ref, k=k: gap(ref, k)), state.shape)
        _finish(table, "weight.rotation.gap", mean(value, state == OK, table.scopes), state,
                f"k={k} needs min(m, n) > k", None, None, dtype="bf16", k=k)


def _energy(r: Readings, table: RowTable, view: int) -> None:
    """Off-principal and doubly-off energy; floor: the share of ||dW||^2 that rounding of one end would make."""
    energy = r.norm(view) ** 2
    for i, k in enumerate(r.panel.ks):
        state = r.state(k, view)
        used = state == OK
        pooled_energy = total(energy, used, table.scopes)
        floor = np.minimum(divide(total(r.value("rounding_energy")[..., view], used, table.scopes), pooled_energy), 1.0)
        captured = dict(zip(spectra.REGIONS, np.moveaxis(r.value("captured")[..., view, :, i], -1, 0), strict=True))
        off = {region: 1 - share for region, share in captured.items()}
        off["doubly_off"] = 1 - captured["left"] - captured["right"] + captured["both"]
        for region, share in off.items():
            doubly = region == "doubly_off"
            moments = [nulls.energy_moments(region, info.shape, k) for info in r.infos]
            mean_T, variance_T = np.asarray(moments).T
            mean_T = mean_T if doubly else 1 - mean_T
            expected = divide(total(energy * mean_T, used, table.scopes), pooled_energy)
            variance = divide(total(energy**2 * variance_T, used, table.scopes), pooled_energy**2)
            null = ("isotropic_beta", expected, *nulls.beta_quantiles(expected, variance))
            _finish(table, "weight.doubly_off_energy" if doubly else "weight.off_principal_energy",
                    divide(total(energy * share, used, table.scopes), pooled_energy), state,
                    f"k={k} needs min(m, n) > k", null, floor, floor > 0.5, dtype=VIEWS[view],
                    side="none" if doubly else region, k=k)


def _rank(r: Readings, table: RowTable, view: int) -> None:
    """Ranks of dW against Gaussian matrices of the same shape (and, for the count above the edge, of the same norm)."""
    hill_k = r.panel.ks[0]
    values = r.value("ranks")[..., view, :]
    statistics = [(name, values[..., i], r.gaussian_ranks(i)) for i, name in enumerate(spectra.RANKS)]
    statistics.append(("above_edge", r.value("above_edge")[..., view], r.gaussian_above_edge(view)))
    for name, value, draws in statistics:
        rank, _, params = name.partition("/")
        k = hill_k if rank == "hill" else None
        state = r.state(k, view)
        used = state == OK
        null = ("gaussian_matrix", *pooling.draw_range(mean(draws, used, table.scopes)))
        _finish(table, f"weight.rank.{rank}", mean(value, used, table.scopes), state,
                f"k={k} needs min(m, n) > k", null, None, dtype=VIEWS[view], params=params or None, k=k)
