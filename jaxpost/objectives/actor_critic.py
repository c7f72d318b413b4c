"""Proximal policy optimisation with a value head: token-level advantages from a critic that is trained beside the policy.

Shapes: N rows, T completion tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost.objectives import advantages
from jaxpost.objectives.base import Batch, View, mean_over
from jaxpost.objectives.policy_gradient import PolicyGradient


@dataclasses.dataclass(frozen=True)
class ActorCritic(PolicyGradient):
    """PPO: loss = aggregate( surrogate + value_coef * value loss + KL - entropy bonus ).

    Rewards are the row's score on its last token and, with kl_place="reward", -kl_coef * k on each token; advantages
    come from the critic, so `baseline` and `scale` do not apply.
    """

    lam: float = 0.95  # of generalised advantage estimation
    value_coef: float = 0.1  # weight of the value loss
    value_clip: float | None = 0.2  # the value moves at most this far from where it was before the update
    whiten: str = "token"
    credit_unit: str = "token"
    reward_scaling: bool = False  # divide scores by the standard deviation of all scores so far (PPO-max)

    def __post_init__(self):
        super().__post_init__()
        self.require(self.baseline == "none" and self.scale == "none",
                     f"baseline={self.baseline!r}, scale={self.scale!r}: the critic is the baseline; leave both 'none'")
        self.unread("with a critic, which is taught every row's score", "informative_only")
        self.require(self.value_clip is None or self.value_clip > 0,
                     f"value_clip={self.value_clip} must be greater than 0, e.g. 0.2")
        self.require(self.credit_unit == "token", "credit_unit='row' contradicts a critic; leave it 'token'")
        self.require(0 <= self.lam <= 1, f"lam={self.lam} must lie in [0, 1], e.g. 0.95")
        self.require(self.value_coef >= 0, f"value_coef={self.value_coef} is negative, e.g. 0.1")

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | {"value"}

    def credit_formula(self) -> list[str]:
        """How rewards s_t become A; V_t is the critic's value before the update, 0 after the last token."""
        held = "" if self.value_clip is None else "v = clip(V_now, V - value_clip, V + value_clip), "
        return [f"{held}V_now the critic's value in the loss, V before the update",
                "G = A + V, A before it is whitened",
                "A_t = delta_t + gamma lam A_(t+1),  delta_t = s_t + gamma V_(t+1) - V_t",
                *(["R <- R / (standard deviation of all R so far, these among them)"] if self.reward_scaling else [])]

    def further_formula(self) -> str:
        """The value loss."""
        if self.value_clip is None:
            return " + value_coef (V_now - G)^2 / 2"
        return " + value_coef max((V_now - G)^2, (v - G)^2) / 2"

    def init(self) -> dict:
        """Count, mean and sum of squared deviations of the scores so far, for reward scaling."""
        return {name: jnp.zeros(()) for name in ("count", "mean", "deviations")} if self.reward_scaling else {}

    def observe(self, state: dict, batch: Batch) -> dict:
        """Add the batch's scores, KL penalties left out (Chan's update: no difference of large sums)."""
        if not self.reward_scaling:
            return state
        score_N = super().score(batch, 0.0, None)
        present = ~jnp.isnan(score_N)
        x_N, new = jnp.where(present, score_N, 0.0), present.sum()
        mean = x_N.sum() / jnp.maximum(new, 1)
        apart, total = mean - state["mean"], state["count"] + new
        share = new / jnp.maximum(total, 1)
        deviations = jnp.where(present, (x_N - mean) ** 2, 0.0).sum() + apart**2 * state["count"] * share
        return {"count": total, "mean": state["mean"] + apart * share, "deviations": state["deviations"] + deviations}

    def score(self, batch: Batch, kl_coef: jax.Array | float, state: dict | None) -> jax.Array:
        """As `PolicyGradient.score`; a missing reward is 0; scaled by the scores so far, these rows among them."""
        score_N = super().score(batch, kl_coef, state)
        if self.reward_scaling:
            seen = self.observe(self.init() if state is None else state, batch)
            std = jnp.sqrt(seen["deviations"] / jnp.maximum(seen["count"] - 1, 1))
            spread = std > 8 * jnp.finfo(score_N.dtype).eps * jnp.abs(seen["mean"])  # else they are equal up to rounding
            score_N = jnp.where(spread, score_N / jnp.where(spread, std, 1.0), score_N)
        return jnp.where(jnp.isnan(score_N), 0.0, score_N)

    def credit(self, batch: Batch, kl_coef: jax.Array | float, group: int) -> Batch:
        """Fill `advantage_NxT` from the critic, and `return_NxT` = A + V before whitening."""
        del group
        reward_NxT = self.token_rewards(batch, kl_coef)
        advantage_NxT = advantages.generalised(reward_NxT, batch.value_NxT, batch.mask_NxT, self.gamma, self.lam)
        target_NxT = jnp.where(jnp.isnan(batch.reward_N)[:, None], 0.0, advantage_NxT) + batch.value_NxT
        return batch._replace(advantage_NxT=advantage_NxT, return_NxT=target_NxT)

    def token_loss(self, view: View, batch: Batch, kl_coef: jax.Array | float | None):
        """(per-token policy and value loss before aggregation, aux)."""
        x_NxT, aux = super().token_loss(view, batch, kl_coef)
        value_NxT = value_loss(view.value_NxT, batch.value_NxT, batch.return_NxT, self.value_clip)
        aux["value_loss"] = mean_over(value_NxT, batch.mask_NxT)
        return x_NxT + self.value_coef * value_NxT, aux


def value_loss(value_NxT: jax.Array, before_NxT: jax.Array, return_NxT: jax.Array, clip: float | None) -> jax.Array:
    """0.5 max((V - R)^2, (V_clipped - R)^2), V_clipped = V held within `clip` of its value before the update."""
    free = (value_NxT - return_NxT) ** 2
    if clip is None:
        return 0.5 * free
    held = (jnp.clip(value_NxT, before_NxT - clip, before_NxT + clip) - return_NxT) ** 2
    return 0.5 * jnp.maximum(free, held)


ROWS = (
    ActorCritic("ppo", "rl", "arXiv:1707.06347", "groups", ratio="token", clip_low=0.2, clip_high=0.2,
                kl_estimator="k1", kl_place="reward", kl_coef=0.05),
    ActorCritic("reft", "rl", "arXiv:2401.08967", "groups", ratio="token", clip_low=0.2, clip_high=0.2,
                kl_estimator="k1", kl_place="reward", kl_coef=0.05, value_coef=5.0, aggregation="sequence"),
    ActorCritic("ppo_max", "rl", "arXiv:2307.04964", "groups", ratio="token", clip_low=0.2, clip_high=0.2,
                kl_estimator="k1", kl_place="reward", kl_coef=0.01, value_coef=1.0, whiten="none", reward_scaling=True),
)
