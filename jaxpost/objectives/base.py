"""The objective contract: a frozen choice of parts, applied to a batch of log-probabilities.

Shapes: B prompts, G samples a prompt, N = B*G rows, T completion tokens.
`prepare` runs once over the whole batch (advantages couple the samples of a group); `loss` is then separable over
rows, so a step may split the prepared batch into microbatches and add (sum, count) without changing anything.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpost.objectives import advantages, aggregation, kl, ratios


class Batch(NamedTuple):
    """One step's rows. Supervised rows leave the RL fields None; `reference_NxT` is needed only by KL terms."""

    prompt_NxP: jax.Array
    completion_NxT: jax.Array
    mask_NxT: jax.Array
    reward_N: jax.Array | None = None
    behaviour_NxT: jax.Array | None = None  # log-probability under the distribution that was sampled from
    reference_NxT: jax.Array | None = None
    advantage_NxT: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Objective:
    """Parts of an algorithm. Every field but the first four is an override of `objectives.get`."""

    name: str
    family: str  # sft | rl
    paper: str
    batch: str  # rows | groups
    baseline: str = "none"  # advantages.BASELINES, or "accepted" (RAFT weights)
    scale: str = "none"  # advantages.SCALES
    ddof: int = 1  # of the standard deviation
    eps: float = 1e-4  # added to the standard deviation
    ratio: str = "none"  # ratios.LEVELS
    clip_low: float | None = None  # 1 - clip_low is the lower bound of the ratio
    clip_high: float | None = None  # 1 + clip_high is the upper bound
    kl_estimator: str = "k3"  # kl.ESTIMATORS, read when kl_place is not "none"
    kl_place: str = "none"  # kl.PLACES
    kl_coef: float = 0.0  # default weight; a step may pass its own as an argument
    aggregation: str = "token"  # aggregation.MODES
    aggregation_length: int | None = None  # of aggregation "constant"

    def __post_init__(self):
        for field, value, valid in (("baseline", self.baseline, (*advantages.BASELINES, "accepted")),
                                    ("scale", self.scale, advantages.SCALES), ("ratio", self.ratio, ratios.LEVELS),
                                    ("kl_estimator", self.kl_estimator, kl.ESTIMATORS),
                                    ("kl_place", self.kl_place, kl.PLACES),
                                    ("aggregation", self.aggregation, aggregation.MODES)):
            if value not in valid:
                raise ValueError(f"objective {self.name!r}: {field}={value!r} is unknown; "
                                 f"choose one of {', '.join(valid)}")
        if self.kl_coef and self.kl_place == "none":
            raise ValueError(f"objective {self.name!r}: kl_coef={self.kl_coef} has no effect with kl_place='none'; "
                             "set kl_place to 'loss' or 'reward'")

    @property
    def needs_reference(self) -> bool:
        """Whether batches must carry `reference_NxT`."""
        return self.kl_place != "none"

    def init(self) -> dict:
        """The objective's own state (none of the present rows keeps any)."""
        return {}

    def prepare(self, batch: Batch, group: int, kl_coef: jax.Array | float | None = None) -> Batch:
        """Fill `advantage_NxT` from the rewards of the whole batch; supervised rows pass through.

        Args:
          batch: rows ordered by prompt, N = B * group.
          group: G, samples a prompt.
          kl_coef: weight of a KL reward penalty; default `self.kl_coef`.
        """
        if self.batch == "rows":
            return batch
        reward_N = batch.reward_N
        if self.kl_place == "reward":
            coef = self.kl_coef if kl_coef is None else kl_coef
            k_NxT = kl.estimate(batch.behaviour_NxT, batch.reference_NxT, self.kl_estimator) * batch.mask_NxT
            reward_N = reward_N - coef * k_NxT.sum(axis=1)
        reward_BxG = reward_N.reshape(-1, group)
        if self.baseline == "accepted":
            advantage_BxG = advantages.accepted(reward_BxG)
            kept_N = jnp.repeat(advantage_BxG.sum(axis=1) > 0, group)
            batch = batch._replace(mask_NxT=batch.mask_NxT * kept_N[:, None])
        else:
            advantage_BxG = advantages.advantage(reward_BxG, baseline=self.baseline, scale=self.scale, ddof=self.ddof,
                                                 eps=self.eps)
        advantage_NxT = jnp.broadcast_to(advantage_BxG.reshape(-1, 1), batch.mask_NxT.shape)
        return batch._replace(advantage_NxT=jax.lax.stop_gradient(advantage_NxT))

    def loss(self, logp_NxT: jax.Array, batch: Batch, state: dict, kl_coef: jax.Array | float | None = None):
        """(sum, count, aux) of a prepared batch; the loss is sum / count.

        Args:
          logp_NxT: float32 log-probabilities of the completion tokens under the current parameters.
          batch: prepared rows, or any subset of them.
          state: of `init`.
          kl_coef: weight of a KL loss term; default `self.kl_coef`.

        Returns:
          sum, count: float scalars; aux: dict of (sum, count) pairs for logging.
        """
        mask = batch.mask_NxT
        aux = {}
        if self.batch == "rows":
            x_NxT = -logp_NxT
        else:
            r_NxT = ratios.ratio(logp_NxT, batch.behaviour_NxT, mask, self.ratio)
            x_NxT, held = ratios.clipped_surrogate(r_NxT, batch.advantage_NxT, self.clip_low, self.clip_high)
            aux["clipped"] = ((held * mask).sum(), mask.sum())
        if self.kl_place == "loss":
            coef = self.kl_coef if kl_coef is None else kl_coef
            k_NxT = kl.estimate(logp_NxT, batch.reference_NxT, self.kl_estimator)
            aux["kl"] = ((k_NxT * mask).sum(), mask.sum())
            x_NxT = x_NxT + coef * k_NxT
        total, count = aggregation.aggregate(x_NxT, mask, self.aggregation, self.aggregation_length)
        return total, count, aux

    def observe(self, state: dict, batch: Batch) -> dict:
        """The objective's state after a step; the present rows keep none."""
        del batch
        return state
