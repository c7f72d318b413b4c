"""Losses of batches that hold rows of earlier steps. Shapes: N rows, T tokens, M group means kept.

`Batch.age_N` is how many batches ago a row was sampled, 0 for a fresh one; its behaviour is the policy of that time.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost.objectives import clipping, kl, ratios
from jaxpost.objectives.base import Batch, View
from jaxpost.objectives.policy_gradient import PolicyGradient
from jaxpost.objectives.selection import CovarianceGuard


@dataclasses.dataclass(frozen=True)
class MixedProximal(PolicyGradient):
    """Rows of several earlier policies, clipped around the policy before the update (ReMix, arXiv:2507.06892), *reconstructed*.

      loss = aggregate( -min(r A, clip(r, c - clip_low, c + clip_high) A) + kl_coef (w k_ref + (1 - w) k_old) )

    r = exp(l - b) to the policy that sampled the row, c = exp(o - b) without gradient, o the policy before the update: on fresh
    rows c = 1. k_ref and k_old are the estimates of the KL to the reference and to o (the paper's KL-convex term), and
    w = max(1 - kl_mix_step ceil(max(t - kl_mix_after, 0) / kl_mix_every), kl_mix_least) at batch t.

    Policy reincarnation is a second stage of a study, on policy and with the first stage as its reference. *Reconstructed*
    from a detailed note; the coefficient of the KL is ours. As in the paper the previous policy is the one before the batch; it
    is read by the log-probabilities before the first update. With one update a batch (minibatches = epochs = 1) l = o, so that
    k_old is 0, with gradient 0 for k2 and k3: the second KL term then only takes weight from the first. Take several updates.
    """

    kl_mix_after: int = 50  # batches
    kl_mix_every: int = 10
    kl_mix_step: float = 0.1
    kl_mix_least: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        self.choose(ratio=("token",), clip=("surrogate",), kl_place=("none", "loss"), kl_gradient=("value",),
                    kl_estimator=kl.ESTIMATORS[:3])
        self.require(self.clip_low is not None and self.clip_high is not None,
                     f"clip_low={self.clip_low}, clip_high={self.clip_high}: a clip around another policy needs both")
        self.unread("with a clip around the policy before the update", "dual_clip", "ratio_cap", "sampler_cap", "sampler_floor")
        self.require(0 <= self.kl_mix_least <= 1 and self.kl_mix_every >= 1 and self.kl_mix_step >= 0,
                     f"kl_mix_least={self.kl_mix_least}, kl_mix_every={self.kl_mix_every}, kl_mix_step={self.kl_mix_step}: "
                     "expected a share in [0, 1], at least 1 and at least 0")

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | {"replay", "proximal"}

    def surrogate_formula(self) -> list[str]:
        """As `PolicyGradient.surrogate_formula`."""
        return ["-min(q A, clip(q, c - clip_low, c + clip_high) A)", "q = exp(l - b), c = sg(exp(o - b))"]

    def advantage_formula(self) -> list[str]:
        """As `PolicyGradient.advantage_formula`, and the weight of the KL to the reference."""
        mix = ["k <- w k + (1 - w) k', k' the same of d = l - o",
               "w = max(1 - kl_mix_step ceil(max(t - kl_mix_after, 0) / kl_mix_every), kl_mix_least) at batch t"]
        return [*super().advantage_formula(), *(mix if self.kl_place == "loss" else [])]

    def init(self) -> dict:
        """The number of batches so far."""
        return {"batches": jnp.zeros((), jnp.int32)}

    def observe(self, state: dict, batch: Batch) -> dict:
        """Count the batch."""
        return {"batches": state["batches"] + 1}

    def reference_share(self, state: dict) -> jax.Array:
        """w."""
        past = jnp.ceil(jnp.maximum(state["batches"] - self.kl_mix_after, 0) / self.kl_mix_every)
        return jnp.maximum(1 - self.kl_mix_step * past, self.kl_mix_least)

    def surrogate(self, view: View, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """(per-token policy loss, which tokens the clip holds)."""
        r_NxT = ratios.ratio(view.logp_NxT, batch.behaviour_NxT, batch.mask_NxT, "token", self.log_ratio_clamp)
        c_NxT = jax.lax.stop_gradient(ratios.ratio(batch.proximal_NxT, batch.behaviour_NxT, batch.mask_NxT, "token"))
        free = r_NxT * batch.advantage_NxT
        bounded = clipping.within(r_NxT, c_NxT - self.clip_low, c_NxT + self.clip_high) * batch.advantage_NxT
        return -jnp.where(bounded < free, bounded, free), bounded < free

    def prepare(self, batch: Batch, group: int = 1, kl_coef: jax.Array | float | None = None,
                state: dict | None = None) -> Batch:
        """As `PolicyGradient.prepare`; `share_NxT` is w."""
        batch = super().prepare(batch, group, kl_coef, state)
        w = self.reference_share(self.init() if state is None else state).astype(batch.mask_NxT.dtype)
        return batch._replace(share_NxT=jnp.broadcast_to(w, batch.mask_NxT.shape))

    def kl_term(self, view: View, batch: Batch) -> jax.Array:
        """As `PolicyGradient.kl_term`."""
        both = [kl.estimate(view.logp_NxT, other, self.kl_estimator, self.kl_clamp, self.kl_log_ratio_clamp)
                for other in (batch.reference_NxT, batch.proximal_NxT)]
        return batch.share_NxT * both[0] + (1 - batch.share_NxT) * both[1]


@dataclasses.dataclass(frozen=True)
class SelfImitated(CovarianceGuard):
    """Good rows of earlier steps are imitated again, ever more (SPEAR, arXiv:2509.22601).

      A of a fresh row      as PolicyGradient, with the covariance guard
      A of a replayed row   imitation_coef (1 - cos(pi min(t / imitation_steps, 1))) / 2 * max(R - median, 0) at batch t

    median: of the mean rewards of the groups of the last `means` rows, so that an old success counts less once the policy has
    got better (the paper's recalibration). A replayed row with A = 0 does not count. The guard chooses among all tokens.

    Differs from the official code in: replayed rows have an optimizer step of their own, as there, only where a batch is split
    into minibatches and they fill some of them (they stand last); tool-call rewards and trajectory filters belong to the task.
    """

    imitation_coef: float = 1.0
    imitation_steps: int = 200  # batches until the weight is imitation_coef
    means: int = 10240  # M, rows whose group's mean is kept

    def __post_init__(self):
        super().__post_init__()
        self.require(self.imitation_coef >= 0, f"imitation_coef={self.imitation_coef} is negative, e.g. 1")
        for field in ("imitation_steps", "means"):
            value = getattr(self, field)
            self.require(isinstance(value, int) and value >= 1, f"{field}={value} must be a whole number of at least 1")

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | {"replay"}

    def advantage_formula(self) -> list[str]:
        """As `PolicyGradient.advantage_formula`."""
        return [*super().advantage_formula(),
                "of a replayed row A = imitation_coef (1 - cos(pi min(t / imitation_steps, 1))) / 2 max(R - m, 0) at batch t,",
                "   and it does not count where that is 0; m: the median of mean_group(R) over the last means fresh rows"]

    def init(self) -> dict:
        """The group means so far, NaN where there is none, and the number of batches."""
        return {"mean_M": jnp.full((self.means,), jnp.nan, jnp.float32), "batches": jnp.zeros((), jnp.int32)}

    def recalibrated(self, batch: Batch, group: int, state: dict | None) -> Batch:
        """As `CovarianceGuard.recalibrated`: replayed rows against the median of group means; `outside_N` is a row's."""
        state = self.init() if state is None else state
        fresh_N, R = batch.age_N == 0, batch.reward_N
        median = jnp.where(jnp.isnan(state["mean_M"]).all(), 0.0, jnp.nanmedian(state["mean_M"])).astype(R.dtype)
        along = jnp.minimum(state["batches"] / self.imitation_steps, 1.0)
        weight = (self.imitation_coef * (1 - jnp.cos(jnp.pi * along)) / 2).astype(R.dtype)
        old_N = jnp.where(jnp.isnan(R), 0.0, weight * jnp.maximum(R - median, 0.0))
        idle_N = ~fresh_N & (old_N == 0)
        group_mean_N = jnp.repeat(jnp.nanmean(R.reshape(-1, group), axis=1), group)
        batch = batch.leave_out(idle_N)._replace(mask_NxT=batch.mask_NxT * ~idle_N[:, None])
        return batch._replace(advantage_NxT=jnp.where(fresh_N[:, None], batch.advantage_NxT, old_N[:, None]),
                              outside_N=jnp.where(fresh_N, group_mean_N, jnp.nan))

    def observe(self, state: dict, batch: Batch) -> dict:
        """The fresh rows' group means in place of the oldest, and one more batch."""
        both = jnp.concatenate([batch.outside_N.astype(jnp.float32), state["mean_M"]])
        known_first = jnp.argsort(jnp.isnan(both), stable=True)[:self.means]
        return {"mean_M": both[known_first], "batches": state["batches"] + 1}


ROWS = (
    MixedProximal("remix", "rl", "arXiv:2507.06892 (reconstructed)", "groups", baseline="mean", scale="group", ratio="token",
                  clip_low=0.2, clip_high=0.2, kl_place="loss", kl_coef=0.001, aggregation="sequence"),
    SelfImitated("spear", "rl", "arXiv:2509.22601", "groups", baseline="mean", ratio="token", clip_low=0.2, clip_high=0.28,
                 guard_share=0.02, guard_low=1.0, guard_high=40.0, aggregation="constant_total", aggregation_length=8192),
)
