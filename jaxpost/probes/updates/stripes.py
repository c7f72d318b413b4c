"""Stripes of the visible update: do some rows or columns of a matrix change more often than a blind update's would?

row_ratio_i = (1/n) sum_j M_ij, col_ratio_j = (1/m) sum_i M_ij of the bf16-visible mask M (arXiv:2511.08567 2.2). A blind
update already makes stripes where small weights share a row, so every statistic stands beside the law of a
Poisson-binomial count: entry (i, j) is visible with probability p_ij (`visibility`), independently. Cumulants of row
and column counts give the expectation and the variance of the dispersion exactly.

Legend: M rows, N columns, S seeds, T matrices, C scopes; side "left" is rows, "right" columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats

from jaxpost.probes import base, catalog, schedules
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.rows.pooling import OK, RowTable, divide, mean
from jaxpost.probes.weights import blind, by_matrix, visibility
from jaxpost.probes.weights.panel import SIDES

PNT = "The Path Not Taken, arXiv:2511.08567"
_BLIND = "magnitude_conditioned: independent entries, visible with p_ij (law_range where masters are bf16)"
_COUNTS = "exact counts; cumulants of the blind law summed in float32"
STRIPES = (
    base.Metric("weight.stripes.cv", "standard deviation over mean of row_ratio (left) or col_ratio (right) of the "
                "bf16-visible mask, divisor m or n", "1", PNT + " 2.2", _BLIND + "; independence (one binomial density) as a "
                "further row", "mean over matrices", _COUNTS),
    base.Metric("weight.stripes.excess", "cv^2 minus the blind update's expected cv^2; negative values as they come", "1",
                PNT + " 2.2 (reconstructed: the sheet gives heat maps)", "0, with the exact spread of a blind update",
                "mean over matrices", _COUNTS),
    base.Metric("weight.stripes.max_over_mean", "largest over mean row_ratio (left) or col_ratio (right)", "1", PNT + " 2.2",
                _BLIND + ": law of the largest of independent Poisson-binomial counts", "mean over matrices",
                _COUNTS + "; refined normal approximation with continuity and skewness correction"),
    base.Metric("weight.stripes.stability", "Spearman correlation of the profiles at two measured steps: params from is the "
                "earlier, `step` the later", "1", PNT + " 2.2", "blind_nested: blind updates whose later mask contains the "
                "earlier, from above; lo end from independent masks, also a further row "
                "blind_independent; Pearson to Spearman by 6/pi asin(r/2)", "mean over matrices", "ranks with ties averaged"),
)
base.register(*STRIPES)
METRICS = tuple(metric.id for metric in STRIPES)
_PASSES = 60  # element-wise reads and writes; a scatter or gather of one entry weighs about fifteen on a CPU
_Z = 1.959964
_TOO_SHORT = "a profile of fewer than 4 entries"


def profile(w0: jax.Array, w1: jax.Array) -> dict[str, jax.Array]:
    """Counts of visible entries by row and column, and the cumulants that a blind update would have given them.

    Returns: count_row i32[M], count_col i32[N]; blind_row f32[L, 4, M], blind_col f32[L, 4, N]: cumulants 1 to 4 of the counts
      under every law of `blind.tables`, sums of p, q = p(1-p), q(1-2p), q(1-6q); table f32[L, C] and class_counts i32[C], C
      classes of `visibility`; n_nonfinite i32, bf16 i32 (masters on the bf16 grid).
    """
    codes0 = visibility.bf16_codes(w0)
    visible = ~visibility.same_value(codes0, visibility.bf16_codes(w1))
    tables_LxC, stored_bf16 = blind.tables(w0, w1), by_matrix.bf16_master(w1)

    def cumulants(table_C):
        p = table_C[visibility.class_of(codes0)]
        q = p * (1 - p)
        each = jnp.stack([p, q, q * (1 - 2 * p), q * (1 - 6 * q)])
        return {"blind_row": jnp.sum(each, axis=2), "blind_col": jnp.sum(each, axis=1)}

    return blind.each_law(cumulants, tables_LxC, stored_bf16) | {
        "count_row": jnp.sum(visible, axis=1, dtype=jnp.int32),
        "count_col": jnp.sum(visible, axis=0, dtype=jnp.int32),
        "table": tables_LxC,
        "class_counts": visibility.class_counts(codes0),
        "n_nonfinite": jnp.sum(~jnp.isfinite(w1), dtype=jnp.int32),
        "bf16": stored_bf16.astype(jnp.int32),
    }


@dataclass(frozen=True)
class Dispersion:
    """Statistics of one profile, observed and blind; every field f64[S]."""

    cv: np.ndarray
    cv_blind: np.ndarray
    cv_spread: np.ndarray  # standard deviation of a blind update's cv
    excess: np.ndarray
    excess_spread: np.ndarray
    cv_independent: np.ndarray  # all entries visible with one probability


def dispersion(count_SxM: np.ndarray, blind_Sx4xM: np.ndarray, n: int) -> Dispersion:
    """Dispersion of the ratios count / n over a profile, against independent Poisson-binomial counts.

    With e and s the blind means and variances of the ratios, V = mean_i (r_i - mean r)^2 is the form r'Ar, A = (I - 11'/M)/M:
    E V = var(e) + (1 - 1/M) mean(s),
    Var V = 2 tr(ASAS) + 4 (Ae)'S(Ae) + sum A_ii^2 k4_i + 4 sum A_ii (Ae)_i k3_i,
    exact for independent entries. cv^2 = V / mean(r)^2 is compared with E V / mean(e)^2.

    Args: counts and their blind cumulants 1 to 4; n entries stand behind each count.
    """
    m = count_SxM.shape[-1]
    ratio = np.asarray(count_SxM, np.float64) / n
    e, s, k3, k4 = (np.asarray(blind_Sx4xM, np.float64)[:, i] / n ** (i + 1) for i in range(4))
    diagonal, slope = (1 - 1 / m) / m, (e - e.mean(-1, keepdims=True)) / m
    expected = e.var(-1) + (1 - 1 / m) * s.mean(-1)
    trace = ((1 - 2 / m) * (s**2).sum(-1) + s.sum(-1) ** 2 / m**2) / m**2
    variance = 2 * trace + 4 * (slope**2 * s).sum(-1) + diagonal**2 * k4.sum(-1) + 4 * diagonal * (slope * k3).sum(-1)
    spread = np.sqrt(np.maximum(variance, 0.0))
    observed, blind = divide(ratio.var(-1), ratio.mean(-1) ** 2), divide(expected, e.mean(-1) ** 2)
    cv_blind = np.sqrt(np.maximum(blind, 0.0))
    excess_spread = divide(spread, e.mean(-1) ** 2)
    plain = divide((1 - 1 / m) * (1 - ratio.mean(-1)), n * ratio.mean(-1))
    return Dispersion(np.sqrt(observed), cv_blind, divide(excess_spread, 2 * cv_blind), observed - blind, excess_spread,
                      np.sqrt(plain))


def largest(blind_4xM: np.ndarray, n: int) -> tuple[float, float]:
    """Mean and standard deviation of the largest of M independent Poisson-binomial counts over n entries.

    From the product of their distribution functions on at most 65 counts, each by the refined normal approximation
    Phi(z) + skew (1 - z^2) phi(z) / 6, z = (x + 1/2 - mean) / sd (Volkova 1996). Against exact convolution: the mean
    within a tenth of the deviation, the deviation within 5 % where counts are about 10 or more, 12 % at counts of 2.
    """
    mu, variance, k3 = np.asarray(blind_4xM, np.float64)[:3]
    sd = np.sqrt(np.maximum(variance, 1e-12))
    low = max(int(np.floor((mu - 5 * sd)[np.argmax(mu)])), 0)
    high = min(int(np.ceil((mu + 9 * sd).max())) + 1, n)
    near = mu + 9 * sd >= low  # others are never the largest
    if high <= low:
        return float(high), 0.0
    x = np.unique(np.append(np.arange(low, high, -(-(high - low) // 64)), high - 1))
    z = (x[:, None] + 0.5 - mu[None, near]) / sd[None, near]
    skew = np.where(variance > 1e-12, k3, 0.0)[None, near] / sd[None, near] ** 3
    cdf = np.clip(scipy.special.ndtr(z) + skew * (1 - z**2) * np.exp(-(z**2) / 2) / (6 * np.sqrt(2 * np.pi)), 0.0, 1.0)
    with np.errstate(divide="ignore"):
        all_below = np.interp(np.arange(low, high), x, np.exp(np.log(cdf).sum(1)))
    first = high - all_below.sum()
    second = high**2 - ((2 * np.arange(low, high) + 1) * all_below).sum()
    return float(first), float(np.sqrt(max(second - first**2, 0.0)))


def normal_band(value: np.ndarray, spread_SxT: np.ndarray, used: np.ndarray, scopes: pooling.Scopes, low=-np.inf):
    """(value, lo, hi) of a mean over matrices of independent normal statistics with standard deviations `spread`."""
    count = pooling.total(np.ones(used.shape), used, scopes)
    half = _Z * divide(np.sqrt(pooling.total(spread_SxT**2, used, scopes)), count)
    return value, np.maximum(value - half, low), value + half


@dataclass(frozen=True)
class Stripes:
    """Row and column ratios of the visible mask, their dispersion, and how stable they are from step to step."""

    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "weight.stripes"
    version: str = "1"
    definition: str = "arXiv:2511.08567 section 2.2, with a closed-form blind law"
    metrics: tuple[str, ...] = METRICS
    needs: frozenset[base.Need] = frozenset({base.WEIGHTS0, base.WEIGHTS})

    def cost(self, ctx: base.Context) -> base.Cost:
        """Passes over every matrix, with what the two histograms (scatters) and the gather cost counted as passes."""
        sizes = [4.0 * np.prod(w.shape) for w in ctx[base.WEIGHTS].values()]
        return base.Cost(streamed=_PASSES * sum(sizes), held=8 * max(sizes) + 2 * sum(sizes))

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """No state."""
        del ctx, key
        return {}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values): name -> `profile`; deterministic, so `key` is not read."""
        return state, by_matrix.each(profile, ctx[base.WEIGHTS0], ctx[base.WEIGHTS])

    def arrays(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Profiles by tensor: row_ratio, col_ratio [S, m]; blind_row, blind_col [S, L, 2, m], mean and variance of a blind
        ratio under each law; table [S, L, C], class_counts [S, C] of `profile`.
        """
        out = by_matrix.flat(values, ("table", "class_counts"))
        for tensor, fields in values.items():
            sizes = {"row": fields["count_col"].shape[-1], "col": fields["count_row"].shape[-1]}
            for axis, n in sizes.items():
                blind = np.asarray(fields[f"blind_{axis}"], np.float64)[:, :, :2] / np.asarray([n, n**2])[:, None]
                ratio = np.asarray(fields[f"count_{axis}"], np.float64) / n
                broken = np.asarray(fields["n_nonfinite"]) > 0
                out[f"{axis}_ratio/{tensor}"] = np.where(broken[:, None], np.nan, ratio).astype(np.float32)
                out[f"blind_{axis}/{tensor}"] = blind.astype(np.float32)
        return out

    def finalize(self, values: Mapping[str, Any], state: dict, *, infos: Sequence[TensorInfo], arm: str, step: int,
                 seeds: Sequence[int], conditional_on: str | None,
                 row_ids: Callable[[dict], Sequence[str]]) -> dict[str, np.ndarray]:
        """Rows of cv, excess and max_over_mean of both sides."""
        scopes = pooling.scopes_of(infos)
        table = RowTable(scopes, seeds, {"arm": arm, "step": step, "conditional_on": conditional_on})
        nothing = np.stack([(np.asarray(values[i.name]["count_row"]) == 0).all(-1) for i in infos], 1)
        states = by_matrix.state(by_matrix.stacked(values, infos, "n_nonfinite"), nothing)
        kind = by_matrix.kinds("magnitude_conditioned", "law_range", by_matrix.stacked(values, infos, "bf16"), scopes)
        for side, axis, across in zip(SIDES, ("row", "col"), (1, 0)):
            profiles = [(np.asarray(values[i.name][f"count_{axis}"]), np.asarray(values[i.name][f"blind_{axis}"], np.float64),
                         i.shape[across]) for i in infos]
            laws = [[dispersion(count, cumulants[:, law], n) for count, cumulants, n in profiles]
                    for law in range(len(visibility.LAWS))]
            add_dispersion(table, side, laws, states, kind)
            _add_largest(table, side, profiles, states, kind)
        return table.columns(row_ids)

    def across(self, series: Mapping[int, Mapping[str, np.ndarray]], *, infos: Sequence[TensorInfo], arm: str,
               seeds: Sequence[int], conditional_on: str | None,
               row_ids: Callable[[dict], Sequence[str]]) -> dict[str, np.ndarray]:
        """Rows of stability between measured steps (`by_matrix.pairs`); series is step -> `arrays`."""
        scopes, parts = pooling.scopes_of(infos), []
        for earlier, later in by_matrix.pairs(series):
            table = RowTable(scopes, seeds, {"arm": arm, "step": later, "conditional_on": conditional_on})
            for side, axis, across in zip(SIDES, ("row", "col"), (1, 0)):
                _add_stability(table, side, axis, across, series[earlier], series[later], infos, f"from={earlier}")
            parts.append(table.columns(row_ids))
        return by_matrix.concatenate(parts)


def add_dispersion(table: RowTable, side: str, laws: Sequence[Sequence[Dispersion]], states: np.ndarray,
                   kind: np.ndarray) -> None:
    """Append cv and excess of one side; `laws` holds, for each blind law, one `Dispersion` a matrix, the primary law first."""
    scopes, used = table.scopes, states == OK
    status, reason = pooling.statuses(states, scopes, "")
    stacked = [{name: np.stack([getattr(d, name) for d in of_law], 1) for name in Dispersion.__dataclass_fields__}
               for of_law in laws]

    def pooled(x):
        return by_matrix.settled(mean(x, used, scopes), status)

    common, first = {"floor": 0.0, "num_err": 0.0, "dtype": "bf16", "side": side}, stacked[0]
    null = pooling.union([normal_band(pooled(x["cv_blind"]), x["cv_spread"], used, scopes, low=0.0) for x in stacked])
    row = table.add("weight.stripes.cv", pooled(first["cv"]), status, reason, null=(kind, *null), **common)
    table.add_null(row, "independence", pooled(first["cv_independent"]), None, None)
    null = pooling.union([normal_band(pooled(first["excess"] - x["excess"]), x["excess_spread"], used, scopes)
                          for x in stacked])
    table.add("weight.stripes.excess", pooled(first["excess"]), status, reason, null=(kind, *null), **common)


def _add_largest(table: RowTable, side: str, profiles, states: np.ndarray, kind: np.ndarray) -> None:
    scopes, used = table.scopes, states == OK
    status, reason = pooling.statuses(states, scopes, "")
    value = np.stack([divide(count.max(-1), count.mean(-1)) for count, _, _ in profiles], 1)
    bands = []
    for law in range(len(visibility.LAWS)):
        expected = np.full((2, *states.shape), np.nan)
        for s, t in np.argwhere(used):
            cumulants, n = profiles[t][1][s, law], profiles[t][2]
            expected[:, s, t] = np.asarray(largest(cumulants, n)) / max(cumulants[0].mean(), 1e-300)
        bands.append(normal_band(mean(expected[0], used, scopes), expected[1], used, scopes, low=1.0))
    value = by_matrix.settled(mean(value, used, scopes), status)
    table.add("weight.stripes.max_over_mean", value, status, reason, null=(kind, *pooling.union(bands)), floor=0.0,
              num_err=0.0, dtype="bf16", side=side)


def _add_stability(table: RowTable, side: str, axis: str, across: int, before, after, infos, params: str) -> None:
    scopes = table.scopes
    length_T = np.asarray([info.shape[1 - across] for info in infos])
    stable, broken = [], []
    for info in infos:
        names = [f"{name}/{info.name}" for name in (f"{axis}_ratio", f"blind_{axis}", "table")]
        r0, blind0, p0, r1, blind1, p1 = (np.asarray(x[name], np.float64) for x in (before, after) for name in names)
        once = np.asarray(before[f"class_counts/{info.name}"], np.float64)[:, None]
        kept = ((np.minimum(p0, p1) - p0 * p1) * once).sum(-1) / (np.prod(info.shape) * info.shape[across])
        stable.append([[stability(r0[s], blind0[s, law], r1[s], blind1[s, law], kept[s, law])
                        for law in range(len(visibility.LAWS))] for s in range(len(r0))])
        broken.append(~np.isfinite(r0).all(-1) | ~np.isfinite(r1).all(-1))
    value, independent, nested = np.moveaxis(np.asarray(stable), (0, 1, 2, 3), (2, 1, 3, 0))  # [S, T, L] each
    states = by_matrix.state(np.stack(broken, 1), np.isnan(value[..., 0]), length_T < 4)
    used = states == OK
    status, reason = pooling.statuses(states, scopes, _TOO_SHORT)
    reason[status == "degenerate"] = "a profile is constant"
    deviation = 1.03 / np.sqrt(np.maximum(length_T - 3.0, 1.0))[None, :]
    low, high = mean(independent, used, scopes), mean(nested, used, scopes)
    lo = np.min([normal_band(low[..., law], deviation * (1 - independent[..., law] ** 2), used, scopes, low=-1.0)[1]
                 for law in range(low.shape[-1])], axis=0)
    hi = np.max([normal_band(high[..., law], deviation * (1 - nested[..., law] ** 2), used, scopes)[2]
                 for law in range(low.shape[-1])], axis=0)
    row = table.add("weight.stripes.stability", by_matrix.settled(mean(value[..., 0], used, scopes), status), status, reason,
                    null=("blind_nested", high[..., 0], lo, np.minimum(hi, 1.0)), floor=0.0, num_err=0.0,
                    dtype="bf16", side=side, params=params)
    table.add_null(row, "blind_independent", low[..., 0], None, None)


def stability(r0_M, blind0_2xM, r1_M, blind1_2xM, shared: float) -> np.ndarray:
    """(Spearman correlation of two profiles, what independent blind masks expect, what nested blind masks expect).

    With e, s the blind means and variances of the ratios, Pearson's correlation is expected at
    (cov(e0, e1) + c) / sqrt((var e0 + mean s0)(var e1 + mean s1)): c = 0 for independent masks; for a later mask that
    contains the earlier one, c = `shared` = mean_i sum_j [min(p0, p1) - p0 p1] / n^2, the most two masks can share.
    NaN where a profile is constant or shorter than 4.
    """
    if len(r0_M) < 4 or np.ptp(r0_M) == 0 or np.ptp(r1_M) == 0 or not np.isfinite([r0_M, r1_M]).all():
        return np.full(3, np.nan)
    (e0, s0), (e1, s1) = blind0_2xM, blind1_2xM
    total = np.sqrt((e0.var() + s0.mean()) * (e1.var() + s1.mean()))
    covariance = np.mean((e0 - e0.mean()) * (e1 - e1.mean()))
    pearson = np.clip(divide(np.asarray([covariance, covariance + shared]), np.full(2, total)), -1.0, 1.0)
    return np.concatenate([[scipy.stats.spearmanr(r0_M, r1_M).statistic], 6 / np.pi * np.arcsin(pearson / 2)])


catalog.add(
    __name__,
    catalog.Entry("weight.stripes", "whether some rows or columns change more often than a blind update's would", Stripes),
    catalog.Statistic(
        "stripes", "Stripes of the update mask", ("weight.stripes",),
        "Whether whole rows or columns change more than others: cv is their spread, excess what is left of it after the blind "
        "update's own spread; stability says whether the same rows stay ahead.",
        "Rows of small weights change more often under any update: cv alone is not structure, excess is. The largest of many "
        "rows is large by itself.",
        "spread of row ratios of a blind update and of one with planted rows",
        extremes={
            "weight.stripes.cv": ("some rows or columns change more, as those of small weights do", "all change alike"),
            "weight.stripes.excess": ("rows differ more than a blind update's", "0: they do not"),
            "weight.stripes.max_over_mean": ("one row changes far more than the mean", "1: all change alike"),
            "weight.stripes.stability": ("the same rows stay ahead", "0: the earlier order says nothing"),
        }),
)
