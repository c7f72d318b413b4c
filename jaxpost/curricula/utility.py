"""Utility-diversity sampling: the examples of a batch with large logits that differ from those chosen before.

Shapes: B rows, T tokens, V entries of the vocabulary, F kept projections, P entries of one.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost import linalg
from jaxpost.curricula.base import Curriculum, Feedback, Weights


def nuclear_norm(x_TxV: jax.Array) -> jax.Array:
    """Sum of the singular values: those of the triangular factor of the longer side, whose small ones are not squared."""
    tall = x_TxV if x_TxV.shape[0] >= x_TxV.shape[1] else x_TxV.T
    return linalg.singular_values(linalg.qr(tall)[1]).sum()


def project(key: jax.Array, x_BxTxV: jax.Array, rows: int, columns: int) -> jax.Array:
    """[B, rows * columns]: random signs and a Fourier transform (its real part) along both sides, then random entries."""
    for side, (axis, count) in enumerate(((1, rows), (2, columns))):
        sign_key, place_key = jax.random.split(jax.random.fold_in(key, side))
        size = x_BxTxV.shape[axis]
        sign_N = jax.random.rademacher(sign_key, (size,), jnp.float32)
        turned = jnp.fft.fft(x_BxTxV * jnp.expand_dims(sign_N, (0, 3 - axis)), axis=axis).real / jnp.sqrt(size)
        x_BxTxV = jnp.take(turned, jax.random.randint(place_key, (count,), 0, size), axis=axis)
    return x_BxTxV.reshape(x_BxTxV.shape[0], -1)


@dataclasses.dataclass(frozen=True)
class Uds(Curriculum):
    """UDS: of every `among` examples the `keep` of largest utility and diversity are trained on.

      score = | logits_TxV |_* + alpha * mean L2 distance of the projected logits to those of the last `buffer` chosen ones

    | |_*: nuclear norm, of counted tokens. Without a chosen one the distance is 0. One group of examples after another.

    Raises:
      ValueError: numbers out of range; when traced, a batch that `among` does not divide.
    """

    paper: ClassVar[str] = "arXiv:2510.16882"
    differs: ClassVar[str] = "rows and columns of a projection may repeat; all logits of a batch come from one forward pass; " \
        "examples that are left out are masked, so that they save no computation"

    keep: int = 2
    among: int = 4
    alpha: float = 2.5e-3
    buffer: int = 1024
    rows: int = 8
    columns: int = 128

    def __post_init__(self):
        sized = self.buffer >= self.keep and min(self.rows, self.columns) > 0
        if not (1 <= self.keep <= self.among and self.alpha >= 0 and sized):
            raise ValueError(f"keep={self.keep}, among={self.among}, alpha={self.alpha}, buffer={self.buffer}: expected "
                             "1 <= keep <= among, alpha of at least 0 and a buffer of at least keep")

    @property
    def needs(self) -> frozenset[str]:
        """Logits."""
        return frozenset({"logits"})

    def init(self, key: jax.Array) -> dict:
        """Nothing chosen; a word from which the projection is drawn."""
        return {"chosen_FxP": jnp.zeros((self.buffer, self.rows * self.columns)), "count": jnp.int32(0),
                "word": jax.random.bits(key, (), "uint32")}

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Choose."""
        logits_BxTxV = feedback.logits_BxTxV
        B = logits_BxTxV.shape[0]
        if B % self.among:
            raise ValueError(f"among={self.among} does not divide the {B} rows of a batch")
        utility_B = jax.lax.map(nuclear_norm, logits_BxTxV)
        projected_BxP = project(jax.random.key(state["word"]), logits_BxTxV, self.rows, self.columns)

        def choose(carried, group):
            chosen_FxP, count = carried
            utility_A, projected_AxP = group
            live_F = jnp.arange(self.buffer) < count
            far_AxF = jnp.sqrt(((projected_AxP[:, None] - chosen_FxP[None]) ** 2).sum(axis=2))
            distance_A = jnp.where(live_F[None], far_AxF, 0.0).sum(axis=1) / jnp.clip(count, 1, self.buffer)
            order_A = jnp.argsort(-(utility_A + self.alpha * distance_A), stable=True)
            best_K = order_A[:self.keep]
            slot_K = (count + jnp.arange(self.keep)) % self.buffer
            keep_A = jnp.zeros(self.among).at[best_K].set(1.0)
            return (chosen_FxP.at[slot_K].set(projected_AxP[best_K]), count + self.keep), keep_A

        groups = jax.tree.map(lambda x: x.reshape(-1, self.among, *x.shape[1:]), (utility_B, projected_BxP))
        (chosen_FxP, count), keep_NxA = jax.lax.scan(choose, (state["chosen_FxP"], state["count"]), groups)
        return state | {"chosen_FxP": chosen_FxP, "count": count}, weights.times(keep=keep_NxA.reshape(B, 1))
