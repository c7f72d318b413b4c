"""What the policy does: success, KL, Fisher length, loss along lines, fits over runs."""

from jaxpost.probes.policy.effective_rows import EffectiveRows
from jaxpost.probes.policy.statistics import AdvantageCovariance, LossTokens, OfHistory, PolicyStatistics, finalize

__all__ = ["AdvantageCovariance", "EffectiveRows", "LossTokens", "OfHistory", "PolicyStatistics", "finalize"]
