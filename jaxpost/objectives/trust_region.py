"""Other ways to hold a policy near the old one than a clip of each token's ratio. Shapes: N rows, T tokens.

l, o: log-probabilities of a token under the policy and the old one; r = exp(l - o); A the advantage.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost.objectives import clipping
from jaxpost.objectives.base import Batch, View
from jaxpost.objectives.policy_gradient import PolicyGradient

DIVERGENCE_FORMULAS = {  # divergence -> d of a token, between its own probability and all the rest
    "tv": "|p - q|",
    "kl": "q log(q / p) + (1 - q) log((1 - q) / (1 - p))",
}
DIVERGENCES = tuple(DIVERGENCE_FORMULAS)
LARGEST_LOGP = -1e-7  # above it 1 - p is not resolved in float32


def binary_divergence(logp_NxT: jax.Array, old_NxT: jax.Array, kind: str) -> jax.Array:
    """Divergence_NxT of (q, 1 - q) and (p, 1 - p), p = exp(logp), q = exp(old): a lower bound of that of the whole vocabulary.

      tv  |p - q|
      kl  q log(q / p) + (1 - q) log((1 - q) / (1 - p)), log-probabilities held below -1e-7
    """
    if kind == "tv":
        return jnp.abs(jnp.exp(logp_NxT) - jnp.exp(old_NxT))
    logp, logq = (jnp.minimum(x, LARGEST_LOGP) for x in (logp_NxT, old_NxT))
    rest = jnp.log(-jnp.expm1(logq)) - jnp.log(-jnp.expm1(logp))
    return jnp.exp(logq) * (logq - logp) - jnp.expm1(logq) * rest


@dataclasses.dataclass(frozen=True)
class DivergenceMask(PolicyGradient):
    """Tokens that have moved too far stop, by a divergence of probabilities instead of their ratio (DPPO, arXiv:2602.04879).

      loss = aggregate( 0 where d > divergence_limit and the step would lead further away, else the clip's loss )

    d is the divergence of the token against the rest of the vocabulary (`binary_divergence`); a step leads further away where
    A > 0 and r > 1, or A <= 0 and r < 1. The rows take as the clip's loss that of a capped, stopped ratio, -sg(min(r, 20)) A l,
    as in verl's dppo_tv and dppo_kl. A ratio bound holds rare tokens although their probability hardly moves, and lets
    frequent ones go too far. Differs from the paper in: its top-K approximation of the divergence is absent; the limits 0.15
    and 0.05 are recalled and not checked.
    """

    divergence: str = "tv"  # DIVERGENCES
    divergence_limit: float = 0.15  # of a token

    def __post_init__(self):
        super().__post_init__()
        self.choose(divergence=DIVERGENCES)
        self.require(self.ratio != "none", "a divergence is from the old policy, and ratio='none'; choose ratio='token'")
        self.require(self.divergence_limit > 0, f"divergence_limit={self.divergence_limit} must be greater than 0, e.g. 0.15")

    def surrogate_formula(self) -> list[str]:
        """As `PolicyGradient.surrogate_formula`."""
        x, *where = super().surrogate_formula()
        return [f"(0 on held tokens, else {x})", *where,
                "held: d > divergence_limit, and A > 0 with l > o or A <= 0 with l < o",
                f"d = {DIVERGENCE_FORMULAS[self.divergence]}, p = exp(l), q = exp(o)"]

    def surrogate(self, view: View, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """(per-token policy loss, which tokens are held)."""
        x_NxT, held = super().surrogate(view, batch)
        logp_NxT, old_NxT = jax.lax.stop_gradient(view.logp_NxT), self.old(batch)
        away = jnp.where(batch.advantage_NxT > 0, logp_NxT > old_NxT, logp_NxT < old_NxT)
        beyond = away & (binary_divergence(logp_NxT, old_NxT, self.divergence) > self.divergence_limit)
        return jnp.where(beyond, 0.0, x_NxT), held | beyond


@dataclasses.dataclass(frozen=True)
class GeometricMean(PolicyGradient):
    """A row's ratio is the geometric mean of its tokens' clipped ones (GMPO, arXiv:2507.20673).

      loss = aggregate( -exp(mean_t c_t) A )      c = min(l - o, log_clip_high) where A > 0, else max(l - o, -log_clip_low)

    One outlying token moves a geometric mean less than an arithmetic one, so that the bounds, of log-ratios, can be wide. A
    held token has no gradient; the others keep theirs.
    """

    log_clip_low: float = 0.4  # bounds of a token's log-ratio
    log_clip_high: float = 0.4

    def __post_init__(self):
        super().__post_init__()
        self.unread("where a row has the geometric mean of its tokens' ratios", "ratio", "clip", "log_ratio_clamp")
        self.require(self.kl_gradient != "ratio_weighted", "kl_gradient='ratio_weighted' weighs by a ratio that this row does "
                     "not have; choose 'value'")
        for field in ("log_clip_low", "log_clip_high"):
            self.require(getattr(self, field) > 0, f"{field}={getattr(self, field)} must be greater than 0, e.g. 0.4")

    @property
    def weighs_behaviour(self) -> bool:
        """As `PolicyGradient.weighs_behaviour`: by a ratio of its own."""
        return True

    def surrogate_formula(self) -> list[str]:
        """As `PolicyGradient.surrogate_formula`."""
        return ["-exp(mean_t(c)) A", "c = min(l - o, log_clip_high) where A > 0, else max(l - o, -log_clip_low)"]

    def surrogate(self, view: View, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """(per-token policy loss, the same on all tokens of a row with one advantage; which tokens the bounds hold)."""
        mask = batch.mask_NxT > 0
        log_NxT = jnp.where(mask, view.logp_NxT - self.old(batch), 0.0)
        rises = batch.advantage_NxT > 0
        bounded = clipping.within(log_NxT, jnp.where(rises, -jnp.inf, -self.log_clip_low),
                                  jnp.where(rises, self.log_clip_high, jnp.inf))
        mean_Nx1 = bounded.sum(axis=1, keepdims=True) / jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
        return -jnp.exp(jnp.clip(mean_Nx1, -80.0, 80.0)) * batch.advantage_NxT, (bounded != log_NxT) & mask


_DPPO = {"baseline": "mean", "scale": "group", "ratio": "token", "clip": "capped_weight", "clip_cap": 20.0}
ROWS = (
    GeometricMean("gmpo", "rl", "arXiv:2507.20673", "groups", baseline="mean", scale="group", aggregation="sequence"),
    DivergenceMask("dppo_tv", "rl", "arXiv:2602.04879", "groups", **_DPPO),
    DivergenceMask("dppo_kl", "rl", "arXiv:2602.04879", "groups", divergence="kl", divergence_limit=0.05, **_DPPO),
)
