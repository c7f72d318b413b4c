"""Learning from answers that begin with a part of a demonstration. Shapes: B prompts, G samples a prompt, N rows, T tokens.

`Batch.demonstration_NxT` is 1 on the forced beginning of a row, whose behaviour log-probabilities are the policy's own.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpost.objectives import advantages, selection
from jaxpost.objectives.base import Batch
from jaxpost.objectives.hybrid import GUIDANCE
from jaxpost.objectives.policy_gradient import PolicyGradient

PREFIX_SCORES = ("raw", "normalised")


@dataclasses.dataclass(frozen=True)
class PrefixTuned(PolicyGradient):
    """Some rows of a group begin with a demonstration's prefix and go on on policy (Prefix-RFT, arXiv:2507.01679).

      A of a row without prefix    its score against the others without one, by `scale`
      A of a continuation          its score against the other rows with the group's prefix; a lone one: its score itself
      A of a prefix token          (score - mean score of the rows without prefix) / k, k rows with the prefix, on the
                                   prefix_entropy share of the batch's prefix tokens with the largest entropy, else 0

    With prefix_score="normalised" the score in the last line is the continuation's A, as in the official code; the two are the
    same where one row of a group has a prefix. Prefix tokens pass through ratio and clip as the others do. The share 0.2 is
    recalled and not checked.
    """

    prefix_entropy: float = 0.2
    prefix_score: str = "raw"  # PREFIX_SCORES
    guidance: str = "prefix_rft"  # GUIDANCE of the source
    baseline: str = "mean"

    def __post_init__(self):
        super().__post_init__()
        self.choose(prefix_score=PREFIX_SCORES, credit_unit=("row",), baseline=("mean",), guidance=GUIDANCE)
        self.require(0 < self.prefix_entropy <= 1, f"prefix_entropy={self.prefix_entropy} must lie in (0, 1], e.g. 0.2")
        self.unread("where a lone row has its score, or no advantage", "lone_reward")

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | {"prefixes", "entropy"}

    def advantage_formula(self) -> list[str]:
        """As `PolicyGradient.advantage_formula`."""
        first, *more = super().advantage_formula()
        score = {"raw": "R", "normalised": "A of its continuation"}[self.prefix_score]
        return [f"{first} among the rows without prefix, and among those with it (one alone: R)", *more,
                f"A of a prefix token: ({score} - mean R of the group's rows without prefix) / #(rows with it) on the",
                "   prefix_entropy share of prefix tokens with the largest entropy before the update, else 0"]

    def compare(self, batch: Batch, score_N: jax.Array, group: int) -> Batch:
        """As `PolicyGradient.compare`, rows with and without prefix apart; prefix tokens have an advantage of their own."""
        score_BxG = score_N.reshape(-1, group)
        begun_BxG = (batch.demonstration_NxT * batch.mask_NxT > 0).any(axis=1).reshape(-1, group)
        apart = [jnp.where(which, score_BxG, jnp.nan) for which in (~begun_BxG, begun_BxG)]
        own, continued = (advantages.advantage(x, baseline="mean", scale=self.scale, ddof=self.ddof, eps=self.eps, lone=lone)
                          for x, lone in zip(apart, ("zero", "reward"), strict=True))
        free_BxG = ~jnp.isnan(apart[0])
        mean_Bx1 = jnp.where(free_BxG, score_BxG, 0.0).sum(axis=1, keepdims=True) / jnp.maximum(
            free_BxG.sum(axis=1, keepdims=True), 1)
        of = continued if self.prefix_score == "normalised" else score_BxG
        known_BxG = ~jnp.isnan(apart[1])
        prefix = jnp.where(known_BxG, (of - mean_Bx1) / jnp.maximum(known_BxG.sum(axis=1, keepdims=True), 1), 0.0)
        shown_NxT = batch.demonstration_NxT * batch.mask_NxT
        chosen_NxT = selection.top_tokens(batch.entropy_NxT, shown_NxT, self.prefix_entropy)
        row_Nx1 = jnp.where(begun_BxG, continued, own).reshape(-1, 1)
        return batch._replace(advantage_NxT=jnp.where(shown_NxT > 0, prefix.reshape(-1, 1) * chosen_NxT, row_Nx1))


@dataclasses.dataclass(frozen=True)
class Hinted(PolicyGradient):
    """The policy gradient of groups that are drawn again with a hint while they fail (GHPO, arXiv:2507.10628).

    The loss is that of the parts, on tokens that the policy drew; hints are context. What is the paper's own is where the rows
    come from: a second pass of the source. Its format reward is a term of the reward, its cold start with a fixed hint a stage.
    """

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | {"hints"}


@dataclasses.dataclass(frozen=True)
class Reformulated(PolicyGradient):
    """The policy gradient of failed groups some of whose answers are drawn again with the solution in sight (EGSR).

    The loss is that of the parts, where the ratio of such an answer is

      r = pi(y | prompt) / pi(y | solution, prompt)

    so that without clipping its expected gradient is the policy gradient of the bare prompt. Recalled, not read in the paper:
    guided trajectories in place of imitation (arXiv:2505.08364); reconstructed: the ratio, and how many rows of a group.
    """

    @property
    def needs(self) -> frozenset[str]:
        """Keys of NEEDS."""
        return super().needs | {"guides"}


ROWS = (
    Hinted("ghpo", "hybrid", "arXiv:2507.10628", "groups", baseline="mean", scale="group", ratio="token", clip_low=0.2,
           clip_high=0.2, aggregation="sequence"),
    Reformulated("egsr", "hybrid", "arXiv:2505.08364 (reconstructed)", "groups", baseline="mean", scale="group", ratio="token",
                 clip_low=0.2, clip_high=0.2, aggregation="sequence"),
    PrefixTuned("prefix_rft", "hybrid", "arXiv:2507.01679", "groups", scale="group", ratio="token", clip_low=0.2, clip_high=0.2,
                dual_clip=3.0, entropy_coef=0.001),
)
