"""Entries that training ever changed against those that differ from the base at the end: what came back was cancelled.

An entry is counted as changed when its bf16 value changes (+0 equals -0; a NaN that stays the same bits does not change).

    net     bf16(w_t) differs from bf16(w_0)
    ever    some optimizer step up to t changed bf16(w); the same set as "bf16(w) ever differed from bf16(w_0)": before its
            first change an entry equals the base, after it it does not
    cancelled   ever and not net

Every tensor counts, gains and biases as well; `weight.sparsity.bf16` is of matrices alone. The net sparsity of the tensors
that are counted here is weight.sparsity.ever + weight.cancelled.

The masks of `ever` are one bit an entry, part of the train state: reductions of two values that the step has, which change
no parameter. A run that goes on from a checkpoint without them starts them anew, and its rows say from which step.

Legend: n entries of the last axis, T tensors in the order of `gradients.sums.inventory`, S seeds, C scopes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.probes import base, catalog, schedules
from jaxpost.probes.base import Metric, register
from jaxpost.probes.gradients import rows as gradient_rows
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.inventory import TensorInfo

ITEM = "ever_changed"  # of the probe state
EVER = base.Need("probe_state", (("item", ITEM),))  # {"mask": packed bits shaped like the parameters, "since": step}
_PULSE = "arXiv:2602.03839 (per-step changes of the bf16 cast), arXiv:2505.11711"
_COUNT = "bits set in every optimizer step where the bf16 cast changes, one an entry; integer counts, exact"
_NULL = ("none: how often blind steps return to the base's rounding cell depends on how they correlate in time, which neither "
         "end of the path fixes; compare with net over the same tensors, which is weight.sparsity.ever + weight.cancelled")

METRICS = (
    Metric("weight.sparsity.ever", "share of entries whose bf16 value no optimizer step changed", "1", _PULSE, _NULL,
           "ratio of sums", _COUNT),
    Metric("weight.cancelled", "share of entries whose bf16 value some step changed and that equal the base again", "1", _PULSE,
           _NULL, "ratio of sums", _COUNT),
)
register(*METRICS)


def pack(bits: jax.Array) -> jax.Array:
    """bool [..., n] -> uint8 [..., ceil(n / 8)]: bit j of byte i is entry 8 i + j; what is left over is zero."""
    bits = bits.reshape(1) if bits.ndim == 0 else bits
    n = bits.shape[-1]
    size = -(-n // 8)
    padded = jnp.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, 8 * size - n)]).reshape(*bits.shape[:-1], size, 8)
    weight = jnp.arange(8, dtype=jnp.uint8).reshape((1,) * (padded.ndim - 1) + (8,))
    return (padded.astype(jnp.uint8) << weight).sum(axis=-1, dtype=jnp.uint8)


def unpack(packed: np.ndarray, n: int) -> np.ndarray:
    """bool [..., n] of `pack`; host side."""
    return np.unpackbits(np.asarray(packed), axis=-1, count=n, bitorder="little").astype(bool)


def changed(before: jax.Array, after: jax.Array) -> jax.Array:
    """Whether the bf16 cast of each entry changed."""
    a, b = before.astype(jnp.bfloat16), after.astype(jnp.bfloat16)
    same_bits = jax.lax.bitcast_convert_type(a, jnp.uint16) == jax.lax.bitcast_convert_type(b, jnp.uint16)
    return (a != b) & ~same_bits


def start(params: Any, step: jax.Array | int = 0) -> dict:
    """The probe state of parameters that nothing has changed yet; `step` is where the watch begins."""
    def zeros(x):
        n = x.shape[-1] if x.ndim else 1
        return jnp.zeros((*x.shape[:-1], -(-n // 8)), jnp.uint8)

    return {ITEM: {"mask": jax.tree.map(zeros, params), "since": jnp.asarray(step, jnp.int32)}}


def changes(before: Any, after: Any) -> Any:
    """Packed bits of every tensor: the entries whose bf16 cast a step changed.

    What counts them counts bits: comparing casts within a sum takes ten times as long on CPU (28M entries: 100, not 10 ms).
    """
    return jax.tree.map(lambda x, y: pack(changed(x, y)), before, after)


def how_many(packed: Any) -> jax.Array:
    """Bits set in all tensors, float32."""
    return sum(jax.lax.population_count(x).sum(axis=-1, dtype=jnp.int32).astype(jnp.float32).sum()
               for x in jax.tree.leaves(packed))


def mark(state: dict, changed_in_step: Any) -> dict:
    """The probe state after one optimizer step with these `changes`."""
    seen = state[ITEM]
    return {**state, ITEM: {**seen, "mask": jax.tree.map(jnp.bitwise_or, seen["mask"], changed_in_step)}}


def _count(packed: Any) -> jax.Array:
    """Bits set in each tensor, [T] int32."""
    parts = []
    for path, x in jax.tree_util.tree_leaves_with_path(packed):
        ones = jax.lax.population_count(x).astype(jnp.int32)
        parts.append(ones.sum(axis=tuple(range(1 if gradient_sums.is_stacked(path) else 0, x.ndim))).reshape(-1))
    return jnp.concatenate(parts)


@dataclass(frozen=True)
class EverChanged:
    """Rows of sparsity in the ever-changed sense and of the cancelled share, for every tensor, kind, layer, body and model."""

    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = ITEM
    version: str = "1"
    definition: str = "bits of every bf16 change since the start, against the net change"
    metrics: tuple[str, ...] = tuple(metric.id for metric in METRICS)
    needs: frozenset[base.Need] = frozenset({base.PARAMS0, base.PARAMS, EVER})

    def __post_init__(self):
        if self.lane != "sidecar":
            raise ValueError(f"EverChanged runs in lane sidecar: only a training run has the masks; found {self.lane!r}")

    def cost(self, ctx: base.Context) -> base.Cost:
        """Both parameter trees and the masks are read once, the packed net change is written."""
        entries = sum(x.size for x in jax.tree.leaves(ctx[base.PARAMS]))
        return base.Cost(streamed=8.0 * entries + entries / 4, held=entries / 4)

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """No state of its own: the masks are the run's."""
        del ctx, key
        return {}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, counts of entries ever changed, cancelled and not finite, [T], and the step from which on)."""
        del key
        seen, first = ctx[EVER], {name: x for name, x in ctx[base.PARAMS0].items() if name in ctx[base.PARAMS]}
        now = {name: ctx[base.PARAMS][name] for name in first}
        mask = {name: seen["mask"][name] for name in first}
        net = jax.tree.map(lambda x, y: pack(changed(x, y)), first, now)
        cancelled = jax.tree.map(lambda m, x: m & ~x, mask, net)
        broken = gradient_sums.per_tensor(jax.tree.map(lambda x: (~jnp.isfinite(x)).astype(jnp.float32), now))
        return state, {"ever_T": _count(mask), "cancelled_T": _count(cancelled), "nonfinite_T": broken, "since": seen["since"]}

    def finalize(self, values: Mapping[str, Any], state: dict, *, infos: Sequence[TensorInfo], arm: str, step: int,
                 seeds: Sequence[int], conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]]) -> dict[str, Any]:
        """Columns of measurement rows. Raises: ValueError when values, seeds and infos do not fit together."""
        wanted = (len(seeds), len(infos))
        if np.shape(values["ever_T"]) != wanted:
            raise ValueError(f"values have [seeds, tensors] = {np.shape(values['ever_T'])}; expected {wanted}")
        scopes = gradient_rows.scopes_of(infos)
        table = pooling.RowTable(scopes, seeds, {"arm": arm, "step": step, "conditional_on": conditional_on})
        every = np.ones(wanted, bool)
        entries = pooling.total(np.broadcast_to([float(np.prod(info.shape)) for info in infos], wanted), every, scopes)
        state_SxT = np.where(np.asarray(values["nonfinite_T"]) > 0, pooling.NAN, pooling.OK)
        status, reason = pooling.statuses(state_SxT, scopes, "")
        late = (np.asarray(values["since"])[:, None] > 0) & (status == "ok")
        status[late] = "unresolved"
        since = [f"watched from step {int(s)} on only" for s in values["since"]]
        reason = np.where(late, np.asarray(since, object)[:, None], reason)
        ever, cancelled = (pooling.total(np.asarray(values[name], np.float64), every, scopes) / entries
                           for name in ("ever_T", "cancelled_T"))
        for metric, value in (("weight.sparsity.ever", 1 - ever), ("weight.cancelled", cancelled)):
            table.add(metric, value, status, reason, dtype="bf16", num_err=0.0)
        return table.columns(row_ids)


catalog.add(
    __name__,
    catalog.Entry("ever_changed", "which entries training changed and brought back", EverChanged),
    catalog.Statistic(
        "ever_changed", "Changed and brought back", ("weight.sparsity.ever", "weight.cancelled"),
        "The share of entries that no step ever changed in bf16, and of those that changed and equal the base again: what a "
        "comparison of two checkpoints cannot see.",
        "Every optimizer with noise brings entries back; there is no honest null, so compare arms at one learning rate and one "
        "number of steps.",
        "net and ever-changed share of entries along a random walk",
        extremes={
            "weight.sparsity.ever": ("no step ever moved most entries in bf16", "most entries were moved at some step"),
            "weight.cancelled": ("many entries moved and came back, as optimizer noise makes them", "what moved stayed moved"),
        }),
)
