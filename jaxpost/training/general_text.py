"""A policy and its base on fixed general text: `policy.text_loss` and `policy.text_kl`, some rows at a time.

Shapes: N texts, R rows at a time, T tokens, V vocabulary.
"""

import dataclasses
import functools

import jax
import numpy as np

from jaxpost import models, processes, sharding
from jaxpost.objectives import kl
from jaxpost.tasks import text_data
from jaxpost.training import passes, split


@dataclasses.dataclass(frozen=True)
class GeneralText:
    """Fixed texts, as tokens; logits of R rows are held whole. Raises: ValueError: R does not divide the texts."""

    model: models.TransformerConfig
    tokens_NxT: np.ndarray  # int32, padded on the right
    mask_NxT: np.ndarray  # 1 at real tokens
    at_a_time: int  # R
    pad: int
    mesh: jax.sharding.Mesh | None = None

    def __post_init__(self):
        if len(self.tokens_NxT) % self.at_a_time:
            raise ValueError(f"{self.at_a_time} rows at a time do not divide {len(self.tokens_NxT)} texts")

    def measure(self, params: dict, base: dict) -> dict[str, float]:
        """Means over all tokens but the first of each text, which is given:

          text_loss  -log pi(x_t | x_<t)
          text_kl    KL(pi0(.|x_<t) || pi(.|x_<t)), full vocabulary, nats
        """
        own = split.local(self.at_a_time, self.mesh)
        with sharding.on_mesh(self.mesh):
            parts = [processes.whole(self.program(params, base, *split.put(
                (self.tokens_NxT[first + own], self.mask_NxT[first + own]), self.mesh)))
                for first in range(0, len(self.tokens_NxT), self.at_a_time)]
        loss, divergence, count = np.sum(np.asarray(parts, np.float64), axis=0)
        return {"text_loss": float(loss / count), "text_kl": float(divergence / count)}

    @property
    def digest(self) -> str:
        """SHA-256 of the tokens."""
        return text_data.digest_of(self.tokens_NxT)

    @functools.cached_property
    def program(self):
        """(params, base, tokens_RxT, mask_RxT) -> sums of losses, of divergences, of tokens."""
        def sums(params, base, tokens_RxT, mask_RxT):
            given_Rx1, next_RxT, mask_RxT = tokens_RxT[:, :1], tokens_RxT[:, 1:], mask_RxT[:, 1:]
            own, other = (models.token_logits(self.model, weights, given_Rx1, next_RxT, self.pad) for weights in (params, base))
            loss_RxT, divergence_RxT = -passes.picked(own, next_RxT), kl.full_vocabulary(other, own)
            return (loss_RxT * mask_RxT).sum(), (divergence_RxT * mask_RxT).sum(), mask_RxT.sum()

        return jax.jit(sums)
