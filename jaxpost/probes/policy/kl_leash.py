"""Gate I of "The Path Not Taken" as a measured quantity: the KL leash.

For a small step d, KL(pi_theta0 || pi_{theta0 + d}) = d'Fd / 2 + O(|d|^3), so a policy whose measured KL is K may have
gone at most sqrt(d'Fd) = sqrt(2 K) (1 + o(1)) in the Fisher metric (Prop. 3.2). Both sides are measured on the same fixed
rows with the whole Fisher: their ratio is 1 where the step is small and says how far from that it is. Where ratios are
clipped to [1 - e_low, 1 + e_high], one update keeps KL <= E[T] max(-log(1 - e_low), log(1 + e_high)) (Lemma F.9).

Legend: m rows of the probe batch, T positions, V vocabulary, S seeds, D null draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import stats
from jaxpost.probes import base, catalog, schedules, tracing
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.policy import example_rows
from jaxpost.probes.policy.fisher import Predict, squared_length
from jaxpost.probes.rows.pooling import RowTable, divide

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
base.register(*LEASH)
UNIT_ROUNDOFF = 2.0**-24


def divergence(logits_TxV: jax.Array, other_TxV: jax.Array, mask_T: jax.Array) -> jax.Array:
    """sum_t KL(softmax(logits) || softmax(other)), as sum_v p (e^x - 1 - x), x = log q - log p: no term is negative.

    Where x > 1 the term is q - p (1 + x), so that e^x cannot overflow beside a p that is 0 in float32.
    """
    logp, logq = jax.nn.log_softmax(logits_TxV), jax.nn.log_softmax(other_TxV)
    x = logq - logp
    series = x * x * (0.5 + x * (1 / 6 + x * (1 / 24 + x / 120)))
    p, factor = jnp.exp(logp), jnp.where(jnp.abs(x) < 0.05, series, jnp.expm1(jnp.minimum(x, 1.0)) - x)
    return (jnp.where(x > 1, jnp.exp(logq) - p * (1 + x), p * factor).sum(axis=-1) * mask_T).sum()


def clip_bound(low: float, high: float) -> float:
    """Most KL that one token adds in an update whose ratios stay in [1 - low, 1 + high]. Lemma F.9, there with low = high."""
    return max(-np.log1p(-low), np.log1p(high))


def _random_like(direction: Any, key: jax.Array) -> Any:
    """A Gaussian direction with the norm of every tensor of `direction` (of every layer of a stacked leaf)."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(direction)
    parts = []
    for i, (path, d) in enumerate(leaves):
        axes = tuple(range(1 if gradient_sums.is_stacked(path) else 0, d.ndim))
        g = jax.random.normal(jax.random.fold_in(key, i), d.shape, d.dtype)
        parts.append(g * jnp.sqrt((d**2).sum(axes, keepdims=True) / (g**2).sum(axes, keepdims=True)))
    return jax.tree.unflatten(tree, parts)


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

        values = example_rows.of_examples(row_of, None, rows, self.microbatch)

        def null(key):
            direction = _random_like(moved, key)
            return example_rows.of_examples(lambda _, row: squared_length(self.predict, params0, row, direction), None, rows,
                                            self.microbatch)

        return values | {"null2_DxM": jax.lax.map(null, jax.random.split(key, self.null_draws))}

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
        interval = example_rows.jackknife(lambda a, b: np.sqrt(divide(a, 2 * b)), v["length2_m"], v["reverse_m"])
        still, buried = v["reverse_m"].mean(-1) == 0, v["reverse_m"].mean(-1) <= v["stored_m"].mean(-1)
        broken = np.isnan(interval.value) & ~still
        status = np.select([still, broken, buried], ["degenerate", "nan", "unresolved"], "ok").astype(object)
        reasons = ["the policy is the base on these rows", "the policy's logits are not finite",
                   "KL is not above that of rounding the policy to bf16"]
        reason = np.select([still, broken, buried], np.asarray(reasons, object), None)
        example_rows.add(table, "gate.leash.ratio", interval, m, null=("quadratic", 1.0, None, None), status=status,
                         reason=reason)


catalog.add(
    __name__,
    catalog.Entry("gate.leash", "how the KL that was spent compares with the update's length in the Fisher metric", KLLeash,
                  ("predict",)),
    catalog.Statistic(
        "gate_leash", "Gate I: the KL leash", ("gate.leash",),
        "Measured KL against half the update's squared length in the whole Fisher metric: a ratio of 1 is a small step, and "
        "says how far the leash idea holds.",
        "The probe rows' prefixes are fixed: KL on the policy's own samples is another number. A ratio near 1 says that the "
        "step is small, not that a leash made it so.",
        "ratio of length to sqrt(2 KL) as the step grows",
        extremes={
            "gate.leash.ratio": (
                "above 1: the quadratic overstates the KL",
                "1: a small step; below: the quadratic understates it"),
            "gate.leash.kl": ("the policy is far from the base on the probe rows", "it is near"),
        }),
)
