"""Consensus of the visible masks of several runs from one base: how many runs change the same entry?

C_ij = (1/R) sum_r M^(r)_ij over R seeds (arXiv:2511.08567 2.2). Blind runs already agree on small weights: the baseline is
Poisson-binomial over runs at each entry, with the visibility probabilities p_i^r of `visibility`; one value a class, so
the expected histogram of the number of runs is exact, without draws. Plain independence (one density a run) is the further
null. (The mean pairwise Jaccard is `cross_seed`.)

The delete-one-seed jackknife reads the share of entries in round(j (R - 1) / R) of R - 1 runs: none stays none, all stays
all. "All" of R - 1 is a larger share than of R; only the spread of the deleted values enters the interval, whose centre is
the value of all R.

Legend: R runs (seeds), M rows, N columns, J = R + 1 numbers of runs, C scopes, T matrices, K visibility classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import stats
from jaxpost.probes import base, catalog, schedules
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.rows.pooling import NAN, OK, mean, total
from jaxpost.probes.updates import stripes
from jaxpost.probes.weights import by_matrix, visibility
from jaxpost.probes.weights.cross_seed import estimate_columns
from jaxpost.probes.weights.panel import SIDES

PNT = "The Path Not Taken, arXiv:2511.08567 2.2"
_ALGORITHM = "integer bit patterns; Poisson-binomial recursion over runs, one value a visibility class"
_JACKKNIFE = "delete-one-seed jackknife, t"
CONSENSUS = (
    base.Metric("weight.consensus.share", "share of entries that exactly j of R runs change visibly: params runs=j;of=R (0: no "
                "run, R: every run)", "1", PNT, "magnitude_conditioned: Poisson-binomial over runs with p_i^r; independence a "
                "further row", "ratio of sums", _ALGORITHM, ci_method=_JACKKNIFE),
    base.Metric("weight.consensus.stripes", "cv^2 of the row (left) or column (right) means of C, minus the blind runs' "
                "expected cv^2", "1", PNT + " (reconstructed: the sheet gives heat maps)", "0, with the exact spread of "
                "independent blind runs; independence (one binomial density, minus the same expectation) a further row",
                "mean over matrices", _ALGORITHM, ci_method=_JACKKNIFE),
)
base.register(*CONSENSUS)
METRICS = tuple(metric.id for metric in CONSENSUS)


def pack(mask: jax.Array) -> jax.Array:
    """Bits of a mask in row-major order, 32 a word: i32[ceil(size / 32)]. `unpack` undoes it."""
    padded = jnp.pad(mask.ravel(), (0, -mask.size % 32))
    return jax.lax.bitcast_convert_type(jnp.packbits(padded).reshape(-1, 4), jnp.int32)


def unpack(words: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The mask of `pack`, on the host: words i32[..., W] -> bool[..., *shape]."""
    octets = np.ascontiguousarray(words, "<i4").view(np.uint8)
    bits = np.unpackbits(octets, axis=-1, count=int(np.prod(shape)))
    return bits.reshape(*bits.shape[:-1], *shape).astype(bool)


def run_counts(p_Rx: np.ndarray) -> np.ndarray:
    """Law of the number of runs that see an entry, from its probability in each: p f64[R, ...] -> f64[R + 1, ...].

    Poisson-binomial: one convolution with (1 - p_r, p_r) a run.
    """
    law = np.zeros((len(p_Rx) + 1, *p_Rx.shape[1:]))
    law[0] = 1.0
    for p in p_Rx:
        law[1:] = law[1:] * (1 - p) + law[:-1] * p
        law[0] *= 1 - p
    return law


def histogram(mask_RxMxN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entries by the number of runs that change them, f64[J], and the same without each run in turn, f64[R, R]."""
    runs = len(mask_RxMxN)
    seen = mask_RxMxN.sum(0)
    counts = np.bincount(seen.ravel(), minlength=runs + 1)
    without = []
    for mask in mask_RxMxN:
        inside = np.bincount(seen[mask], minlength=runs + 1)
        without.append((counts - inside)[:runs] + inside[1:])
    return counts.astype(np.float64), np.asarray(without, np.float64)


def jackknife(value: np.ndarray, without_R: np.ndarray) -> stats.Interval:
    """The value with the interval of its delete-one values (leading axis R): se^2 = (R - 1)/R sum (theta_-i - mean)^2, t.

    Ends NaN below three runs. Equal to the t interval of the pseudo-values, centred on the value.
    """
    runs = len(without_R)
    if runs < 3:
        return stats.Interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    pseudo = stats.t_interval(np.moveaxis(runs * value[None] - (runs - 1) * without_R, 0, -1))
    half = (pseudo.hi - pseudo.lo) / 2
    return stats.Interval(value, value - half, value + half)


@dataclass(frozen=True)
class Consensus:
    """Masks of single runs, kept bit-packed; the rows are made once an arm is finished, over all its seeds."""

    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=1)
    lane: str = "sidecar"
    id: str = "weight.consensus"
    version: str = "1"
    definition: str = "arXiv:2511.08567 section 2.2, with a Poisson-binomial blind law"
    metrics: tuple[str, ...] = METRICS
    needs: frozenset[base.Need] = frozenset({base.WEIGHTS0, base.WEIGHTS})

    def cost(self, ctx: base.Context) -> base.Cost:
        """That of `stripes.Stripes` and one more pass for the packed mask."""
        sizes = [4.0 * np.prod(w.shape) for w in ctx[base.WEIGHTS].values()]
        return stripes.Stripes().cost(ctx) + base.Cost(streamed=2 * sum(sizes), held=8 * max(sizes) + 2.1 * sum(sizes))

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """No state."""
        del ctx, key
        return {}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values): name -> `stripes.profile` and "mask", the `pack`ed visible mask. `key` is not read."""

        def one(w0, w1):
            visible = ~visibility.same_value(visibility.bf16_codes(w0), visibility.bf16_codes(w1))
            return stripes.profile(w0, w1) | {"mask": pack(visible)}

        return state, by_matrix.each(one, ctx[base.WEIGHTS0], ctx[base.WEIGHTS])

    def arrays(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """"statistic/tensor" -> array [S, ...]: the packed masks and what `across` compares them with."""
        return by_matrix.flat(values, ("mask", "table", "class_counts", "blind_row", "blind_col", "n_nonfinite", "bf16"))

    def finalize(self, values: Mapping[str, Any], state: dict, **meta: Any) -> dict[str, np.ndarray]:
        """No rows: one run has no consensus. See `across`."""
        del values, state, meta
        return dict(by_matrix.NO_ROWS)

    def across(self, series: Mapping[int, Mapping[str, np.ndarray]], *, infos: Sequence[TensorInfo], arm: str,
               seeds: Sequence[int], conditional_on: str | None,
               row_ids: Callable[[dict], Sequence[str]]) -> dict[str, np.ndarray]:
        """Rows of role "estimate" at every measured step; series is step -> `arrays` of all seeds of the arm."""
        parts = []
        for step in sorted(series):
            by_tensor = by_matrix.regroup(series[step])
            constant = {"arm": arm, "step": step, "conditional_on": conditional_on}
            parts += _step_rows([by_tensor[info.name] for info in infos], infos, len(seeds), constant, row_ids)
        return by_matrix.concatenate(parts)


def _step_rows(measured: Sequence[Mapping[str, np.ndarray]], infos, runs: int, constant: dict, row_ids) -> list[dict]:
    """Rows of every metric at one step."""
    scopes = pooling.scopes_of(infos)
    masks = [unpack(x["mask"], info.shape) for x, info in zip(measured, infos)]
    if any(len(mask) != runs for mask in masks):
        raise ValueError(f"consensus: arrays hold {len(masks[0])} runs; expected the {runs} seeds of the arm")
    broken = np.asarray([np.asarray(x["n_nonfinite"]).sum() > 0 for x in measured])
    bf16 = np.asarray([[np.asarray(x["bf16"]).all() for x in measured]])
    kind = by_matrix.kinds("magnitude_conditioned", "law_range", bf16, scopes)[0]
    rows = _shares(measured, masks, scopes, broken, kind, constant, row_ids)
    for side, axis in zip(SIDES, (0, 1)):
        rows.append(_stripes(side, axis, measured, masks, infos, scopes, broken, kind, constant, row_ids))
    return rows


def _few(runs: int, status: np.ndarray, reason: np.ndarray) -> bool:
    """Say that one run has no consensus; whether that is so."""
    if runs < 2:
        status[:], reason[:] = "absent", "one run has no consensus"
    return runs < 2


def _shares(measured, masks, scopes, broken, kind, constant, row_ids) -> list[dict]:
    runs, used = len(masks[0]), np.ones((1, len(masks)), bool)

    def pooled(x_Tx):
        return total(np.asarray(x_Tx, np.float64)[None], used, scopes)[0]

    n_C = pooled([mask[0].size for mask in masks])[:, None]
    counted = [histogram(mask) for mask in masks]
    observed_CxJ = pooled([counts for counts, _ in counted]) / n_C
    without_CxRxR = pooled([without for _, without in counted]) / n_C[:, None]
    bands = []
    for law in range(len(visibility.LAWS)):
        expected, variance = [], []
        for x in measured:
            p_JxK, once_K = run_counts(np.asarray(x["table"], np.float64)[:, law]), np.asarray(x["class_counts"][0], np.float64)
            expected.append(p_JxK @ once_K)
            variance.append((p_JxK * (1 - p_JxK)) @ once_K)
        bands.append(pooling.around(pooled(expected) / n_C, np.sqrt(pooled(variance)) / n_C))
    null = pooling.union(bands)
    density_RxC = (pooled([mask.mean((1, 2)) * mask[0].size for mask in masks]) / n_C).T
    independent_CxJ = run_counts(density_RxC).T
    status, reason = (x[0] for x in pooling.statuses(np.where(broken, NAN, OK)[None], scopes, ""))
    few = _few(runs, status, reason)
    rows = []
    for j in range(runs + 1):
        deleted_RxC = without_CxRxR[:, :, round(j * (runs - 1) / runs)].T
        value = np.full(len(status), np.nan) if few else np.where(status == "ok", observed_CxJ[:, j], np.nan)
        rows.append(estimate_columns(
            scopes, constant | {"metric": "weight.consensus.share", "params": f"of={runs};runs={j}"}, runs,
            jackknife(value, deleted_RxC), status, reason, (kind, *(x[:, j] for x in null)),
            ("independence", independent_CxJ[:, j]), row_ids))
    return rows


def _stripes(side, axis, measured, masks, infos, scopes, broken, kind, constant, row_ids) -> dict:
    """Excess dispersion of the means of C: counts over runs against the summed cumulants of independent blind runs."""
    runs = len(masks[0])
    name = ("blind_row", "blind_col")[axis]
    laws, deleted = [[] for _ in visibility.LAWS], []
    for x, mask, info in zip(measured, masks, infos):
        count_RxM, blind_RxLx4xM = mask.sum(2 - axis), np.asarray(x[name], np.float64)
        n = info.shape[1 - axis]
        for law, whole in enumerate(laws):
            whole.append(stripes.dispersion(count_RxM.sum(0)[None], blind_RxLx4xM[:, law].sum(0)[None], n * runs))
        one_Rx4xM = blind_RxLx4xM[:, 0]
        deleted.append(stripes.dispersion(count_RxM.sum(0)[None] - count_RxM, one_Rx4xM.sum(0)[None] - one_Rx4xM,
                                          n * max(runs - 1, 1)).excess)
    changed = np.asarray([mask.any() for mask in masks])
    states = by_matrix.state(broken[None] * 1.0, ~changed[None])
    used = states == OK
    status, reason = (x[0] for x in pooling.statuses(states, scopes, ""))
    few = _few(runs, status, reason)
    excess = [np.stack([d.excess for d in whole], 1) for whole in laws]
    value = np.where((status == "ok") & (not few), mean(excess[0], used, scopes)[0], np.nan)
    deleted_RxC = mean(np.stack(deleted, 1), np.repeat(used, runs, 0), scopes)
    null = pooling.union([stripes.normal_band(mean(excess[0] - x, used, scopes), np.stack([d.excess_spread for d in whole], 1),
                                              used, scopes) for x, whole in zip(excess, laws)])
    plain = [d.cv_independent[0] ** 2 - d.cv_blind[0] ** 2 for d in laws[0]]
    return estimate_columns(
        scopes, constant | {"metric": "weight.consensus.stripes", "side": side, "params": f"of={runs}"}, runs,
        jackknife(value, deleted_RxC), status, reason, (kind, *(x[0] for x in null)),
        ("independence", mean(np.asarray(plain)[None], used, scopes)[0]), row_ids)


catalog.add(
    __name__,
    catalog.Entry("weight.consensus", "which entries how many of the runs change", Consensus),
    catalog.Statistic(
        "consensus", "Consensus of runs", ("weight.consensus",),
        "The share of entries that exactly j of R runs change. Above the blind law at j = 0 and j = R: runs agree on where.",
        "With few runs everything is 0 or R; entries with small weights are changed by all blind runs together.",
        "how many of eight runs change an entry: planted agreement against the blind laws",
        extremes={
            "weight.consensus.stripes": ("runs agree on rows or columns more than blind runs", "0: they do not"),
        }),
)
