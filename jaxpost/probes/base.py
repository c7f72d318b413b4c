"""The one contract of a measurement: what a probe needs, when it runs, what its numbers mean.

A probe is a frozen dataclass. Its `measure` is jit-pure with fixed shapes and runs in one of three lanes:
  inline   reductions whose inputs exist in the train step; always compiled in
  sidecar  a separate program between steps, on a fixed probe batch; the training executable never changes
  offline  the same `measure`, fed by the checkpoint streamer
A weight-only probe runs unmodified in sidecar and offline and gives the same value in both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax

from jaxpost import lookup
from jaxpost.probes import domains

LANES = ("inline", "sidecar", "offline")
POOLINGS = (
    "ratio of sums",  # counts, or energies weighted by ||dW||^2
    "quadrature",  # root of the sum of squares
    "mean over matrices",  # unweighted
    "sum over matrices",
    "mean over pairs of seeds, ratio of sums over matrices",
    "mean over prompts",
    "mean over examples",
    "mean over tokens",
    "none",
)


@dataclass(frozen=True)
class Need:
    """One thing a probe wants to be handed. Two needs are the same need only if they are equal in every field.

    `kind` names a field of `Context`; `params` are sorted (name, value) pairs such as (("batch", "id-256"),).
    """

    kind: str
    params: tuple[tuple[str, Any], ...] = ()


WEIGHTS0 = Need("weights", (("checkpoint", "base"),))  # name -> f32[m, n]: every matrix of the base, on the bf16 grid
WEIGHTS = Need("weights", (("checkpoint", "current"),))  # name -> f32[m, n]: every matrix of the policy, masters upcast
PARAMS0 = Need("params", (("checkpoint", "base"),))  # the whole pytree, float32
PARAMS = Need("params", (("checkpoint", "current"),))
PROBE_BATCH = Need("probe_batch")  # rows fixed before the run, the same for every arm, seed and step
HISTORY = Need("history")  # name -> [steps]: what the train step reported since the last boundary of a compiled call


def need_label(need: Need) -> str:
    """A need as texts and tables name it: `weights/base`."""
    return "/".join([need.kind, *(str(value) for _, value in need.params)])


@dataclass(frozen=True)
class Cost:
    """Predicted price of one measurement of one policy, from shapes alone."""

    products: float = 0.0  # floating-point operations in matrix products
    factorisations: float = 0.0  # floating-point operations in SVD, QR and eigenproblems: slower each
    streamed: float = 0.0  # bytes read and written by element-wise passes
    held: float = 0.0  # bytes in memory at the peak, beyond the inputs

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.products + other.products, self.factorisations + other.factorisations,
                    self.streamed + other.streamed, max(self.held, other.held))


@dataclass(frozen=True)
class Context:
    """Read-only inputs of `measure`: exactly the declared needs, keyed by `Need`."""

    given: dict[Need, Any]

    def __getitem__(self, need: Need) -> Any:
        if need not in self.given:
            known = ", ".join(sorted(need_label(n) for n in self.given)) or "nothing"
            raise KeyError(f"probe asked for {need_label(need)} but was given {known}: declare the need")
        return self.given[need]


jax.tree_util.register_pytree_node(
    Context,
    lambda ctx: (tuple(ctx.given.values()), tuple(ctx.given)),
    lambda needs, values: Context(dict(zip(needs, values, strict=True))),
)


@runtime_checkable
class Probe(Protocol):
    """What a probe must have.

    `state` is the probe's own pytree (references, running sums), a checkpoint item of its own. `key` is derived
    from the run key, the probe id and the step; it never consumes the training stream. Probes of one id with schedules
    that never meet are settings of one statistic: the first makes the state and all read it.

    An inline probe's reductions are part of the train step: its values are the history, [S, steps] a name.

    Optional members:
      stream: name of the key's stream; then every step and arm of a seed has the same key.
      cost_of_init(ctx) -> Cost: price of `init`, where it is not small beside `measure`.
      at_base: True if what the base itself reads is a measurement (arm "base", step 0).
      arrays(values) -> {name: array}: what is worth keeping, leading axis over seeds; stored by the caller.
      across(series, *, infos, arm, seeds, conditional_on, row_ids) -> columns: once an arm is finished, from
        {step: arrays of all seeds}.
    """

    id: str
    version: str
    definition: str
    metrics: tuple[str, ...]  # ids in METRICS of the rows it gives
    needs: frozenset[Need]
    lane: str
    schedule: Callable[[int], bool]

    def cost(self, ctx: Context) -> Cost:
        """Price of one `measure`; the leaves of `ctx` are ShapeDtypeStructs."""

    def init(self, ctx: Context, key: jax.Array) -> Any:
        """State before the first measurement."""

    def measure(self, ctx: Context, state: Any, key: jax.Array) -> tuple[Any, Any]:
        """(state, values): jit-pure, fixed shapes, float32 or int32 leaves, no host effects."""

    def finalize(self, values: Any, state: Any, **meta: Any) -> dict[str, Any]:
        """Host side: columns of measurement rows."""


def merge_needs(probes: Iterable[Probe]) -> frozenset[Need]:
    """Every distinct need of several probes, so that each is computed once."""
    return frozenset().union(*(probe.needs for probe in probes))


@dataclass(frozen=True)
class Metric:
    """What is constant for a metric id; written once to `metrics.parquet`. A changed number is a new version."""

    id: str
    definition: str  # the formula
    unit: str
    paper: str
    null: str  # the primary null model
    pooling: str  # one of POOLINGS: how matrices (prompts, tokens) combine
    algorithm: str
    ci_method: str = "t over seeds"
    higher_is_better: bool | None = None
    version: str = "1"
    domain: str = ""  # where its values lie, as `records.domains.ends` reads it; empty: as `probes.domains` has it


METRICS: dict[str, Metric] = {}


def register(*metrics: Metric) -> None:
    """Add metrics to `METRICS`. Raises: ValueError for an id that is taken or a pooling nobody implements."""
    for metric in metrics:
        if metric.pooling not in POOLINGS:
            raise ValueError(f"metric {metric.id!r}: pooling {metric.pooling!r} is none of {POOLINGS}")
        whole = metric if metric.domain else dataclasses.replace(metric, domain=domains.of(metric.id))
        lookup.register("metric", metric.id, whole, METRICS)


def metric(name: str) -> Metric:
    """Look a metric up. Raises: ValueError that names the nearest id."""
    return lookup.find("metric", name, METRICS)
