"""Rows about norms, spectra, subspaces and ranks of an update, at the level that the panel reads. Host side.

Numerical errors pool like the values: means of the errors of means, sums over ||dW||^2 of ratios. A floor is what storage
rounding of one end alone would read; an energy or a rank is unresolved where rounding makes half of ||dW||^2.

Legend: S seeds, T matrices, C scopes, D null draws; views as in `panel.VIEWS`.
"""

from __future__ import annotations

import numpy as np

from jaxpost import linalg
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.pooling import ABSENT, OK, RowTable, divide, mean, total
from jaxpost.probes.weights import nulls, spectra
from jaxpost.probes.weights.panel import SIDES, VIEWS
from jaxpost.probes.weights.values import Readings

OUTSIDE_GRID = "no calibrated null: the update norm is outside the grid of the isotropic null"
UNDRAWN = "no calibrated null: this measurement drew no blind updates (rank_draws = 0)"
GIVEN = "no calibrated null: the blind law of a bf16 run is matched to the size of its update"
MODEL = 0.003  # relative error of the closed form of the visible norm: histogram intervals, ULPs that change under way
BELOW = "below the noise floor"
MOSTLY_ROUNDING = "rounding of one end alone would make more than half of ||dW||^2"
FELL_BACK = "exact SVD: the spectrum is too flat at k for the iteration"


def add(r: Readings, table: RowTable) -> None:
    """Append every row of this module that the panel's level has."""
    for view in range(len(VIEWS)):
        _norms(r, table, view)
        if r.panel.reads("exact"):
            _spectrum(r, table, view)
        if r.panel.reads("top"):
            _energy(r, table, view)
            _rank(r, table, view)
            _rotation(r, table, view)
    if r.panel.reads("top"):
        _gap(r, table)


def _finish(
    table, metric, value, state, absent_reason, null, floor, unresolved=None, why=BELOW, fell_back=None, uncalibrated=None,
    **key,
) -> int:
    """Add a pooled statistic: "unresolved" where it is below its floor, a reason where its null is absent (`uncalibrated`)."""
    status, reason = pooling.statuses(state, table.scopes, absent_reason)
    value = np.where(status == "ok", value, np.nan)
    if floor is not None:
        low = (value < floor if unresolved is None else unresolved) & (status == "ok")
        status[low] = "unresolved"
        reason[low] = [_join(text, why) for text in reason[low]]
    usable = np.isin(status, ("ok", "unresolved"))
    lost = usable & (uncalibrated is not None if null is None else ~np.isfinite(null[1]))
    reason[lost] = [_join(text, uncalibrated or OUTSIDE_GRID) for text in reason[lost]]
    if fell_back is not None:
        exact = (total(fell_back * 1.0, state == OK, table.scopes) > 0) & usable
        reason[exact] = [_join(text, FELL_BACK) for text in reason[exact]]
    return table.add(metric, value, status, reason, null=null, floor=floor, dtype=key.pop("dtype"), **key)


def _join(text: str | None, more: str) -> str:
    return f"{text}; {more}" if text else more


def _norms(r: Readings, table: RowTable, view: int) -> None:
    state = r.finite_SxT
    used = state == OK
    norm0 = np.broadcast_to(r.norm0_T, used.shape)
    base = np.sqrt(total(norm0**2, used, table.scopes))
    floor = r.floor("relative_norm", view) * norm0
    absolute = [np.sqrt(total(x**2, used, table.scopes)) for x in (r.norm(view), floor)]
    for metric, scale in (("weight.update_norm", np.ones_like(base)), ("weight.relative_norm", base)):
        value, floor = (divide(x, scale) for x in absolute)
        error = value * linalg.SPECTRUM_ERROR * (1 if metric == "weight.update_norm" else 2)
        null = ("permuted", *(divide(x, scale) for x in _visible_norm(r, table, used))) if VIEWS[view] == "bf16" else None
        _finish(table, metric, value, state, "", null, floor, num_err=error, dtype=VIEWS[view],
                uncalibrated=GIVEN if null is not None else None)


def _visible_norm(r: Readings, table: RowTable, used: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Norm that bf16 shows of the permuted update; absent where masters are bf16: their blind law is matched to their size.

    In float32 a permuted update has the norm of the update: there is nothing to compare.
    """
    mean_SxT, variance_SxT = np.moveaxis(r.value("blind_square"), -1, 0)
    mean_SxT = np.where(r.bf16_master_S[:, None], np.nan, mean_SxT)
    square, half = total(mean_SxT, used, table.scopes), 1.959964 * np.sqrt(total(variance_SxT, used, table.scopes))
    lo, hi = (np.sqrt(np.maximum(square + sign * half, 0.0)) * (1 + sign * MODEL) for sign in (-1, 1))
    return np.sqrt(square), lo, hi


def _spectrum(r: Readings, table: RowTable, view: int) -> None:
    relative = r.norm(view) / r.norm0_T
    shift, shift_floor = r.value("spectral_shift")[..., view], r.floor("spectral_shift", view)
    longer = np.asarray([max(info.shape) for info in r.infos], np.float64)
    rho, rho_floor = divide(shift, relative), divide(shift_floor, relative)
    rho_null = r.isotropic("spectral_shift_over_update", view)
    shift_error = r.value("spectral_shift_error")[..., view]
    rho_error = divide(shift_error, relative) + rho * 2 * linalg.SPECTRUM_ERROR
    for metric, value, error, draws, floor, state in (
        ("weight.spectral_shift", shift, shift_error, r.isotropic("spectral_shift", view), shift_floor, r.state()),
        ("weight.spectral_shift_over_update", rho, rho_error, rho_null, rho_floor, r.state(view=view)),
        ("weight.spectral_kappa", rho**2 * longer, (2 * rho + rho_error) * rho_error * longer,
         rho_null**2 * longer[:, None], rho_floor**2 * longer, r.state(view=view)),
    ):
        used = state == OK
        null = (r.null_kind("spectral_shift"), *pooling.prediction_band(mean(draws, used, table.scopes), low=0.0))
        _finish(table, metric, mean(value, used, table.scopes), state, "", null, mean(floor, used, table.scopes),
                num_err=mean(error, used, table.scopes), dtype=VIEWS[view])


def _rotation(r: Readings, table: RowTable, view: int) -> None:
    fell_back = r.fell_back(view)
    for i, k in enumerate(r.panel.ks):
        reason = f"k={k} needs min(m, n) > k"
        state = r.state(k)
        used = state == OK

        def pooled(x, used=used):
            return mean(x, used, table.scopes)

        for statistic in ("mean_sin2", "max_angle"):
            for side, name in enumerate(SIDES):
                value, error = (r.value(f"{statistic}{what}")[..., view, side, i] for what in ("", "_error"))
                draws, floor = r.isotropic(statistic, view, side, i), r.floor(statistic, view, side, i)
                largest = 1.0 if statistic == "mean_sin2" else np.pi / 2
                null = (r.null_kind(statistic), *pooling.prediction_band(pooled(draws), 0.0, largest))
                _finish(table, f"weight.rotation.{statistic}", pooled(value), state, reason, null, pooled(floor),
                        fell_back=fell_back, num_err=pooled(error), dtype=VIEWS[view], side=name, k=k)
        bound, error = (r.value(f"wedin_bound{what}")[..., view, i] for what in ("", "_error"))
        state = np.where(used & np.isnan(bound), ABSENT, state)
        used = state == OK
        _finish(table, "weight.rotation.wedin_bound", pooled(bound, used), state,
                f"{reason} and s_k(W0) > s_(k+1)(W1)", None, pooled(r.floor("wedin_bound", view)[..., i], used),
                fell_back=fell_back, num_err=pooled(error, used), dtype=VIEWS[view], side="both", k=k)


def _gap(r: Readings, table: RowTable) -> None:
    """Relative gap (s_k - s_{k+1}) / s_1 of W0: what a rotation at k must be read against.

    Floor: by how much a bf16 rounding of the base moves it.
    """

    def gap(ref, k):
        s = np.asarray(ref["s"], np.float64)
        return (s[:, k - 1] - s[:, k]) / s[:, 0] if k < s.shape[1] else np.full(len(s), np.nan)

    def error(ref):  # of each of the two values, in units of s_1
        s_1, residual = (np.asarray(ref[name], np.float64) for name in ("s", "residual"))
        return np.maximum(linalg.VALUE_ERROR, residual.max(-1) / s_1[:, 0])

    for i, k in enumerate(r.panel.ks):
        state = r.state(k)
        used = state == OK
        value = np.broadcast_to(r.reference(lambda ref, k=k: gap(ref, k)), state.shape)
        off = r.reference(error) * (2 + value)
        _finish(table, "weight.rotation.gap", mean(value, used, table.scopes), state, f"k={k} needs min(m, n) > k", None,
                mean(r.floor("gap", VIEWS.index("bf16"))[..., i], used, table.scopes),
                num_err=mean(off, used, table.scopes), dtype="bf16", k=k)


def _rounding_share(r: Readings, table: RowTable, view: int, used) -> np.ndarray:
    """Share of ||dW||^2 that rounding of one end would make, at most 1: f64[S, C]."""
    energy = total(r.norm(view) ** 2, used, table.scopes)
    return np.minimum(divide(total(r.value("rounding_energy")[..., view], used, table.scopes), energy), 1.0)


def _energy(r: Readings, table: RowTable, view: int) -> None:
    """Off-principal and doubly-off energy; floor: the share of ||dW||^2 that rounding of one end would make."""
    energy = r.norm(view) ** 2
    for i, k in enumerate(r.panel.ks):
        state = r.state(k, view)
        used = state == OK
        pooled_energy = total(energy, used, table.scopes)
        floor = _rounding_share(r, table, view, used)
        shares, errors = (np.moveaxis(r.value(f"captured{what}")[..., view, :, i], -1, 0) for what in ("", "_error"))
        captured, error = (dict(zip(spectra.REGIONS, x, strict=True)) for x in (shares, errors))
        off = {region: 1 - share for region, share in captured.items()}
        off["doubly_off"] = 1 - captured["left"] - captured["right"] + captured["both"]
        error["doubly_off"] = error["left"] + error["right"] + error["both"]
        for region, share in off.items():
            doubly = region == "doubly_off"
            bands = []
            for mean_SxT, variance_SxT in r.blind_energy(view, region, i):
                centre = mean_SxT if doubly else 1 - mean_SxT
                expected = divide(total(energy * np.where(used, centre, 0.0), used, table.scopes), pooled_energy)
                variance = divide(total(energy**2 * np.where(used, variance_SxT, 0.0), used, table.scopes), pooled_energy**2)
                bands.append((expected, *nulls.beta_quantiles(expected, variance)))
            kind = np.where(r.bf16_master_S, "law_range", "magnitude_conditioned").astype(object)[:, None]
            null = (kind, *pooling.union(bands))
            value, num_err = (divide(total(energy * x, used, table.scopes), pooled_energy) for x in (share, error[region]))
            _finish(table, "weight.doubly_off_energy" if doubly else "weight.off_principal_energy", value, state,
                    f"k={k} needs min(m, n) > k", null, floor, floor > 0.5, num_err=num_err, dtype=VIEWS[view],
                    side="none" if doubly else region, k=k)


def _rank(r: Readings, table: RowTable, view: int) -> None:
    """Ranks of dW against those of blind updates, drawn at this measurement and read in the same view.

    Floor: the rank of pure rounding noise; the count above the edge has its floor in the edge, so none there.
    """
    hill_k = r.panel.ks[0]
    names = spectra.RANKS if r.panel.reads("exact") else spectra.LEADING_RANKS
    values, errors = (r.value(f"ranks{what}")[..., view, :] for what in ("", "_error"))
    statistics = [(name, values[..., i], errors[..., i], r.rank_floor(name, view)) for i, name in enumerate(names)]
    if r.panel.reads("exact"):
        above, error = (r.value(f"above_edge{what}")[..., view] for what in ("", "_error"))
        statistics.append(("above_edge", above, error, None))
    kind = np.where(r.bf16_master_S, "law_range", "permuted").astype(object)[:, None]
    for name, value, error, floor in statistics:
        rank, _, params = name.partition("/")
        k = hill_k if rank == "hill" else None
        state = r.state(k, view)
        used = state == OK
        draws = r.blind_ranks(name, view)
        null = None if draws is None else (kind, *pooling.prediction_band(mean(draws, used, table.scopes), low=0.0))
        rounding = None if floor is None else _rounding_share(r, table, view, used) > 0.5
        _finish(table, f"weight.rank.{rank}", mean(value, used, table.scopes), state, f"k={k} needs min(m, n) > k", null,
                None if floor is None else mean(floor, used, table.scopes), rounding, MOSTLY_ROUNDING,
                num_err=mean(error, used, table.scopes), dtype=VIEWS[view], params=params or None, k=k,
                uncalibrated=UNDRAWN if draws is None else None)
