"""Coherence and noise scale of the accumulation chunks of training steps: what a run measures of itself at no cost.

With M > 1 microbatches a step makes M gradients g_j of chunks of k rows (or pairs of rows), on the way to their sum. Their
S1 = |sum g_j|^2 and S2 = sum |g_j|^2 (`inline.chunk_sums`) give the statistics of chunk gradients:

    alpha_k = k a / (1 + (k - 1) a), a that of single rows              arXiv:2008.01217; rows with from_chunk give a
    |G_big|^2 = S1 / (M k)^2, |G_small|^2 = S2 / (M k^2)                 B_big = M k, B_small = k
    |G|^2 = (B_big |G_big|^2 - B_small |G_small|^2) / (B_big - B_small)  arXiv:1812.06162
    tr Sigma = (|G_small|^2 - |G_big|^2) / (1 / B_small - 1 / B_big)

Sums are averaged over the steps of the history before any ratio is taken: those since the last measurement, or since the
last boundary of a compiled call where that is later (`n_units` says how many). They are of a moving policy, on the training
rows, with the objective's advantages as constants; rows of one prompt's group share a chunk and are not independent, so
that in RL a is that of rows as they come in groups; a chunk's loss is a sum over its rows, whatever the aggregation divides
by afterwards. With one microbatch, or an objective of several weighted terms, there is nothing to report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxpost.probes import base, catalog, schedules
from jaxpost.probes.gradients import rows as gradient_rows
from jaxpost.probes.gradients.statistics import NAMES
from jaxpost.probes.rows.inventory import TensorInfo


@dataclass(frozen=True)
class GradientChunks:
    """Rows of the chunk sums that the train step reports, for every tensor, kind, layer, body and the model."""

    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "inline"
    id: str = "gradient_chunks"
    version: str = "1"
    definition: str = "arXiv:2008.01217 and arXiv:1812.06162 from (S1, S2) of accumulation chunks"
    metrics: tuple[str, ...] = tuple(f"gradient.{name}" for name in (*NAMES, "sum_norm2", "norm2_sum"))
    needs: frozenset[base.Need] = frozenset({base.HISTORY})

    def cost(self, ctx: base.Context) -> base.Cost:
        """Nothing here: the train step reads each chunk's gradient once more, for its norm."""
        del ctx
        return base.Cost()

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """No state."""
        del ctx, key
        return {}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, history): what the steps reported."""
        del key
        return state, ctx[base.HISTORY]

    def finalize(self, values: Mapping[str, np.ndarray], state: dict, *, infos: Sequence[TensorInfo], arm: str, step: int,
                 seeds: Sequence[int], conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]]) -> dict[str, Any]:
        """Columns of measurement rows; none where the steps had one chunk. `values` is the history, [S, steps, ...].

        Raises: ValueError when sums, seeds and infos do not fit together.
        """
        if "chunk_s1_T" not in values:
            return {"metric": []}
        sums = [np.moveaxis(np.asarray(values[name], np.float64), 1, 2) for name in ("chunk_s1_T", "chunk_s2_T")]
        if sums[0].shape[:2] != (len(seeds), len(infos)):
            raise ValueError(f"chunk sums have [seeds, tensors] = {sums[0].shape[:2]}; expected {(len(seeds), len(infos))}")
        m, k = (int(np.ravel(values[name])[0]) for name in ("chunks", "chunk_rows"))
        rows = gradient_rows.Rows(infos, seeds, arm=arm, step=step, conditional_on=conditional_on, dtype="fp32", split="train")
        gradient_rows.chunks(rows, *sums, m, k)
        return rows.columns(row_ids)


catalog.add(
    __name__,
    catalog.Entry("gradient_chunks",
                  "coherence and noise of the accumulation chunks of training steps, at no cost (microbatches > 1)",
                  GradientChunks),
)
