"""Entropy as a choice of tokens, and as a quantity to be kept. Shapes: N rows, T tokens; H is the policy's entropy, nats.

Both read the entropies before the first update on the batch, and so couple the rows in `prepare` alone.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost.objectives.base import Batch, View, mean_over
from jaxpost.objectives.policy_gradient import PolicyGradient


def masked_quantile(x_NxT: jax.Array, mask_NxT: jax.Array, q: float) -> jax.Array:
    """The q quantile of the counted entries, between two of them by linear interpolation; of none, infinity."""
    n = (mask_NxT > 0).sum()
    ordered = jnp.sort(jnp.where(mask_NxT > 0, x_NxT, jnp.inf).reshape(-1))
    place = q * jnp.maximum(n - 1, 0)
    low = jnp.floor(place).astype(jnp.int32)
    high = jnp.minimum(low + 1, jnp.maximum(n - 1, 0))
    between = jnp.where(high > low, ordered[high] - ordered[low], 0.0)
    return ordered[low] + (place - low) * between


@dataclasses.dataclass(frozen=True)
class HighEntropy(PolicyGradient):
    """The policy loss of the tokens with the highest entropy alone (arXiv:2506.01939).

      loss of a token = that of the clip where H >= the (1 - top_entropy) quantile of H over counted tokens, else 0

    All tokens keep counting, and a KL to the reference acts on all of them. H is that before the update and the quantile that
    of the whole batch; TRL's top_entropy_quantile takes both from the microbatch at hand, which is the same at the first update
    on an unsplit batch.
    """

    top_entropy: float = 0.2  # share of tokens that carry the policy loss

    def __post_init__(self):
        super().__post_init__()
        self.require(0 < self.top_entropy <= 1, f"top_entropy={self.top_entropy} must lie in (0, 1], e.g. 0.2")

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | {"entropy"}

    def surrogate_formula(self) -> list[str]:
        """As `PolicyGradient.surrogate_formula`."""
        x, *where = super().surrogate_formula()
        return [f"({x} where H >= h, else 0)", *where,
                "h: the quantile 1 - top_entropy of H over the batch's counted tokens, before the update"]

    def prepare(self, batch: Batch, group: int = 1, kl_coef: jax.Array | float | None = None,
                state: dict | None = None) -> Batch:
        """As `PolicyGradient.prepare`; `share_NxT` is 1 on the tokens that carry the policy loss."""
        batch = super().prepare(batch, group, kl_coef, state)
        least = masked_quantile(batch.entropy_NxT, batch.mask_NxT, 1 - self.top_entropy)
        selected = (batch.entropy_NxT >= least) & (batch.mask_NxT > 0)
        return batch._replace(share_NxT=jax.lax.stop_gradient(selected.astype(batch.mask_NxT.dtype)))

    def surrogate(self, view: View, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """(per-token policy loss, which tokens the clip holds)."""
        x_NxT, held = super().surrogate(view, batch)
        return jnp.where(batch.share_NxT > 0, x_NxT, 0.0), held


@dataclasses.dataclass(frozen=True)
class AdaptiveEntropy(PolicyGradient):
    """An entropy bonus whose weight finds itself (Skywork-OR1, arXiv:2505.22312).

      weight of the bonus = c where H <= entropy_target, else 0
      then c <- c + entropy_step where H <= entropy_target, else c - entropy_step, held in [entropy_low, entropy_high]

    H is the mean entropy of the batch's counted tokens before the update; c starts at entropy_coef. Differs from TRL's
    controller in: there the weight of a step is decided by the entropy of the step before, and the bonus is a token mean
    whatever the aggregation of the policy loss; here it is aggregated with the loss.
    """

    entropy_target: float = 0.2  # nats
    entropy_step: float = 0.005  # of c a batch
    entropy_low: float = 0.0
    entropy_high: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        self.require(0 <= self.entropy_low <= self.entropy_coef <= self.entropy_high,
                     f"entropy_low={self.entropy_low}, entropy_coef={self.entropy_coef}, entropy_high={self.entropy_high} must "
                     "be in this order and not below 0")
        self.require(self.entropy_step > 0, f"entropy_step={self.entropy_step} must be greater than 0, e.g. 0.005")
        self.require(self.entropy_target > 0, f"entropy_target={self.entropy_target} must be greater than 0, e.g. 0.2 nats")

    @property
    def entropy_bonus(self) -> bool:
        """Whether the loss has one."""
        return True

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | {"entropy"}

    def advantage_formula(self) -> list[str]:
        """As `PolicyGradient.advantage_formula`, and what the weight of the bonus is."""
        return [*super().advantage_formula(), "w = c where mean_tokens(H) <= entropy_target, else 0; c begins as entropy_coef,",
                "   after every batch c + entropy_step where mean_tokens(H) <= entropy_target, else c - entropy_step,",
                "   held in [entropy_low, entropy_high]; mean_tokens(H) of the policy before the update"]

    def bonus_formula(self) -> str:
        """As `PolicyGradient.bonus_formula`."""
        return "w H"

    def init(self) -> dict:
        """c."""
        return {"coef": jnp.asarray(self.entropy_coef, jnp.float32)}

    def _below(self, batch: Batch) -> jax.Array:
        total, count = mean_over(batch.entropy_NxT, batch.mask_NxT)
        return total / jnp.maximum(count, 1.0) <= self.entropy_target

    def prepare(self, batch: Batch, group: int = 1, kl_coef: jax.Array | float | None = None,
                state: dict | None = None) -> Batch:
        """As `PolicyGradient.prepare`; `share_NxT` is the weight of the bonus."""
        batch = super().prepare(batch, group, kl_coef, state)
        coef = (self.init() if state is None else state)["coef"]
        weight = jnp.where(self._below(batch), coef, 0.0).astype(batch.mask_NxT.dtype)
        return batch._replace(share_NxT=jnp.broadcast_to(weight, batch.mask_NxT.shape))

    def observe(self, state: dict, batch: Batch) -> dict:
        """c after the batch."""
        step = jnp.where(self._below(batch), self.entropy_step, -self.entropy_step)
        return {"coef": jnp.clip(state["coef"] + step, self.entropy_low, self.entropy_high).astype(state["coef"].dtype)}

    def entropy_weight(self, batch: Batch) -> jax.Array | float:
        """As `PolicyGradient.entropy_weight`."""
        return batch.share_NxT


_GRPO = {"baseline": "mean", "scale": "group", "ratio": "token", "clip_low": 0.2}
ROWS = (
    HighEntropy("top_entropy_tokens", "rl", "arXiv:2506.01939", "groups", clip_high=0.28, **_GRPO),
    AdaptiveEntropy("adaptive_entropy", "rl", "arXiv:2505.22312", "groups", clip_high=0.2, **_GRPO),
)
