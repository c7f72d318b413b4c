"""Geometry of a weight update: sparsity, spectrum, rotation, overlap with masks, energy and rank, each with its null.

    refs = prepare(panel, weights0, key)        once a base: decompositions, masks, null curves, rounding floors
    vals = measure(panel, refs, weights1)       jit-pure, for float32 masters and what bf16 sees of them
    rows = finalize(panel, infos, refs, vals_S, arm=..., step=..., seeds=..., conditional_on=..., row_ids=...)
    rows = finalize_jaccard(infos, jaccard(weights0, weights1_S), arm=..., step=..., conditional_on=..., row_ids=...)

How much of the spectra is read, and at what price, is the panel's level (`Panel.spectra`).

Legend: T matrices, S seeds; the view axis is `panel.VIEWS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxpost.probes import base, catalog, schedules
from jaxpost.probes.rows.inventory import TensorInfo
from jaxpost.probes.weights.cost import panel_cost, references_cost
from jaxpost.probes.weights.cross_seed import finalize_jaccard, jaccard
from jaxpost.probes.weights.measurement import measure
from jaxpost.probes.weights.metrics import metrics_of
from jaxpost.probes.weights.panel import Panel, check_ranks
from jaxpost.probes.weights.references import prepare
from jaxpost.probes.weights.rows import finalize

__all__ = [
    "Panel", "TensorInfo", "WeightGeometry", "finalize", "finalize_jaccard", "jaccard", "measure", "prepare",
]


@dataclass(frozen=True)
class WeightGeometry:
    """The weight panel as a probe: state is the references, values are those of `measure`.

    Unmodified in the sidecar lane (all matrices of a run) and offline (streamed, one matrix or shard at a time).
    """

    panel: Panel = Panel()
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "weight"
    version: str = "1"
    definition: str = "arXiv:2511.08567 sections 2 and 4, with the nulls of jaxpost.probes.weights.nulls and .visibility"
    needs: frozenset[base.Need] = frozenset({base.WEIGHTS0, base.WEIGHTS})

    def __post_init__(self):
        if self.lane not in ("sidecar", "offline"):
            raise ValueError(f"WeightGeometry runs in lane sidecar or offline; found {self.lane!r}")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Ids of the rows that the panel's level gives."""
        return metrics_of(self.panel)

    def cost(self, ctx: base.Context) -> base.Cost:
        """Price of one `measure` from the shapes of ctx[base.WEIGHTS]; see `weights.cost`.

        Raises: ValueError for a subspace dimension above every matrix.
        """
        shapes = [tuple(w.shape) for w in ctx[base.WEIGHTS].values()]
        check_ranks(self.panel, shapes)
        return panel_cost(self.panel, shapes)

    def cost_of_init(self, ctx: base.Context) -> base.Cost:
        """Price of the references from the shapes of ctx[base.WEIGHTS0]: at level "exact" that of about forty `measure`."""
        return references_cost(self.panel, [tuple(w.shape) for w in ctx[base.WEIGHTS0].values()])

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """References of ctx[base.WEIGHTS0]; see `prepare`."""
        return prepare(self.panel, ctx[base.WEIGHTS0], key)

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values) of ctx[base.WEIGHTS]; deterministic, so `key` is not read."""
        return state, measure(self.panel, state, ctx[base.WEIGHTS])

    def finalize(self, values: dict, state: dict, **meta: Any) -> dict[str, Any]:
        """Rows; see `weights.rows.finalize` for the fields of `meta` (values with a leading axis over seeds)."""
        return finalize(self.panel, refs=state, vals=values, **meta)

    def arrays(self, values: dict) -> dict[str, np.ndarray]:
        """Level "exact": "spectrum/<tensor>", singular values of the update, f32[S, views, Q], and "edge/<tensor>", the
        rounding edge above which they are signal, f32[S, views]. Nothing otherwise."""
        kept = values.get("spectra", {})
        spectra = {f"spectrum/{name}": np.asarray(x) for name, x in kept.items()}
        edges = {f"edge/{name}": np.asarray(values["edge"])[:, t] for t, name in enumerate(sorted(kept))}
        return spectra | edges


def _weight(ks: tuple[int, ...] = Panel.ks, alphas: tuple[float, ...] = Panel.alphas, spectra: str = "exact",
            rank_draws: int = Panel.rank_draws, **settings: Any) -> WeightGeometry:
    return WeightGeometry(Panel(ks=ks, alphas=alphas, spectra=spectra, rank_draws=rank_draws), **settings)


catalog.add(
    __name__,
    catalog.Entry("weight", "where and how far the weights moved: sparsity, spectrum, rotation, overlaps, energies, ranks",
                  _weight),
)
