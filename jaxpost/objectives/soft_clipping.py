"""Ratios that are weighed smoothly instead of clipped. Shapes: N rows, T tokens; r importance ratio, A advantage, l log pi."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost.objectives import ratios
from jaxpost.objectives.base import Batch, View
from jaxpost.objectives.policy_gradient import PolicyGradient

_CLIPPING = ("clip", "clip_low", "clip_high", "dual_clip", "ratio_cap")


@dataclasses.dataclass(frozen=True)
class SoftGate(PolicyGradient):
    """loss = -(4 / tau) sigma(tau (r - 1)) A, tau by the sign of A (SAPO, as TRL's loss type "sapo").

    Its slope in r is 4 sigma (1 - sigma) A: A at r = 1, falling smoothly on both sides.
    """

    gate_positive: float = 1.0  # tau where A > 0
    gate_negative: float = 1.05  # tau where A <= 0

    def __post_init__(self):
        super().__post_init__()
        self.unread("where a smooth weight replaces the clip", *_CLIPPING)
        self.require(self.ratio != "none", "a gate has no effect with ratio='none'; choose ratio='token'")
        self.require(min(self.gate_positive, self.gate_negative) > 0,
                     f"gate_positive={self.gate_positive}, gate_negative={self.gate_negative} must be greater than 0, e.g. 1")

    def surrogate_formula(self) -> list[str]:
        """As `PolicyGradient.surrogate_formula`."""
        return ["-(4 / tau) sigma(tau (r - 1)) A", "tau = gate_positive where A > 0, else gate_negative"]

    def surrogate(self, view: View, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """(per-token policy loss, no token held)."""
        r_NxT = self.importance(view, batch)
        tau_NxT = jnp.where(batch.advantage_NxT > 0, self.gate_positive, self.gate_negative).astype(r_NxT.dtype)
        x_NxT = -jax.nn.sigmoid(tau_NxT * (r_NxT - 1)) * (4 / tau_NxT) * batch.advantage_NxT
        return x_NxT, jnp.zeros(x_NxT.shape, bool)


@dataclasses.dataclass(frozen=True)
class GammaWeight(PolicyGradient):
    """loss = -sg(phi(w)) A l, phi(w) = exp(lambda) w^k exp(-lambda w), w the row's product ratio (VESPO, as TRL's "vespo").

    phi(1) = 1; k and lambda by the sign of A; a token's log ratio is held in [-20, 20], that of the row in [log 1e-8, 20].
    """

    k_positive: float = 2.0  # k where A >= 0
    k_negative: float = 3.0
    lambda_positive: float = 3.0  # lambda where A >= 0
    lambda_negative: float = 2.0

    def __post_init__(self):
        super().__post_init__()
        self.unread("where a smooth weight replaces the clip", *_CLIPPING)
        self.unread("where the weight has a ratio of its own", "ratio", "log_ratio_clamp")

    @property
    def weighs_behaviour(self) -> bool:
        """As `PolicyGradient.weighs_behaviour`: by a ratio of its own."""
        return True

    def surrogate_formula(self) -> list[str]:
        """As `PolicyGradient.surrogate_formula`."""
        return ["-sg(w^kappa exp(lambda (1 - w))) A l", "w = clip(exp(sum_t clip(l - o, -20, 20)), 1e-8, exp(20))",
                "kappa, lambda = k_positive, lambda_positive where A >= 0, else k_negative, lambda_negative"]

    def surrogate(self, view: View, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """(per-token policy loss, no token held)."""
        product_NxT = ratios.ratio(view.logp_NxT, self.old(batch), batch.mask_NxT, "sequence_product", 20.0)
        w_NxT = jnp.clip(product_NxT, 1e-8, jnp.exp(jnp.asarray(20.0, product_NxT.dtype)))
        high = batch.advantage_NxT >= 0
        k = jnp.where(high, self.k_positive, self.k_negative).astype(w_NxT.dtype)
        rate = jnp.where(high, self.lambda_positive, self.lambda_negative).astype(w_NxT.dtype)
        phi_NxT = jax.lax.stop_gradient(jnp.exp(rate + k * jnp.log(w_NxT) - rate * w_NxT))
        return -phi_NxT * batch.advantage_NxT * view.logp_NxT, jnp.zeros(phi_NxT.shape, bool)


ROWS = (
    SoftGate("sapo", "rl", "arXiv:2511.20347", "groups", baseline="mean", scale="group", ratio="token",
             aggregation="sequence"),
    GammaWeight("vespo", "rl", "arXiv:2602.10693", "groups", baseline="mean", scale="group"),
)
