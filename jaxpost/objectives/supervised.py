"""Supervised fine-tuning: a weighted negative log-likelihood of demonstrations.

Shapes: N rows, T completion tokens.
"""

import dataclasses

import jax

from jaxpost.objectives.base import Batch, Objective, View


@dataclasses.dataclass(frozen=True)
class Supervised(Objective):
    """-log pi of the demonstrated tokens."""

    def loss(self, view: View, batch: Batch, state: dict, kl_coef: jax.Array | float | None = None):
        """As `Objective.loss`: x = -l."""
        del state, kl_coef
        return *self.aggregate(-view.logp_NxT, batch), {}


ROWS = (
    Supervised("cross_entropy", "sft", "maximum likelihood; token mean as in TRL's SFTTrainer", "rows"),
)
