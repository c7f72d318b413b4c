"""The probe of circuits: logit lens and causal tracing of a policy's residual stream (`circuits`).

Price, in forward passes over a split's prompts: the lens one, whose states it reads, and the head's products of J states at
every position that has a target; tracing C (1 + J T (1 + draws)). Measured on CPU the lens takes 1.15 to 1.2 passes with a
vocabulary of 33 (width 64 and 128, 2 and 3 layers); the head's products exceed that where J V is not small beside 12 L D T: 2.0
with V = 1,024, and 4.7 with V = 4,096 (width 256, 6 layers), where they alone are one more pass.

Legend: S seeds, N prompts, T positions, D width, V vocabulary, J states, K targets, C kinds of replaced token, M null draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.probes import base, catalog, price, schedules
from jaxpost.probes.circuits import lens, swaps
from jaxpost.probes.circuits import rows as circuit_rows
from jaxpost.probes.circuits.asked import Asked, Circuit, Inputs
from jaxpost.probes.circuits.metrics import METRICS
from jaxpost.probes.rows import pooling


@dataclass(frozen=True)
class Circuits:
    """Reciprocal ranks of what lies between question and answer, in every state, and which states carry it.

    Raises: ValueError for settings out of range, or a traced split that is not asked.
    """

    circuit: Circuit
    traced: tuple[str, ...] = ("train",)  # splits with causal tracing; the lens reads all
    draws: int = 4  # of each null
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "circuits"
    version: str = "1"
    definition: str = "arXiv:2405.15071: logit lens and swapped states, with nulls"
    metrics: tuple[str, ...] = tuple(metric.id for metric in METRICS)
    needs: frozenset[base.Need] = frozenset({base.PARAMS})

    def __post_init__(self):
        if self.draws < 2:
            raise ValueError(f"Circuits.draws={self.draws}; a null band needs 2 draws or more")
        known = [asked.split for asked in self.circuit.asked]
        for split in self.traced:
            if split not in known:
                raise ValueError(f"Circuits.traced: split {split!r} is none of those that are asked: {', '.join(known)}")

    def cost(self, ctx: base.Context) -> base.Cost:
        """Counted from the program itself."""
        return price.traced(lambda params, state: self._measured(params, state, jax.random.key(0)), ctx[base.PARAMS],
                            self.init(ctx, None))

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """{split: its inputs}: arguments of the measuring program, never its constants."""
        return {asked.split: asked.inputs._asdict() for asked in self.circuit.asked}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, {"split/name": values}): the fields of `lens.Ranks` with a leading axis K, of traced splits those of
        `swaps.Swapped` with a leading axis C, and of the prompts' own answers `largest`, `vocabulary` and
        `undecided`."""
        return state, self._measured(ctx[base.PARAMS], state, key)

    def _measured(self, params: Any, state: dict, key: jax.Array) -> dict[str, jax.Array]:
        measured = {}
        for i, asked in enumerate(self.circuit.asked):
            values = self._of_split(params, asked, Inputs(**state[asked.split]), jax.random.fold_in(key, i))
            measured |= {f"{asked.split}/{name}": x for name, x in values.items()}
        return measured

    def _of_split(self, params: Any, asked: Asked, inputs: Inputs, key: jax.Array) -> dict[str, jax.Array]:
        run, read = self.circuit.run, self.circuit.read
        own = state_JxNxTxD, logits_NxV = run(params, inputs.tokens_NxT, None)
        width, positions = state_JxNxTxD.shape[-1], sorted({position for _, position in asked.targets})
        seen = {position: read(params, state_JxNxTxD[:, :, position]) for position in positions}
        ranks = [lens.ranks(seen[position], token_N, width, self.draws)
                 for (_, position), token_N in zip(asked.targets, inputs.target_KxN, strict=True)]
        values = jax.tree.map(lambda *x: jnp.stack(x), *ranks)._asdict() | {
            "largest": jnp.abs(logits_NxV).max(), "vocabulary": jnp.int32(logits_NxV.shape[1]),
            "undecided": swaps.undecided(logits_NxV, width)}
        if asked.split in self.traced:
            def one(numbered):
                c, other_NxT = numbered
                return swaps.swaps(run, params, inputs.tokens_NxT, own, other_NxT, self.draws, jax.random.fold_in(key, c))

            others_CxNxT = inputs.other_CxNxT
            values |= jax.lax.map(one, (jnp.arange(len(others_CxNxT)), others_CxNxT))._asdict()
        return values

    def finalize(self, values: Mapping[str, np.ndarray], state: dict, *, arm: str, step: int, seeds: Sequence[int],
                 conditional_on: str | None, row_ids: Callable, **meta: Any) -> dict[str, np.ndarray]:
        """Rows of granularity "layer", all splits."""
        constant = {"arm": arm, "step": step, "conditional_on": conditional_on}
        parts = []
        for asked in self.circuit.asked:
            head = f"{asked.split}/"
            own = {name.removeprefix(head): np.asarray(x, np.float64) for name, x in values.items() if name.startswith(head)}
            parts.append(circuit_rows.columns(asked, own, constant, seeds, row_ids))
        return pooling.joined(*parts)


catalog.add(
    __name__,
    catalog.Entry("circuits", "in which residual states what lies between question and answer can be read, and which carry it",
                  Circuits, ("circuit",), by_name=True),
)
