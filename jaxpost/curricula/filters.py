"""Which rows of a batch count: difficulty filtering, largest-variance subsets, and weights by success.

Shapes: B items a step, G rows an item.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxpost.curricula import scores, selection
from jaxpost.curricula.base import Curriculum, Feedback, Weights


@dataclasses.dataclass(frozen=True)
class DifficultyFilter(Curriculum):
    """Online difficulty filtering: groups with low <= success rate <= high count, the others do not.

    The expected improvement is bounded below by the variance of the reward, p (1 - p) for a binary one. With `oversample`
    above 1 the rollouts refill the batch with the next groups that count.

    Raises:
      ValueError: not 0 <= low <= high <= 1.
    """

    paper: ClassVar[str] = "arXiv:2504.03380"
    differs: ClassVar[str] = "refilled from one round of a fixed size, not asynchronously until the batch is full"
    reconstructed: ClassVar[str] = "the window 0.2 to 0.8 (the paper's grid was not at hand)"

    low: float = 0.2
    high: float = 0.8

    def __post_init__(self):
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"low={self.low}, high={self.high}: expected 0 <= low <= high <= 1")

    @property
    def needs(self) -> frozenset[str]:
        """Groups with their success."""
        return frozenset({"reward", "rollouts"})

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Keep what is neither too easy nor too hard."""
        p_B = feedback.mean(feedback.reward_BxG)
        keep_B = ((p_B >= self.low) & (p_B <= self.high)).astype(jnp.float32)
        return state, weights.times(keep=jnp.broadcast_to(keep_B[:, None], feedback.used_BxG.shape))


@dataclasses.dataclass(frozen=True)
class Pods(Curriculum):
    """PODS: of each group the `keep` rollouts whose rewards have the largest variance; advantages are taken among them.

    Raises:
      ValueError: fewer than two are kept.
    """

    paper: ClassVar[str] = "arXiv:2504.13818"
    differs: ClassVar[str] = "rollouts that are left out are masked, so that they save no computation"

    keep: int = 4

    def __post_init__(self):
        if self.keep < 2:
            raise ValueError(f"keep={self.keep}: a variance needs at least 2 rollouts")

    @property
    def needs(self) -> frozenset[str]:
        """Groups with their rewards."""
        return frozenset({"reward", "rollouts"})

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Keep the subset of largest variance of every group."""
        keep_of = jax.vmap(lambda x, used: selection.largest_variance(x, self.keep, used))
        return state, weights.times(keep=keep_of(feedback.reward_BxG, feedback.used_BxG))


@dataclasses.dataclass(frozen=True)
class D3s(Curriculum):
    """D3S on the level of samples: of the whole batch the share of rollouts whose advantages have the largest variance.

    The share goes linearly from `first` to `last` over `steps`. Advantages stay those of the whole groups.

    Raises:
      ValueError: a share outside (0, 1], or no steps.
    """

    paper: ClassVar[str] = "arXiv:2509.22115"
    differs: ClassVar[str] = "selects rollouts, not tokens; those left out are masked, so that they save no computation"
    reconstructed: ClassVar[str] = "the two shares (the paper's values were not at hand)"

    first: float = 0.25
    last: float = 0.75
    steps: int = 0

    def __post_init__(self):
        if not (0 < self.first <= 1 and 0 < self.last <= 1 and self.steps > 0):
            raise ValueError(f"first={self.first}, last={self.last}, steps={self.steps}: expected shares in (0, 1] and the "
                             "number of steps")

    @property
    def needs(self) -> frozenset[str]:
        """Groups with their advantages."""
        return frozenset({"advantage", "rollouts"})

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Train on the subset of largest variance of the batch."""
        share = scores.along(self.first, self.last, feedback.step / self.steps)
        count = jnp.maximum(jnp.round(share * feedback.used_BxG.sum()), 2).astype(jnp.int32)
        flat_N = selection.largest_variance(feedback.advantage_BxG.reshape(-1), count, feedback.used_BxG.reshape(-1))
        return state, weights.times(train=flat_N.reshape(feedback.used_BxG.shape))


@dataclasses.dataclass(frozen=True)
class D3sTokens(D3s):
    """D3S on both levels: as `d3s`, and of the chosen rollouts the share of tokens with the largest |A| H.

    H: the policy's entropy at the token, nats. The share of tokens goes linearly from `first_tokens` to `last_tokens`; the
    others are out of the loss, whose means are over those that are left.

    Raises:
      ValueError: a share outside (0, 1], or no steps.
    """

    differs: ClassVar[str] = "what is left out is masked, so that it saves no computation"
    reconstructed: ClassVar[str] = "the four shares (the paper's values were not at hand)"

    first_tokens: float = 0.2
    last_tokens: float = 0.6

    def __post_init__(self):
        super().__post_init__()
        if not (0 < self.first_tokens <= 1 and 0 < self.last_tokens <= 1):
            raise ValueError(f"first_tokens={self.first_tokens}, last_tokens={self.last_tokens}: expected shares in (0, 1]")

    @property
    def needs(self) -> frozenset[str]:
        """Entropies as well."""
        return super().needs | {"entropy"}

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """The rollouts, then their tokens; ties go to the earlier ones."""
        state, kept_rows = super().observe(state, feedback, Weights())
        counted_BxGxT = feedback.counted_BxGxT * (kept_rows.train_BxG * feedback.used_BxG)[..., None]
        score_BxGxT = jnp.abs(feedback.advantage_BxG)[..., None] * feedback.entropy_BxGxT
        flat = jnp.where(counted_BxGxT > 0, score_BxGxT, -jnp.inf).reshape(-1)
        share = scores.along(self.first_tokens, self.last_tokens, feedback.step / self.steps)
        count = jnp.maximum(jnp.round(share * counted_BxGxT.sum()), 1)
        first = (jnp.arange(flat.size) < count).astype(jnp.float32)
        kept = jnp.zeros(flat.shape).at[jnp.argsort(-flat, stable=True)].set(first)
        return state, weights.times(train=kept_rows.train_BxG, token=kept.reshape(score_BxGxT.shape))


@dataclasses.dataclass(frozen=True)
class VlCogito(Curriculum):
    """VL-Cogito's progressive weights: a group's advantages are scaled by `scores.stage_weight` of its success rate.

    Stages easy, medium and hard, each a third of `steps`.

    Raises:
      ValueError: no steps.
    """

    paper: ClassVar[str] = "arXiv:2507.22607"
    differs: ClassVar[str] = "the soft weights alone, without the length reward of the hard stage"
    reconstructed: ClassVar[str] = "stages of equal length"

    steps: int = 0

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: the stages need the number of steps")

    @property
    def needs(self) -> frozenset[str]:
        """Success, and advantages to scale."""
        return frozenset({"reward", "scale", "rollouts"})

    def observe(self, state: dict, feedback: Feedback, weights: Weights) -> tuple[dict, Weights]:
        """Scale each group."""
        stage = jnp.clip(jnp.asarray(feedback.step) * 3 // self.steps, 0, 2)
        scale_B = scores.stage_weight(feedback.mean(feedback.reward_BxG), stage)
        return state, weights.times(scale=jnp.broadcast_to(scale_B[:, None], feedback.used_BxG.shape))
