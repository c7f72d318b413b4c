"""Routing and pathways of a Mixture of Experts on a probe batch: the probe.

`measure` keeps small arrays of every sample (mean full probabilities, top-k experts, entropy, loss) and the inner products of
router vectors; everything else is made of them on the host. Definitions: `pathways` (arXiv:2506.21551), `routing.load`
(arXiv:2409.02060), `events`.

Legend: S seeds, N samples, L layers with a router, T positions, E routed experts, k experts a token, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.probes import base, catalog, schedules, tracing
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.routing import load as router_load
from jaxpost.probes.routing import metrics as routing_metrics
from jaxpost.probes.routing import pathways
from jaxpost.probes.routing import rows as routing_rows
from jaxpost.probes.routing import taps as router_taps
from jaxpost.probes.routing import trajectory as routing_trajectory
from jaxpost.probes.routing.taps import RouterTap

_HIGHEST = jax.lax.Precision.HIGHEST
_CELL = 40.0  # bytes read and written a cell of an edit distance's table


class Routed(NamedTuple):
    """What a caller's `route(params, examples)` gives: routing and outcome of every example."""

    logits_NxLxTxE: jax.Array  # float32, before any softmax
    mask_NxT: jax.Array  # > 0: tokens that count; padding never does
    loss_N: jax.Array  # float32, mean over the example's target tokens
    correct_N: jax.Array  # 1 if the example is answered correctly, else 0
    label_N: jax.Array | None = None  # int: task or domain of the example, for specialisation


Route = Callable[[Any, Any], Routed]


def stacked_router(params: Any) -> jax.Array | None:
    """Router matrices [L, D, E] of parameters stacked by layer, as `models` declares them; None where there are none."""
    layers = params.get("layers") if isinstance(params, Mapping) else None
    return layers.get("router") if isinstance(layers, Mapping) else None


@dataclass(frozen=True)
class Routing:
    """Routing of the probe batch's examples.

    `route(params, examples) -> Routed`; `vectors(params) -> f32[L, D, E] | None` gives the router's vector of every expert,
    which only `pathway.cosine` and `pathway.consistency_c_paper` need.

    Raises:
      ValueError: a setting out of range; from `init` and `finalize`, routing that cannot be measured.
    """

    route: Route
    top: int = 2  # k: experts a token
    threshold: float = pathways.THRESHOLD
    eps: float = 0.5  # memorised: loss at most this (the paper tunes 1.5 to 2.0 on language)
    delta: float = 0.05  # and at most this far from the last loss
    ridge: float = 1.0  # lambda of the complexity
    pairs: int = 8192  # of samples, at most
    draws: int = 8  # of nulls without a closed form
    dense: tuple[int, ...] = ()  # layers of the model without a router: their rows are absent
    microbatch: int | None = None  # examples at once; None: all
    split: str | None = None  # of the probe batch, for the rows
    vectors: Callable[[Any], jax.Array | None] = stacked_router
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "routing"
    version: str = "1"
    definition: str = "arXiv:2506.21551 (pathways, events), arXiv:2409.02060 (load, saturation)"
    metrics: tuple[str, ...] = tuple(metric.id for metric in routing_metrics.METRICS)
    needs: frozenset[base.Need] = frozenset({base.PARAMS, base.PROBE_BATCH})

    def __post_init__(self):
        if self.lane != "sidecar":
            raise ValueError(f"Routing runs in lane sidecar (it needs a probe batch); found {self.lane!r}")
        if not 0 < self.threshold < 1 or min(self.eps, self.delta, self.ridge) <= 0:
            raise ValueError(f"Routing needs 0 < threshold < 1 and eps, delta, ridge > 0; found threshold={self.threshold}, "
                             f"eps={self.eps}, delta={self.delta}, ridge={self.ridge}")
        if min(self.top, self.pairs, self.draws) < 1 or len(set(self.dense)) < len(self.dense):
            raise ValueError(f"Routing needs top, pairs, draws >= 1 and distinct dense layers; found top={self.top}, "
                             f"pairs={self.pairs}, draws={self.draws}, dense={self.dense}")

    def cost(self, ctx: base.Context) -> base.Cost:
        """The traced program (the route is the caller's), and the cells of the edit distances' tables on the host.

        A table has at most a uniform router's lengths as its sides, and is filled for the pairs, for every layer alone, and
        again, for a quarter of the pairs, with every draw of two nulls.
        """
        params, examples = ctx[base.PARAMS], ctx[base.PROBE_BATCH]
        N, L, _, E = jax.eval_shape(self.route, params, examples).logits_NxLxTxE.shape
        cells = min(N * (N - 1) / 2, self.pairs) * (L * (self.threshold * E + 1)) ** 2 * (1 + 1 / L) * (1 + self.draws / 2)
        return tracing.traced(self._values, params, examples) + base.Cost(streamed=_CELL * cells)

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """No state. Refuses, before any run, a route whose shapes or values cannot be measured. Raises: ValueError."""
        del key
        params, examples = ctx[base.PARAMS], ctx[base.PROBE_BATCH]
        routed = jax.eval_shape(self.route, params, examples)
        _check_shapes(routed, self.top)
        _check_vectors(routed, jax.eval_shape(self.vectors, params))
        if self.microbatch is not None:
            jax.eval_shape(lambda rows: gradient_sums.microbatches(rows, self.microbatch), examples)
        routing_rows.check(jax.tree.map(lambda x: np.asarray(x)[None], jax.jit(self._values)(params, examples)), initial=True)
        return {}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values): of every sample `probs_NxLxE`, `entropy_NxL`, `top_NxLxTxk` (-1 where a token does not count),
        `tied_NxL`, `tokens_N`, `loss_N`, `correct_N`; of the router `gram_LxExE`, `cross_LxExE` and `width`."""
        del key
        return state, self._values(ctx[base.PARAMS], ctx[base.PROBE_BATCH])

    def _values(self, params: Any, examples: Any) -> dict[str, jax.Array]:
        def reduced(rows):
            return reduce(self.route(params, rows), self.top)

        if self.microbatch is None:
            values = reduced(examples)
        else:
            rows = gradient_sums.microbatches(examples, self.microbatch)
            values = jax.tree.map(gradient_sums.in_order, jax.lax.map(reduced, rows))
        vectors = self.vectors(params)
        return values if vectors is None else values | inner_products(vectors)

    def arrays(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """What trajectories need, leading axis seeds: mean probabilities, top-k experts, loss, correct, and the router;
        beside them the raw co-activation counts `together_LxExE`, over all pairs and samples."""
        kept = {name: np.asarray(x) for name, x in values.items() if name not in ("suspect_NxL", "entropy_NxL")}
        experts = kept["probs_NxLxE"].shape[-1]
        together = [[router_load.together(top, experts).sum(0) for top in own.swapaxes(0, 1)] for own in kept["top_NxLxTxk"]]
        return kept | {"top_NxLxTxk": kept["top_NxLxTxk"].astype(np.int16), "together_LxExE": np.asarray(together, np.int32)}

    def finalize(self, values: Mapping[str, Any], state: dict, *, infos: Any = None, arm: str, step: int, seeds: Sequence[int],
                 conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]]) -> dict[str, np.ndarray]:
        """Rows of one step, layers and the whole model; `infos` is not read. Values have a leading axis over seeds.

        Raises: ValueError when values and seeds do not fit together, or the logits were softmaxed already.
        """
        del infos, state
        values = {name: np.asarray(x) for name, x in values.items()}
        if len(values["loss_N"]) != len(seeds):
            raise ValueError(f"values of {len(values['loss_N'])} seeds; expected {len(seeds)}")
        routing_rows.check(values)
        table = routing_rows.table(self, values, arm=arm, step=step, seeds=seeds, conditional_on=conditional_on)
        return table.columns(row_ids)

    def across(self, series: Mapping[int, Mapping[str, np.ndarray]], *, infos: Any = None, arm: str, seeds: Sequence[int],
               conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]]) -> dict[str, np.ndarray]:
        """Rows of every step that need the trajectory: events, pathways over memorised samples, saturation.

        Args: series: step -> `arrays`, leading axis seeds; infos: not read.
        """
        del infos
        return routing_trajectory.rows(self, series, arm=arm, seeds=seeds, conditional_on=conditional_on, row_ids=row_ids)


def reduce(routed: Routed, top: int) -> dict[str, jax.Array]:
    """Per-sample statistics of a microbatch; see `Routing.measure`. Float32, tokens that do not count are never read."""
    counted_NxT = routed.mask_NxT > 0
    here = counted_NxT[:, None, :, None]
    logits = jnp.where(here, routed.logits_NxLxTxE.astype(jnp.float32), 0.0)
    probs = router_taps.probabilities(RouterTap("logits", logits), counted_NxT[:, None]) * here
    tokens_N = counted_NxT.sum(-1)
    share_N = 1.0 / jnp.maximum(tokens_N, 1).astype(jnp.float32)
    entropy = -jnp.where(probs > 0, probs * jax.nn.log_softmax(logits, axis=-1), 0.0).sum(-1)
    ranked, index = jax.lax.top_k(logits, min(top + 1, logits.shape[-1]))
    values = {
        "probs_NxLxE": probs.sum(2) * share_N[:, None, None],
        "entropy_NxL": entropy.sum(2) * share_N[:, None],
        "top_NxLxTxk": jnp.where(here, index[..., :top], -1).astype(jnp.int32),
        "tied_NxL": _tied(ranked, top, counted_NxT),
        "suspect_NxL": router_taps.suspects(logits, counted_NxT),
        "tokens_N": tokens_N.astype(jnp.int32),
        "loss_N": routed.loss_N.astype(jnp.float32),
        "correct_N": routed.correct_N.astype(jnp.float32),
    }
    return values if routed.label_N is None else values | {"label_N": routed.label_N.astype(jnp.int32)}


def _tied(ranked: jax.Array, top: int, counted_NxT: jax.Array) -> jax.Array:
    """Counted tokens whose top k rounding decides: logits k and k + 1 within 4 units of the larger magnitude, int32[N, L]."""
    if ranked.shape[-1] <= top:
        return jnp.zeros(ranked.shape[:2], jnp.int32)
    inside, outside = ranked[..., top - 1], ranked[..., top]
    close = inside - outside <= 4 * 2.0**-24 * jnp.maximum(jnp.abs(inside), jnp.abs(outside))
    return (close & counted_NxT[:, None]).sum(-1, dtype=jnp.int32)


def inner_products(vectors_LxDxE: jax.Array) -> dict[str, jax.Array]:
    """Of router vectors: within each layer, and from layer l to l + 1; and D. Cosines of mixtures follow from these."""
    v = vectors_LxDxE.astype(jnp.float32)
    return {"gram_LxExE": jnp.einsum("lda,ldb->lab", v, v, precision=_HIGHEST),
            "cross_LxExE": jnp.einsum("lda,ldb->lab", v[:-1], v[1:], precision=_HIGHEST), "width": jnp.int32(v.shape[1])}


def _check_shapes(routed: Routed, top: int) -> None:
    shape = routed.logits_NxLxTxE.shape
    if len(shape) != 4 or routed.mask_NxT.shape != (shape[0], shape[2]):
        raise ValueError(f"route must give logits [N, L, T, E] and mask [N, T]; found {shape} and {routed.mask_NxT.shape}")
    for name in ("loss_N", "correct_N", "label_N"):
        if (x := getattr(routed, name)) is not None and x.shape != shape[:1]:
            raise ValueError(f"route must give {name} of shape {shape[:1]}; found {x.shape}")
    if shape[1] == 0:
        raise ValueError("route gives logits of no layer: this model has no router")
    if top > shape[3]:
        raise ValueError(f"Routing.top={top}: the model has {shape[3]} experts; nearest valid: {shape[3]}")


def _check_vectors(routed: Routed, vectors_LxDxE: Any) -> None:
    _, L, _, E = routed.logits_NxLxTxE.shape
    if vectors_LxDxE is not None and (vectors_LxDxE.ndim != 3 or vectors_LxDxE.shape[::2] != (L, E)):
        raise ValueError(f"router vectors must be [L, D, E] with L={L} and E={E}, as the logits have; found "
                         f"{vectors_LxDxE.shape}: give Routing.vectors of the layers that route reads")


catalog.add(
    __name__,
    catalog.Entry("routing", "which experts samples take, how alike their pathways are, how the load lies (Mixture of Experts)",
                  Routing, ("route",), ("top",), by_name=True),
)
