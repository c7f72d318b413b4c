"""The Gram matrix of per-example gradients: in how many directions a few examples pull, and how alike they are.

    K_ij = <g_i, g_j> of every tensor; a layer's and the model's are the sums of their tensors'
    effective rank  exp(-sum_a p_a ln p_a), p = eigenvalues of K / their sum (Roy and Vetterli, EUSIPCO 2007)
    mean cosine     mean over i != j of K_ij / sqrt(K_ii K_jj)
    top share       largest eigenvalue / sum

Rank and share depend on how many examples there are: compare them at one m, against the same norms at right angles. All m
gradients are held at once, so that m is small; for large batches the sums of `gradients.sums` say how alike they are.

Legend: m examples, T tensors, S seeds, C scopes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxpost.probes import base, catalog, schedules, tracing
from jaxpost.probes.base import Metric, register
from jaxpost.probes.gradients import rows as gradient_rows
from jaxpost.probes.gradients import statistics
from jaxpost.probes.gradients import sums as gradient_sums
from jaxpost.probes.rows.inventory import TensorInfo

_ALGORITHM = "float32 two-level dots of materialised gradients; float64 eigenvalues"
_PAPER = "arXiv:2008.01217 (pairwise coherence); Roy and Vetterli, EUSIPCO 2007 (effective rank)"
_JACKKNIFE = "delete-one-example jackknife around the value at m, t with m - 1 degrees of freedom"
_BAND = 1.959964

METRICS = tuple(
    Metric(f"gradient.gram.{name}", definition, "1", _PAPER, null, "ratio of sums", _ALGORITHM, ci_method=_JACKKNIFE)
    for name, definition, null in (
        ("effective_rank", "exp of the entropy of the eigenvalues of K over their sum, K_ij = <g_i, g_j>",
         "orthogonal: exp of the entropy of the squared norms over their sum"),
        ("mean_cosine", "mean over i != j of <g_i, g_j> / (|g_i| |g_j|)",
         "isotropic: 0, 95 % band 1.96 sqrt(2 / (m (m - 1) P)) of independent random directions"),
        ("top_share", "largest eigenvalue of K over the sum", "orthogonal: largest squared norm over the sum"),
    ))
register(*METRICS)


def effective_rank(share) -> np.ndarray:
    """exp of the entropy of shares on the last axis; negative ones (rounding) count as 0."""
    p = np.maximum(np.asarray(share, np.float64), 0.0)
    return np.exp(-(p * np.log(np.where(p > 0, p, 1.0))).sum(-1))


def estimates(gram) -> dict[str, np.ndarray]:
    """The three numbers of Gram matrices [..., m, m], NaN where a gradient is zero or not finite."""
    gram = np.asarray(gram, np.float64)
    m, norm2 = gram.shape[-1], np.diagonal(gram, axis1=-2, axis2=-1)
    usable = np.isfinite(gram).all((-2, -1)) & (norm2 > 0).all(-1)
    safe = np.where(usable[..., None, None], gram, np.eye(m))
    norm2 = np.diagonal(safe, axis1=-2, axis2=-1)
    share = np.linalg.eigvalsh(safe) / norm2.sum(-1)[..., None]
    cosine = safe / np.sqrt(norm2[..., :, None] * norm2[..., None, :])
    values = {"effective_rank": effective_rank(share), "top_share": share[..., -1],
              "mean_cosine": (cosine.sum((-2, -1)) - m) / (m * (m - 1))}
    return {name: np.where(usable, x, np.nan) for name, x in values.items()}


@dataclass(frozen=True)
class GradientGram:
    """Gram rows of one loss on the first examples of the probe batch.

    `loss(params, example) -> scalar` as in `coherence.GradientCoherence`; `held` names what was made a constant of examples.
    """

    loss: Callable[[Any, Any], jax.Array]
    examples: int = 16  # m, all of whose gradients are held at once
    held: tuple[str, ...] = ()
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "gradient_gram"
    version: str = "1"
    definition: str = "inner products of per-example gradients, per tensor"
    metrics: tuple[str, ...] = tuple(metric.id for metric in METRICS)
    needs: frozenset[base.Need] = frozenset({base.PARAMS, base.PROBE_BATCH})

    def __post_init__(self):
        if self.lane != "sidecar":
            raise ValueError(f"GradientGram runs in lane sidecar (it needs a probe batch); found {self.lane!r}")
        if self.examples < 2:
            raise ValueError(f"GradientGram needs examples >= 2, for there to be a pair; found {self.examples}")

    def cost(self, ctx: base.Context) -> base.Cost:
        """Counted from the traced program: the loss is the caller's."""
        return tracing.traced(lambda ctx: self.measure(ctx, {}, jax.random.key(0))[1], ctx)

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """No state. Refuses a probe batch with too few examples. Raises: ValueError."""
        del key
        have = jax.tree.leaves(ctx[base.PROBE_BATCH])[0].shape[0]
        if have < self.examples:
            raise ValueError(f"examples={self.examples} is more than the {have} of the probe batch; nearest valid: {have}")
        return {}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, {"gram_Txmxm"}); jit-pure."""
        del key
        first = jax.tree.map(lambda x: x[:self.examples], ctx[base.PROBE_BATCH])
        return state, {"gram_Txmxm": gradient_sums.gram(self.loss, ctx[base.PARAMS], first)}

    def arrays(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The matrices, [S, T, m, m] float32."""
        return {"gram": np.asarray(values["gram_Txmxm"], np.float32)}

    def finalize(self, values: Mapping[str, Any], state: dict, *, infos: Sequence[TensorInfo], arm: str, step: int,
                 seeds: Sequence[int], conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]],
                 dtype: str | None = "fp32", split: str | None = None) -> dict[str, Any]:
        """Columns of rows of every tensor, kind, layer, body and the model. Raises: ValueError when shapes do not fit."""
        gram = np.asarray(values["gram_Txmxm"], np.float64)
        if gram.shape[:2] != (len(seeds), len(infos)):
            raise ValueError(f"gram has [seeds, tensors] = {gram.shape[:2]}; expected {(len(seeds), len(infos))}")
        rows = gradient_rows.Rows(infos, seeds, arm=arm, step=step, conditional_on=conditional_on, dtype=dtype, split=split)
        pooled, m = rows.pooled(gram), gram.shape[-1]
        kept = [np.delete(np.arange(m), i) for i in range(m)]
        left = estimates(np.stack([pooled[..., k[:, None], k] for k in kept], axis=2)) if m > 2 else None
        depth = (rows.additions_C + 1) * statistics.UNIT_ROUNDOFF
        params = {"m": m} | ({"held": "+".join(self.held)} if self.held else {})
        for name, value in estimates(pooled).items():
            estimate = gradient_rows.bare(value, {"top_share": depth, "mean_cosine": 2 * depth}.get(name, np.nan))
            if left is not None:
                lo, hi = statistics.jackknife(left[name], value)
                estimate = estimate._replace(lo=lo, hi=hi, reason=np.where(np.isfinite(lo), None, estimate.reason))
            broken = ~np.isfinite(pooled).all((-2, -1))
            gradient_rows.without_value(estimate, broken, "a gradient is not finite", "a gradient is zero")
            rows.add(f"gram.{name}", estimate, m, params, self._null(name, rows, pooled, m))
        return rows.columns(row_ids)

    def _null(self, name: str, rows: gradient_rows.Rows, pooled: np.ndarray, m: int) -> tuple:
        if name == "mean_cosine":
            band = _BAND * np.sqrt(2 / (m * (m - 1) * rows.entries_SxC))
            return "isotropic", np.zeros(band.shape), -band, band
        norm2 = np.diagonal(pooled, axis1=-2, axis2=-1)
        share = statistics.ratio(norm2, norm2.sum(-1, keepdims=True))
        return "orthogonal", effective_rank(share) if name == "effective_rank" else share.max(-1), None, None


catalog.add(
    __name__,
    catalog.Entry("gradient_gram", "in how many directions a few examples' gradients pull, and how alike they are",
                  GradientGram, ("loss",)),
    catalog.Statistic(
        "gram", "Gram matrix of single examples' gradients", ("gradient.gram",),
        "In how many directions a few examples pull (effective rank), how much of it is one direction (top share), and how "
        "alike two of them are (mean cosine).",
        "Rank and share depend on how many examples there are and on the spread of their norms: compare at one m, with the "
        "orthogonal null of the same norms. One long example alone gives a low rank.",
        "effective rank of gradients that share a planted direction, and of orthogonal ones",
        extremes={
            "gradient.gram.effective_rank": ("the examples pull in many directions", "in few, or one of them is much longer"),
            "gradient.gram.top_share": ("most is one direction, or one long example", "it is spread over many"),
            "gradient.gram.mean_cosine": ("the examples' gradients are alike", "0: orthogonal; below: opposed"),
        }),
)
