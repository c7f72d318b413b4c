"""Two gates of "The Path Not Taken" as measured quantities: the KL leash (I) and visibility by half an ULP (III).

Gate I. For a small step d, KL(pi_theta0 || pi_{theta0 + d}) = d'Fd / 2 + O(|d|^3), so a policy whose measured KL is K may have
gone at most sqrt(d'Fd) = sqrt(2 K) (1 + o(1)) in the Fisher metric (Prop. 3.2). Both sides are measured on the same fixed
rows with the whole Fisher: their ratio is 1 where the step is small and says how far from that it is. Where ratios are
clipped to [1 - e_low, 1 + e_high], one update keeps KL <= E[T] max(-log(1 - e_low), log(1 + e_high)) (Lemma F.9).

Gate III. A stored weight changes where the float32 update passes half an ULP of the entry. The share that does is
1 - `weight.sparsity.bf16`; here are the shares beyond 2^j half ULPs (how far from visible the rest is), and the share at
which an update of the same shape is visible when its median entry is as large as the median half ULP: free of size.

Gate II (curvature) is not measured here.

Legend: m rows of the probe batch, T positions, V vocabulary, S seeds, D null draws, C visibility classes, J thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import stats
from jaxpost.probes import base, by_matrix, example_rows, gradient_sums, pooling, schedules, tracing, visibility
from jaxpost.probes.fisher import Predict, squared_length
from jaxpost.probes.panel import TensorInfo
from jaxpost.probes.pooling import RowTable, divide, total

PNT = "The Path Not Taken, arXiv:2511.08567"
_FIXED = "teacher forcing on the probe batch, sequence sums"
LEASH = (
    base.Metric("gate.leash.kl", "mean over probe rows of sum_t KL(pi || pi0) (params direction=reverse) or KL(pi0 || pi) "
                "(forward), full vocabulary, prefixes of the rows", "nat", PNT + " Prop. 3.2",
                "quadratic: d'Fd / 2 with the whole Fisher of the base", "mean over examples",
                _FIXED + "; sum_v p (e^x - 1 - x), x = log q - log p; noise floor: KL of the policy to its bf16 cast",
                ci_method="t over probe rows"),
    base.Metric("gate.leash.fisher_length", "sqrt(d'Fd), d = theta - theta0, F the whole Fisher of the base", "1",
                PNT + " Prop. 3.2", "isotropic: random directions with the norm of every tensor, mean and range of the draws",
                "mean over examples", _FIXED + "; one forward derivative of the logits a row; noise floor: the displacement of "
                "the policy by its bf16 cast", ci_method="delete-one-row jackknife"),
    base.Metric("gate.leash.ratio", "sqrt(d'Fd) / sqrt(2 KL(pi || pi0))", "1", PNT + " Prop. 3.2", "quadratic: 1",
                "mean over examples", _FIXED, ci_method="delete-one-row jackknife"),
    base.Metric("gate.leash.clip_bound", "E[T] max(-log(1 - e_low), log(1 + e_high)): bound of the KL of one update whose "
                "ratios are clipped, T target positions a probe row", "nat", PNT + " Lemma F.9",
                "none: a bound of one update, not of the distance from the base", "mean over examples", "closed form",
                ci_method="t over probe rows"),
)
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
base.register(*LEASH, *HALF_ULP)
UNIT_ROUNDOFF = 2.0**-24


def divergence(logits_TxV: jax.Array, other_TxV: jax.Array, mask_T: jax.Array) -> jax.Array:
    """sum_t KL(softmax(logits) || softmax(other)), as sum_v p (e^x - 1 - x), x = log q - log p: no term is negative."""
    logp, logq = jax.nn.log_softmax(logits_TxV), jax.nn.log_softmax(other_TxV)
    x = logq - logp
    series = x * x * (0.5 + x * (1 / 6 + x * (1 / 24 + x / 120)))
    term = jnp.where(jnp.abs(x) < 0.05, series, jnp.expm1(x) - x)
    return ((jnp.exp(logp) * term).sum(axis=-1) * mask_T).sum()


def clip_bound(low: float, high: float) -> float:
    """Most KL that one token adds in an update whose ratios stay in [1 - low, 1 + high]. Lemma F.9, there with low = high."""
    return max(-np.log1p(-low), np.log1p(high))


def _random_like(direction: Any, key: jax.Array) -> Any:
    """A Gaussian direction with the norm of every tensor of `direction` (of every layer of a stacked leaf)."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(direction)
    found = []
    for i, (path, d) in enumerate(leaves):
        axes = tuple(range(1 if gradient_sums.is_stacked(path) else 0, d.ndim))
        g = jax.random.normal(jax.random.fold_in(key, i), d.shape, d.dtype)
        found.append(g * jnp.sqrt((d**2).sum(axes, keepdims=True) / (g**2).sum(axes, keepdims=True)))
    return jax.tree.unflatten(tree, found)


@dataclass(frozen=True)
class KLLeash:
    """Gate I: the KL that a policy spent against the length that the Fisher metric gives its update, on the probe batch.

    `predict` is the policy (`fisher.Predict`). `clip` = (e_low, e_high) of a ratio-clipping objective, where it is known.
    """

    predict: Predict
    clip: tuple[float, float] | None = None
    null_draws: int = 4  # random directions
    microbatch: int = 8  # rows at once
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "gate.leash"
    version: str = "1"
    definition: str = "arXiv:2511.08567 Prop. 3.2 and Lemma F.9 on the probe batch"
    needs: frozenset[base.Need] = frozenset({base.PARAMS0, base.PARAMS, base.PROBE_BATCH})

    def __post_init__(self):
        if self.lane != "sidecar":
            raise ValueError(f"KLLeash runs in lane sidecar (it needs a probe batch); found {self.lane!r}")
        if min(self.null_draws, self.microbatch) < 1:
            raise ValueError(f"KLLeash needs null_draws and microbatch >= 1; found {self.null_draws}, {self.microbatch}")
        if self.clip is not None and not (0 < self.clip[0] < 1 and self.clip[1] > 0):
            raise ValueError(f"KLLeash.clip is (e_low, e_high) with 0 < e_low < 1 and e_high > 0; found {self.clip}")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Ids of its rows: the bound only where the clip is known."""
        return tuple(m.id for m in LEASH if m.id != "gate.leash.clip_bound" or self.clip is not None)

    def cost(self, ctx: base.Context) -> base.Cost:
        """Three forward passes and 2 + D forward derivatives of every row, counted from `predict` itself."""
        return tracing.traced(lambda *x: self._values(*x, jax.random.key(0)), ctx[base.PARAMS0], ctx[base.PARAMS],
                              ctx[base.PROBE_BATCH])

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """No state. Refuses, before any run, a probe batch that the microbatch or `predict` does not fit."""
        jax.eval_shape(self._values, ctx[base.PARAMS0], ctx[base.PARAMS0], ctx[base.PROBE_BATCH], key)
        return {}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values): per-row divergences and squared lengths."""
        return state, self._values(ctx[base.PARAMS0], ctx[base.PARAMS], ctx[base.PROBE_BATCH], key)

    def _values(self, params0, params1, rows, key) -> dict[str, jax.Array]:
        params0, params1 = gradient_sums.wide(params0), gradient_sums.wide(params1)
        cast = jax.tree.map(lambda w: w.astype(jnp.bfloat16).astype(w.dtype), params1)
        moved, rounded = (jax.tree.map(lambda a, b: b - a, *ends) for ends in ((params0, params1), (params1, cast)))

        def row_of(_, row):
            before, now, stored = (self.predict(p, row) for p in (params0, params1, cast))
            z0, z1, z2, mask = before.logits_TxV, now.logits_TxV, stored.logits_TxV, before.mask_T
            return {"reverse_m": divergence(z1, z0, mask), "forward_m": divergence(z0, z1, mask),
                    "stored_m": divergence(z1, z2, mask), "tokens_m": mask.sum().astype(z0.dtype),
                    "largest_m": jnp.abs(jax.nn.log_softmax(z0) * mask[:, None]).max(),
                    "length2_m": squared_length(self.predict, params0, row, moved),
                    "stored2_m": squared_length(self.predict, params0, row, rounded)}

        found = example_rows.of_examples(row_of, None, rows, self.microbatch)

        def null(key):
            direction = _random_like(moved, key)
            return example_rows.of_examples(lambda _, row: squared_length(self.predict, params0, row, direction), None, rows,
                                            self.microbatch)

        return found | {"null2_DxM": jax.lax.map(null, jax.random.split(key, self.null_draws))}

    def finalize(self, values: Mapping[str, Any], state: dict, *, infos: Any = None, arm: str, step: int, seeds: Sequence[int],
                 conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]]) -> dict[str, np.ndarray]:
        """Rows of granularity "policy"; `infos` is not read. Values have a leading axis over seeds."""
        del infos, state
        v = {name: np.where(np.isfinite(x), x, np.nan) for name, x in values.items()}
        v = {name: x.astype(np.float64) for name, x in v.items()}
        if len(v["length2_m"]) != len(seeds):
            raise ValueError(f"values of {len(v['length2_m'])} seeds; expected {len(seeds)}")
        table = example_rows.policy_table(arm=arm, step=step, seeds=seeds, conditional_on=conditional_on)
        m = v["tokens_m"].shape[-1]
        mean = {name: x.mean(-1) for name, x in v.items()}
        largest = v["largest_m"].max(-1)
        for direction in ("reverse", "forward"):
            x_SxM = v[f"{direction}_m"]
            error = np.sqrt(2 * mean[f"{direction}_m"] * mean["tokens_m"]) * 4 * UNIT_ROUNDOFF * (1 + largest)
            example_rows.add(table, "gate.leash.kl", stats.t_interval(x_SxM), m, params=f"direction={direction}",
                             null=("quadratic", mean["length2_m"] / 2, None, None), floor=mean["stored_m"],
                             num_err=error[:, None], broken="the policy's logits are not finite")
        length = example_rows.jackknife(np.sqrt, v["length2_m"])
        drawn = np.sqrt(mean["null2_DxM"])
        example_rows.add(table, "gate.leash.fisher_length", length, m, floor=np.sqrt(mean["stored2_m"]),
                         null=("isotropic", drawn.mean(-1), drawn.min(-1), drawn.max(-1)))
        self._add_ratio(table, v, m)
        if self.clip is not None:
            example_rows.add(table, "gate.leash.clip_bound", stats.t_interval(v["tokens_m"] * clip_bound(*self.clip)), m,
                             params=f"high={self.clip[1]:g};low={self.clip[0]:g}")
        return table.columns(row_ids)

    @staticmethod
    def _add_ratio(table: RowTable, v: Mapping[str, np.ndarray], m: int) -> None:
        """sqrt(mean d'Fd / (2 mean KL)): degenerate where nothing moved, unresolved where KL is below its floor."""
        found = example_rows.jackknife(lambda a, b: np.sqrt(divide(a, 2 * b)), v["length2_m"], v["reverse_m"])
        still, buried = v["reverse_m"].mean(-1) == 0, v["reverse_m"].mean(-1) <= v["stored_m"].mean(-1)
        broken = np.isnan(found.value) & ~still
        status = np.select([still, broken, buried], ["degenerate", "nan", "unresolved"], "ok").astype(object)
        reasons = ["the policy is the base on these rows", "the policy's logits are not finite",
                   "KL is not above that of rounding the policy to bf16"]
        reason = np.select([still, broken, buried], np.asarray(reasons, object), None)
        example_rows.add(table, "gate.leash.ratio", found, m, null=("quadratic", 1.0, None, None), status=status, reason=reason)


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
            raise ValueError(f"HalfULP.before needs the weights of an earlier checkpoint; found {base.said(self.before)}")
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
            status, reason = _said(states, scopes)
            over = total(n, used, scopes)
            count, expected, variance = (total(v[x][:, :, i], used, scopes) for x in ("count", "expected", "variance"))
            deviation = divide(np.sqrt(np.maximum(variance, 0.0)), over[..., None])
            null = pooling.over_laws(pooling.around(divide(expected, over[..., None]), deviation))
            table.add(metric, divide(count, over), status, reason, null=(kind, *null), floor=0.0, num_err=0.0, dtype=dtypes,
                      params=params)
        status, reason = _said(sized, scopes)
        median = np.where(sized == pooling.NAN, np.nan, v["median"])
        table.add("gate.ulp.median", pooling.mean(median, sized != pooling.DEGENERATE, scopes), status, reason, floor=0.0,
                  dtype=dtypes, params=since)
        return table.columns(row_ids)


def _said(states: np.ndarray, scopes: pooling.Scopes) -> tuple[np.ndarray, np.ndarray]:
    """Statuses and reasons; a zero median is named as what it is."""
    status, reason = pooling.statuses(states, scopes, "")
    named = [None if text is None else text.replace(pooling.NO_UPDATE, "half of the entries or more did not move")
             for text in reason.ravel()]
    return status, np.asarray(named, object).reshape(reason.shape)
