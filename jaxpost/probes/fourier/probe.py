"""Fourier progress measures of modular addition (arXiv:2301.05217): what the logits know of a + b, before the test loss does.

Two passes. At every measured step `arrays` keeps the coefficients of all frequencies and the logits of the training
problems; when the arm is finished, `across` (in `fourier.rows`) takes the key frequencies from the last step and reads
every step with these, so that the measure does not move while it is read.

*Reconstructed*: key frequencies come from the logits (the fewest that hold `reach` of the energy along a + b, at most
`cap`); the paper takes the winning frequency of each neuron, which a gated feed-forward layer does not have in its sense.
Losses are over the p answers only (the paper drops the logit of `=` as well); `fit.loss` is over the whole vocabulary.

Legend: S seeds, p modulus, C = p answers, F = (p - 1) / 2 frequencies, N training problems, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.probes import base, catalog, price, schedules
from jaxpost.probes.fourier import basis as fourier_basis
from jaxpost.probes.fourier import rows as fourier_rows
from jaxpost.probes.fourier.metrics import METRICS
from jaxpost.probes.fourier.rows import Rule


class Reading(NamedTuple):
    """What a policy's parameters say, float32."""

    logits_PxPxC: jax.Array  # of every answer c to every a (first axis) and b
    embed_PxD: jax.Array  # rows of the embedding that are numbers
    unembed_PxD: jax.Array  # columns of the head that are numbers


@dataclass(frozen=True, eq=False)
class Problems:
    """All p^2 problems: the right answers and which are trained on. Compared and hashed by identity."""

    answer_PxP: np.ndarray  # int
    train_PxP: np.ndarray  # bool

    def __post_init__(self):
        p = len(self.answer_PxP)
        fourier_basis.waves(p)
        if self.answer_PxP.shape != (p, p) or self.train_PxP.shape != (p, p) or not self.train_PxP.any():
            raise ValueError(f"answers {self.answer_PxP.shape} and training mask {self.train_PxP.shape}; expected both "
                             "[p, p], with at least one training problem")

    @property
    def modulus(self) -> int:
        """p."""
        return len(self.answer_PxP)

    @property
    def sum_PxP(self) -> np.ndarray:
        """(a + b) mod p."""
        return np.add.outer(np.arange(self.modulus), np.arange(self.modulus)) % self.modulus


@dataclass(frozen=True, eq=False)
class Inputs:
    """A pytree of arrays, compared and hashed by identity."""

    values: Any


class Addition(NamedTuple):
    """What the probe reads: how a policy answers every a + b, the right answers, and what `read` takes beside parameters."""

    read: Callable[[Any, Any], Reading]  # (params, inputs) -> Reading
    problems: Problems
    inputs: Inputs | None = None


@dataclass(frozen=True)
class Fourier:
    """Restricted and excluded loss, share of the logits' variance, Gini of (un)embedding, sum of squares.

    Raises: ValueError for an even modulus, or settings out of range.
    """

    read: Callable[[Any, Any], Reading]  # (params, inputs) -> Reading
    problems: Problems
    rule: Rule = Rule()
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "fourier"
    version: str = "1"
    definition: str = "arXiv:2301.05217, key frequencies frozen from the last step"
    metrics: tuple[str, ...] = tuple(metric.id for metric in METRICS)
    needs: frozenset[base.Need] = frozenset({base.PARAMS})
    inputs: Inputs | None = None  # of `read`: arguments of the measuring program, never its constants

    def cost(self, ctx: base.Context) -> base.Cost:
        """Counted from the program itself: a forward pass over p^2 problems."""
        return price.traced(self._measured, ctx[base.PARAMS], self.init(ctx, None))

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """The inputs of `read`."""
        return {} if self.inputs is None else {"inputs": self.inputs.values}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, the reading and the sum of squares of all parameters)."""
        return state, self._measured(ctx[base.PARAMS], state)

    def _measured(self, params, state) -> dict[str, jax.Array]:
        squares = sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(params))
        read = self.read(params, state.get("inputs"))._asdict()
        return {**{name: x.astype(jnp.float32) for name, x in read.items()}, "sum_squares": squares}

    def arrays(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What `across` reads, leading axis S: coefficients and mean in float64, logits of training problems in float32.

        coefficients [S, F, 2, C] of cos and sin(2 pi w (a + b) / p); mean [S, C] over problems; variance [S], the summed
        squares about that mean; train [S, N, C], in the order of (a, b); largest [S], the largest |logit|.
        """
        wide = fourier_basis.centred(values["logits_PxPxC"])
        first = wide[:, 0, 0]  # differences to it are exactly 0 where logits do not depend on the problem
        mean = first + (wide - first[:, None, None]).mean(axis=(1, 2))
        return {"coefficients": np.stack([fourier_basis.sum_coefficients(x) for x in wide]), "mean": mean,
                "variance": ((wide - mean[:, None, None]) ** 2).sum(axis=(1, 2, 3)),
                "train": np.asarray(values["logits_PxPxC"], np.float32)[:, self.problems.train_PxP],
                "largest": np.abs(values["logits_PxPxC"]).max(axis=(1, 2, 3)).astype(np.float64)}

    def finalize(self, values: Mapping[str, np.ndarray], state: dict, *, arm: str, step: int, seeds: Sequence[int],
                 conditional_on: str | None, row_ids: Callable, **meta: Any) -> dict[str, np.ndarray]:
        """Rows that need no key frequencies: Gini of embedding and unembedding, sum of squares."""
        tables = {"embed": values["embed_PxD"], "head": values["unembed_PxD"]}
        return fourier_rows.weight_rows(tables, values["sum_squares"], {"arm": arm, "step": step,
                                                                        "conditional_on": conditional_on}, seeds, row_ids)

    def across(self, series: Mapping[int, Mapping[str, np.ndarray]], *, arm: str, seeds: Sequence[int],
               conditional_on: str | None, row_ids: Callable, **meta: Any) -> dict[str, np.ndarray]:
        """Rows of every step that read the logits with the key frequencies of the last."""
        return fourier_rows.logit_rows(series, self.problems, self.rule, {"arm": arm, "conditional_on": conditional_on}, seeds,
                                       row_ids)


def _fourier(addition: Addition, reach: float = Rule.reach, cap: int = Rule.cap,
             sets: int = Rule.sets, **settings: Any) -> Fourier:
    return Fourier(addition.read, addition.problems, Rule(reach, cap, sets), inputs=addition.inputs, **settings)


catalog.add(
    __name__,
    catalog.Entry("fourier", "how much of modular addition the logits know as waves of a + b, before the test loss shows it",
                  _fourier,
                  ("addition",), by_name=True),
)
