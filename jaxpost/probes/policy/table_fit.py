"""How well a policy fits tables of problems that can be listed whole: exact loss and accuracy of their first answer token.

Legend: S seeds, N rows of a table, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.probes import base, catalog, price, schedules
from jaxpost.probes.base import Metric, register
from jaxpost.probes.fourier import basis as fourier_basis

LOSS = Metric("fit.loss", "mean cross-entropy of the answer token over all problems of the split", "nat", "jaxpost",
              "constant: the best prediction that does not read the problem, the entropy of the split's answers",
              "mean over examples", "float32 logits, float64 on the host", higher_is_better=False)
ACCURACY = Metric("fit.accuracy", "share of the split's problems whose answer token has the largest logit (ties: lower token)",
                  "1", "jaxpost", "constant: the commonest answer of the split", "mean over examples",
                  "float32 logits, all problems", higher_is_better=True)
register(LOSS, ACCURACY)
_EPS = 2.0**-24


@dataclass(frozen=True, eq=False)
class Table:
    """All problems of a split: what a policy says ((params, inputs) -> logits f32[N, V]) and what is right (i32[N]).

    `inputs` is a pytree of arrays, an argument of the measuring program and never one of its constants. Compared and hashed
    by identity.
    """

    split: str
    logits: Callable[[Any, Any], jax.Array]
    answer_N: np.ndarray
    inputs: Any = ()


@dataclass(frozen=True)
class TableFit:
    """Loss and accuracy over whole tables. `tables` have distinct splits."""

    tables: tuple[Table, ...]
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "fit"
    version: str = "1"
    definition: str = "cross-entropy and accuracy over all problems"
    metrics: tuple[str, ...] = (LOSS.id, ACCURACY.id)
    needs: frozenset[base.Need] = frozenset({base.PARAMS})

    def cost(self, ctx: base.Context) -> base.Cost:
        """Counted from the programs themselves."""
        return sum((price.traced(table.logits, ctx[base.PARAMS], table.inputs) for table in self.tables), base.Cost())

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """{split: inputs of its table}."""
        return {table.split: table.inputs for table in self.tables}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, {split: logits f32[N, V]})."""
        return state, {table.split: table.logits(ctx[base.PARAMS], state[table.split]).astype(jnp.float32)
                       for table in self.tables}

    def finalize(self, values: Mapping[str, np.ndarray], state: dict, *, arm: str, step: int, seeds: Sequence[int],
                 conditional_on: str | None, **meta: Any) -> dict[str, list]:
        """Rows of granularity "experiment". Noise floor of the loss: 2 max |logit| 2^-24, of rounding the logits."""
        rows = []
        for table in self.tables:
            share = np.bincount(table.answer_N) / len(table.answer_N)
            nulls = -float(share[share > 0] @ np.log(share[share > 0])), float(share.max())
            for seed, logits_NxV in zip(seeds, np.asarray(values[table.split], np.float64), strict=True):
                for metric, null, read in zip((LOSS, ACCURACY), nulls, fit(logits_NxV, table.answer_N), strict=True):
                    finite = bool(np.isfinite(read[0]))
                    rows.append({"metric": metric.id, "arm": arm, "role": "seed", "step": step, "seed": seed,
                                 "granularity": "experiment", "split": table.split, "dtype": "fp32", "n_units": 1,
                                 "unit": "seed", "value": read[0] if finite else None, "noise_floor": read[1],
                                 "status": "ok" if finite else "nan", "null_kind": "constant", "null_value": null,
                                 "status_reason": None if finite else "the policy's logits are not finite",
                                 "conditional_on": conditional_on})
        return {name: [row[name] for row in rows] for name in rows[0]}


def fit(logits_NxV: np.ndarray, answer_N: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """((loss, its floor), (accuracy, its floor 0)); NaN where a logit is not finite."""
    if not np.isfinite(logits_NxV).all():
        return (np.nan, np.nan), (np.nan, np.nan)
    loss = float(fourier_basis.nll(logits_NxV, answer_N).mean())
    return (loss, 2 * float(np.abs(logits_NxV).max()) * _EPS), (float((logits_NxV.argmax(axis=1) == answer_N).mean()), 0.0)


catalog.add(
    __name__,
    catalog.Entry("fit", "how well the policy fits every problem of a split: exact loss and accuracy", TableFit, ("tables",),
                  by_name=True),
    catalog.Statistic(
        "fit", "Fit of whole tables", ("fit",),
        "Loss and accuracy over every problem of a split, training and test: no sampling, so that a difference is one. The "
        "null is the best answer that does not read the problem.",
        "Accuracy jumps where the loss glides: it says when the right answer came first, not when the model began to find "
        "it. A loss below its floor is rounding.",
        "accuracy and loss of margins that grow steadily",
        extremes={
            "fit.loss": ("the problems are not fitted", "they are; below the floor it is rounding"),
            "fit.accuracy": ("most right answers come first", "few do"),
        }),
)
