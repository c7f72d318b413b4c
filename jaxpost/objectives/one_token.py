"""One-token rollouts: at every demonstrated position the policy tries tokens of its own, and the demonstrated one is rewarded.

Shapes: N rows, T completion tokens, V vocabulary, K draws a position.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost.objectives import aggregation
from jaxpost.objectives.base import Batch, View, masked, mean_over
from jaxpost.objectives.supervised import RowObjective


@dataclasses.dataclass(frozen=True)
class OneTokenRollout(RowObjective):
    """Policy gradient with one-token episodes at the demonstrated positions (OTR, arXiv:2509.26313), *reconstructed*.

      loss = aggregate( -(1/K) sum_j R(a_j) log pi(a_j) ),   a_j ~ pi^(1/temperature), no gradient through the draw
      R(a) = 1 if a is the demonstrated token y, else wrong_reward

    With samples=None the mean over draws is replaced by its expectation, which is the sum over the vocabulary,

      loss = aggregate( -(1 - w) q(y) log pi(y) - w sum_a q(a) log pi(a) ),   w = wrong_reward, q ~ pi^(1/temperature)

    with q stopped, whose gradient at temperature 1 is exactly (1 - wrong_reward) that of DFT (arXiv:2508.05629).

    Draw j at position t of a row is the inverse of the cumulative distribution, in float32, at a uniform number that depends
    on the row's `Batch.seed_N`, on t and j only: neither splitting the batch nor padding changes it. Updates on
    one batch share their uniform numbers, not their tokens.

    *Reconstructed*: from the abstract and third-party digests; K = 256, temperature 1.3 and wrong_reward -0.1 are recalled and
    not checked, and the paper has no public code. The expected form is ours.
    """

    samples: int | None = 256  # K; None: the expectation over draws
    temperature: float = 1.3  # of the distribution that is drawn from, on top of the policy's own
    wrong_reward: float = -0.1  # of a token that is not the demonstrated one

    def __post_init__(self):
        super().__post_init__()
        self.require(self.samples is None or (isinstance(self.samples, int) and self.samples >= 1),
                     f"samples={self.samples} must be a whole number of at least 1, e.g. 256, or None for the expectation")
        self.require(self.temperature > 0, f"temperature={self.temperature} must be greater than 0, e.g. 1.3")
        self.require(self.wrong_reward < 1,
                     f"wrong_reward={self.wrong_reward} must be below 1, the reward of the demonstrated token, e.g. -0.1")

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return frozenset({"logits"} | ({"seed"} if self.samples is not None else set()))

    def formula(self) -> list[str]:
        """As `Objective.formula`."""
        mean = aggregation.FORMULAS[self.aggregation]
        if self.samples is None:
            return [f"loss = {mean} [ -(1 - wrong_reward) q(y) log pi(y) - wrong_reward sum_v q(v) log pi(v) ]",
                    "q = sg(softmax(logits / temperature)), y the demonstrated token"]
        return [f"loss = {mean} [ -1/samples sum_j R(a_j) log pi(a_j) ]",
                "a_j drawn from softmax(logits / temperature), samples of them, no gradient through the draw",
                "R(a) = 1 where a is the demonstrated token, else wrong_reward"]

    def loss(self, view: View, batch: Batch, state: dict, kl_coef: jax.Array | float | None = None):
        """As `Objective.loss`; only the logits are read, not `View.logp_NxT`.

        aux: `nll`, the mean of -log pi(y), and `hit`, how often a draw is y.
        """
        del state, kl_coef
        view, batch = masked(view, batch)
        logp_NxTxV = jax.nn.log_softmax(view.logits_NxTxV)
        tempered_NxTxV = jax.lax.stop_gradient(view.logits_NxTxV) / self.temperature
        target_NxTx1 = batch.completion_NxT[..., None]
        right_NxT = jnp.take_along_axis(logp_NxTxV, target_NxTx1, -1)[..., 0]
        if self.samples is None:
            q_NxTxV = jax.nn.softmax(tempered_NxTxV)
            hit_NxT = jnp.take_along_axis(q_NxTxV, target_NxTx1, -1)[..., 0]
            mean_NxT = jnp.sum(q_NxTxV * logp_NxTxV, axis=-1)
        else:
            drawn_NxTxK = draw(tempered_NxTxV, batch.seed_N, self.samples)
            hit_NxT = (drawn_NxTxK == target_NxTx1).astype(logp_NxTxV.dtype).mean(axis=-1)
            mean_NxT = jnp.take_along_axis(logp_NxTxV, drawn_NxTxK, -1).mean(axis=-1)
        x_NxT = -(1 - self.wrong_reward) * hit_NxT * right_NxT - self.wrong_reward * mean_NxT
        aux = {"nll": mean_over(-right_NxT, batch.mask_NxT), "hit": mean_over(hit_NxT, batch.mask_NxT)}
        return *self.aggregate(x_NxT, batch), aux


def draw(logits_NxTxV: jax.Array, seed_N: jax.Array, samples: int) -> jax.Array:
    """Independent tokens_NxTxK from softmax(logits), int32, the same for a (seed word, position) in any batch.

    Args:
      logits_NxTxV: read in float32 whatever their dtype, so that the draws do not depend on it.
      seed_N: uint32, one random word a row.
      samples: K.

    Returns:
      tokens_NxTxK. Uniform numbers are multiples of 2^-23: a token rarer than that may never be drawn.
    """
    def position(logits_V, row_key, t):
        reached_V = jnp.cumsum(jax.nn.softmax(logits_V))
        uniform_K = jax.random.uniform(jax.random.fold_in(row_key, t), (samples,), jnp.float32)
        return jnp.searchsorted(reached_V, uniform_K * reached_V[-1], side="right").astype(jnp.int32)

    def row(logits_TxV, seed):
        row_key = jax.random.fold_in(jax.random.key(0), seed)
        return jax.vmap(position, (0, None, 0))(logits_TxV, row_key, jnp.arange(logits_TxV.shape[0]))

    return jax.vmap(row)(logits_NxTxV.astype(jnp.float32), seed_N)


ROWS = (
    OneTokenRollout("one_token_rollout", "sft", "arXiv:2509.26313", "rows"),
    OneTokenRollout("one_token_rollout_expected", "sft", "arXiv:2509.26313 (expectation over its draws)", "rows", samples=None),
)
