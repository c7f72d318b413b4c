"""Intuitive fine-tuning: the demonstration is judged along the policy's own path, early tokens by what they lead to.

Shapes: N rows, T completion tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost.objectives import aggregation
from jaxpost.objectives.base import Batch, View, masked, mean_over
from jaxpost.objectives.supervised import RowObjective


@dataclasses.dataclass(frozen=True)
class Intuitive(RowObjective):
    """IFT (arXiv:2405.11870): weighted likelihood of a demonstration that is read through the policy's own guesses.

      loss = aggregate( W_t (-l') )      W_t = n V_t / sum_s V_s,   V_t = sum_{s>=t} gamma^(s-t) (-l'_s) / n

    l' is the log-probability of the demonstrated token when the embedding of each completion token before it is
    (1 - mixture) of its own + mixture of the token that the policy finds likeliest there, without gradient into embeddings
    read so (`View.mixed_logp_NxT`). A token weighs by the discounted loss of all that follows, which the gradient goes
    through, as in the official code, unless `detach_weights`. gamma = 0 is W = 1.

    Differs from the official code in: there a separate copy of the embedding table is read, made equal after every step;
    here the policy's own is.
    """

    mixture: float = 0.2  # lambda: share of the policy's guess in an input
    gamma: float = 0.95  # discount of what follows
    detach_weights: bool = False
    aggregation: str = "sequence"

    def __post_init__(self):
        super().__post_init__()
        self.require(0 <= self.mixture < 1, f"mixture={self.mixture} must lie in [0, 1), e.g. 0.2")
        self.require(0 <= self.gamma <= 1, f"gamma={self.gamma} must lie in [0, 1], e.g. 0.95")
        if self.gamma == 0:
            self.unread("with gamma=0, whose weights are 1", "detach_weights")

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return frozenset({"mixed_inputs"})

    def formula(self) -> list[str]:
        """As `Objective.formula`."""
        stopped = ", no gradient" if self.detach_weights else ""
        ahead = f"W_t = n V_t / sum_s V_s,  V_t = sum_{{s>=t}} gamma^(s-t) (-l'_s){stopped}"
        weights = ["W = 1"] if self.gamma == 0 else [ahead]
        return [f"loss = {aggregation.FORMULAS[self.aggregation]} [ -W_t l' ]", *weights,
                "l': l where the embeddings of completion tokens are read mixture parts the policy's own likeliest token's"]

    def loss(self, view: View, batch: Batch, state: dict, kl_coef: jax.Array | float | None = None):
        """As `Objective.loss`; aux: `nll`, the mean of -l with the demonstration alone as input, and `mixed_nll`, of -l'."""
        del state, kl_coef
        view, batch = masked(view, batch)
        nll_NxT = -view.mixed_logp_NxT
        x_NxT = nll_NxT if self.gamma == 0 else nll_NxT * self.weights(nll_NxT, batch.mask_NxT)
        aux = {"nll": mean_over(-view.logp_NxT, batch.mask_NxT), "mixed_nll": mean_over(nll_NxT, batch.mask_NxT)}
        return *self.aggregate(x_NxT, batch), aux

    def weights(self, nll_NxT: jax.Array, mask_NxT: jax.Array) -> jax.Array:
        """W_NxT, which adds up to a row's counted tokens; 1 in a row without loss, 0 off-mask."""
        def back(carry_N, x_N):
            carry_N = x_N + self.gamma * carry_N
            return carry_N, carry_N

        nll_NxT = jax.lax.stop_gradient(nll_NxT) if self.detach_weights else nll_NxT
        ahead = jax.lax.scan(back, jnp.zeros_like(nll_NxT[:, 0]), nll_NxT.T, reverse=True)[1].T * (mask_NxT > 0)
        total_Nx1 = ahead.sum(axis=1, keepdims=True)
        tokens_Nx1 = (mask_NxT > 0).sum(axis=1, keepdims=True)
        return jnp.where(total_Nx1 > 0, ahead * tokens_Nx1 / jnp.where(total_Nx1 > 0, total_Nx1, 1.0), 1.0 * (mask_NxT > 0))


ROWS = (Intuitive("ift", "sft", "arXiv:2405.11870", "rows"),)
