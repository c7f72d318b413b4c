"""Teacher-forced accuracy: the share of a demonstration's tokens that are the policy's likeliest, given the tokens before them.

Nothing is sampled. A policy that fits the first tokens of answers only reads high on long answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost import stats
from jaxpost.probes import base, catalog, price, schedules
from jaxpost.probes.policy import example_rows
from jaxpost.probes.policy.fisher import Predict

ACCURACY = base.Metric(
    "policy.teacher_forced_accuracy", "share of the target tokens of a demonstration that have the largest logit (ties: lower "
    "token) given the demonstration's own tokens before them, averaged over the probe batch", "1",
    "jaxpost (the kind of measure of Putnam-AXIOM, whose formula no source here gives)",
    "constant: at every place of an answer its commonest token in the batch", "mean over examples",
    "argmax of float32 logits", "t over examples", higher_is_better=True)
base.register(ACCURACY)


@dataclass(frozen=True)
class TeacherForced:
    """Teacher-forced accuracy on the probe batch; `predict(params, example)` gives `fisher.Predictions`."""

    predict: Predict
    microbatch: int = 32  # demonstrations whose logits are held at once
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "teacher_forced"
    version: str = "1"
    definition: str = "share of target tokens that are likeliest given the demonstration"
    metrics: tuple[str, ...] = (ACCURACY.id,)
    needs: frozenset[base.Need] = frozenset({base.PARAMS, base.PROBE_BATCH})
    at_base: bool = True

    def cost(self, ctx: base.Context) -> base.Cost:
        """Counted from the program itself."""
        return price.traced(self._measured, ctx[base.PARAMS], ctx[base.PROBE_BATCH])

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """No state."""
        return {}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, values): target tokens [m, T], which of them count, and which are likeliest."""
        return state, self._measured(ctx[base.PARAMS], ctx[base.PROBE_BATCH])

    def _measured(self, params: Any, batch: Any) -> dict[str, jax.Array]:
        def one(params, row):
            predicted = self.predict(params, row)
            return {"target": predicted.target_T, "counts": predicted.mask_T > 0,
                    "right": predicted.logits_TxV.argmax(-1) == predicted.target_T,
                    "finite": jnp.isfinite(predicted.logits_TxV).all()}

        rows = len(jax.tree.leaves(batch)[0])
        size = max(n for n in range(1, min(self.microbatch, rows) + 1) if rows % n == 0)
        return example_rows.of_examples(one, params, batch, size)

    def finalize(self, values: Mapping[str, np.ndarray], state: dict, *, arm: str, step: int, seeds: Sequence[int],
                 conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]], **meta: Any) -> dict[str, np.ndarray]:
        """One row a seed, over the demonstrations that have a target token."""
        del state, meta
        table = example_rows.policy_table(arm=arm, step=step, seeds=seeds, conditional_on=conditional_on)
        counts_SxMxT = values["counts"]
        kept_M = counts_SxMxT[0].any(1)  # the batch is the same for every seed
        x_SxM = _shares(values["right"], counts_SxMxT)[:, kept_M]
        x_SxM = np.where(values["finite"][:, kept_M], x_SxM, np.nan)
        if not kept_M.any():
            unknown = example_rows.stack([example_rows.UNKNOWN] * len(seeds))
            example_rows.add(table, ACCURACY.id, unknown, 0, status=np.full(len(seeds), "absent", object),
                             reason=np.full(len(seeds), "no demonstration has a target token", object))
            return table.columns(row_ids)
        null = _shares(_commonest(values["target"][0], counts_SxMxT[0]), counts_SxMxT[0])[kept_M].mean()
        example_rows.add(table, ACCURACY.id, stats.t_interval(x_SxM), int(kept_M.sum()), null=("constant", null, None, None),
                         floor=example_rows.standard_error(x_SxM), num_err=0.0, broken="the policy's logits are not finite")
        return table.columns(row_ids)


def _shares(right_xT: np.ndarray, counts_xT: np.ndarray) -> np.ndarray:
    return (right_xT & counts_xT).sum(-1) / np.maximum(counts_xT.sum(-1), 1)


def _commonest(target_MxT: np.ndarray, counts_MxT: np.ndarray) -> np.ndarray:
    """Where a target is the commonest of its place."""
    best_T = [np.bincount(column[there]).argmax() if there.any() else -1
              for column, there in zip(target_MxT.T, counts_MxT.T, strict=True)]
    return target_MxT == np.asarray(best_T)


catalog.add(
    __name__,
    catalog.Entry("teacher_forced", "how many tokens of demonstrations are the policy's likeliest, given those before them",
                  TeacherForced, ("predict",)),
)
