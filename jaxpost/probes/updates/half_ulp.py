"""Gate III of "The Path Not Taken" as a measured quantity: visibility of an update by half an ULP.

A stored weight changes where the float32 update passes half an ULP of the entry. The share that does is
1 - `weight.sparsity.bf16`; here are the shares beyond 2^j half ULPs (how far from visible the rest is), and the share at
which an update of the same shape is visible when its median entry is as large as the median half ULP: free of size.

Gate I is in `policy.kl_leash`. Gate II (curvature) is not measured here.

Legend: S seeds, C visibility classes, J thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.probes import base, catalog, schedules
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.rows.pooling import RowTable, divide, total
from jaxpost.probes.weights import by_matrix, visibility

PNT = "The Path Not Taken, arXiv:2511.08567"
_BLIND = ("halfulp_permuted: the matrix's own float32 update over its entries in another order, in closed form "
          "(law_range where masters are bf16), 95 %")
HALF_ULP = (
    base.Metric("gate.ulp.beyond", "share of entries with |d| beyond 2^log2 half ULPs of the bf16 code of the entry (params "
                "log2, since: which checkpoint d starts from)", "1", PNT + " Gate III", _BLIND, "ratio of sums",
                "exact powers of two, ties to even"),
    base.Metric("gate.ulp.size_free", "share of entries with c |d| beyond half an ULP, c = median half ULP / median |d| of the "
                "matrix", "1", PNT + " Gate III (size removed: jaxpost)", _BLIND, "ratio of sums",
                "medians over all entries; ties to even"),
    base.Metric("gate.ulp.median", "median |d| / median half ULP of the matrix", "1", PNT + " Gate III", "none: a size",
                "mean over matrices", "medians over all entries"),
)
base.register(*HALF_ULP)


def beyond(d: jax.Array, codes: jax.Array) -> jax.Array:
    """Where an update passes the rounding boundary on its side of a bf16 number; a tie goes to the even code: bool."""
    h_plus, h_minus = visibility.half_ulps(codes)
    size, h = jnp.abs(d), jnp.where(d >= 0, h_plus, h_minus)
    return (size > h) | ((size == h) & ((codes & 1) == 1))


def _rounded(law: str, sigma: jax.Array, threshold: jax.Array) -> jax.Array:
    """P(an update of a law, rounded to bf16 on its entry, is beyond `threshold` half ULPs) by class: f32[C].

    A rounded update is r whole ULPs, and r of them or more are reached from 2 r - 1 half ULPs on: r is the smallest whole
    number with 2 r > threshold (2 r = threshold will do where ties count, odd codes). Neglects that ULPs change where the
    update crosses a power of two.
    """
    odd_C = (visibility.representatives() & 1) == 1
    least_C = jnp.maximum(jnp.where(odd_C, jnp.ceil(threshold / 2), jnp.floor(threshold / 2) + 1), 1.0)
    at_even, at_odd = (visibility.visibility_law(law, sigma / (2 * r - 1)) for r in (least_C[0], least_C[1]))
    return jnp.where(odd_C, at_odd, at_even)


def half_ulp_counts(w0: jax.Array, w1: jax.Array, shifts: tuple[int, ...]) -> dict[str, jax.Array]:
    """Counts beyond 2^j half ULPs, with the mean and variance of a blind update: [J + 1], the size-free threshold last.

    Returns `count` i32; `expected`, `variance` f32[J + 1, L], one a law; `median` |d| over median
    half ULP; `n_nonfinite`, `bf16` i32.
    """
    codes, d = visibility.bf16_codes(w0), jnp.where(jnp.isfinite(w1), w1 - w0, 0.0)
    median = jnp.median(jnp.abs(d)) / jnp.median(visibility.half_ulps(codes)[0])
    scales = jnp.concatenate([2.0 ** -jnp.asarray(shifts, jnp.float32), 1 / jnp.where(median > 0, median, 1.0)[None]])
    counts_C, bf16 = visibility.class_counts(codes), by_matrix.bf16_master(w1)
    density = jnp.mean(beyond(d, codes), dtype=jnp.float32)
    sigma_L = visibility.calibrate(counts_C, density)

    def at(scale):
        own = visibility.visibility_empirical(visibility.update_histogram(d * scale), d.size)
        laws = jnp.stack([_rounded(law, sigma_L[i], 1 / scale) for i, law in enumerate(visibility.LAWS)])
        p_LxC = jnp.where(jnp.any(d != 0), jnp.where(bf16, laws, own[None]), 0.0)
        n_C = counts_C.astype(jnp.float32)[None]
        return {"count": jnp.sum(beyond(d * scale, codes), dtype=jnp.int32), "expected": jnp.sum(p_LxC * n_C, axis=1),
                "variance": jnp.sum(p_LxC * (1 - p_LxC) * n_C, axis=1)}

    return jax.lax.map(at, scales) | {"median": median, "bf16": bf16.astype(jnp.int32),
                                      "n_nonfinite": jnp.sum(~jnp.isfinite(w1), dtype=jnp.int32)}


@dataclass(frozen=True)
class HalfULP:
    """Gate III: how far the entries of an update are from the half ULP that makes them visible.

    `before` is where the update starts: the base (accumulated), or a need that hands the weights of an earlier step, such as
    Need("weights", (("checkpoint", "previous"),)) for a single step. A threshold of 0 is a row only in that second case:
    from the base it is 1 - `weight.sparsity.bf16`.
    """

    before: base.Need = base.WEIGHTS0
    shifts: tuple[int, ...] = (-4, -2, -1, 0, 1, 2, 4)  # thresholds 2^j half ULPs
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "gate.ulp"
    version: str = "1"
    definition: str = "arXiv:2511.08567 Gate III, |dW| against half an ULP of each entry"
    metrics: tuple[str, ...] = tuple(metric.id for metric in HALF_ULP)

    def __post_init__(self):
        if self.lane not in ("sidecar", "offline"):
            raise ValueError(f"HalfULP runs in lane sidecar or offline; found {self.lane!r}")
        if self.before.kind != "weights" or self.before == base.WEIGHTS:
            raise ValueError(f"HalfULP.before needs the weights of an earlier checkpoint; found {base.need_label(self.before)}")
        if len(set(self.shifts)) != len(self.shifts) or not all(isinstance(j, int) and abs(j) <= 20 for j in self.shifts):
            raise ValueError(f"HalfULP.shifts are distinct integers in [-20, 20]; found {self.shifts}")

    @property
    def needs(self) -> frozenset[base.Need]:
        """The two checkpoints."""
        return frozenset({self.before, base.WEIGHTS})

    @property
    def _shifts(self) -> tuple[int, ...]:
        return tuple(j for j in self.shifts if j != 0 or self.before != base.WEIGHTS0)

    def cost(self, ctx: base.Context) -> base.Cost:
        """Two sorts of 20 passes, and a histogram and a count (6 passes) a threshold; one group of shapes is stacked.

        The calibration adds 40 halvings of the laws over the classes (20 passes each) a matrix, whatever its size.
        """
        sizes = [4.0 * math.prod(w.shape) for w in ctx[base.WEIGHTS].values()]
        calibration = 40 * len(visibility.LAWS) * visibility.CLASSES * 4.0 * 20 * len(sizes)
        return base.Cost(streamed=(40 + 6 * (len(self._shifts) + 1)) * sum(sizes) + calibration,
                         held=8 * max(sizes) + 2 * sum(sizes))

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """No state."""
        del ctx, key
        return {}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values): name -> `half_ulp_counts`; deterministic, so `key` is not read."""
        del key
        return state, by_matrix.each(lambda a, b: half_ulp_counts(a, b, self._shifts), ctx[self.before], ctx[base.WEIGHTS])

    def finalize(self, values: Mapping[str, Any], state: dict, *, infos: Sequence[TensorInfo], arm: str, step: int,
                 seeds: Sequence[int], conditional_on: str | None,
                 row_ids: Callable[[dict], Sequence[str]]) -> dict[str, np.ndarray]:
        """Rows of every matrix, kind, body and the model."""
        del state
        scopes = pooling.scopes_of(infos)
        table = RowTable(scopes, seeds, {"arm": arm, "step": step, "conditional_on": conditional_on})
        v = {name: by_matrix.stacked(values, infos, name)
             for name in ("count", "expected", "variance", "median", "n_nonfinite", "bf16")}
        for name in ("count", "expected", "variance"):
            broken = v["n_nonfinite"] > 0
            v[name] = np.where(broken.reshape(broken.shape + (1,) * (v[name].ndim - 2)), np.nan, v[name])
        n = np.broadcast_to([float(np.prod(info.shape)) for info in infos], v["median"].shape)
        kind = by_matrix.kinds("halfulp_permuted", "law_range", v["bf16"], scopes)
        since, dtypes = f"since={dict(self.before.params)['checkpoint']}", by_matrix.dtypes(v["bf16"])
        sized = by_matrix.state(v["n_nonfinite"], v["median"] == 0)
        anyhow = by_matrix.state(v["n_nonfinite"], np.zeros(n.shape, bool))
        rows = [("gate.ulp.beyond", f"log2={j};{since}", anyhow) for j in self._shifts] + [("gate.ulp.size_free", since, sized)]
        for i, (metric, params, states) in enumerate(rows):
            used = states != pooling.DEGENERATE
            status, reason = _statuses(states, scopes)
            over = total(n, used, scopes)
            count, expected, variance = (total(v[x][:, :, i], used, scopes) for x in ("count", "expected", "variance"))
            deviation = divide(np.sqrt(np.maximum(variance, 0.0)), over[..., None])
            null = pooling.over_laws(pooling.around(divide(expected, over[..., None]), deviation))
            table.add(metric, divide(count, over), status, reason, null=(kind, *null), floor=0.0, num_err=0.0, dtype=dtypes,
                      params=params)
        status, reason = _statuses(sized, scopes)
        median = np.where(sized == pooling.NAN, np.nan, v["median"])
        table.add("gate.ulp.median", pooling.mean(median, sized != pooling.DEGENERATE, scopes), status, reason, floor=0.0,
                  dtype=dtypes, params=since)
        return table.columns(row_ids)


def _statuses(states: np.ndarray, scopes: pooling.Scopes) -> tuple[np.ndarray, np.ndarray]:
    """Statuses and reasons; a zero median is named as what it is."""
    status, reason = pooling.statuses(states, scopes, "")
    named = [None if text is None else text.replace(pooling.NO_UPDATE, "half of the entries or more did not move")
             for text in reason.ravel()]
    return status, np.asarray(named, object).reshape(reason.shape)


catalog.add(
    __name__,
    catalog.Entry("gate.ulp", "how far updates lie from what bf16 can see", HalfULP),
    catalog.Statistic(
        "gate_ulp", "Gate III: half an ULP", ("gate.ulp",),
        "The share of entries beyond 2^j half ULPs: how far from visible the rest is; size_free removes the size of the "
        "update.",
        "Small weights have small ULPs: visibility follows the weights as much as the update. Compare with a Gaussian of the "
        "same size.",
        "share of a blind update beyond multiples of half an ULP",
        extremes={
            "gate.ulp.beyond": ("many entries are beyond that many half ULPs", "few are"),
            "gate.ulp.size_free": ("many entries would be visible at this size", "few would"),
            "gate.ulp.median": ("above 1: a typical entry moves by more than half an ULP", "below 1: by less"),
        }),
)
