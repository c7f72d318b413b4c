"""Distances between reward functions, exact on finite Markov decision processes, and the regret that they are to predict."""

from jaxpost.probes.rewards import canonical
from jaxpost.probes.rewards.distances import dard, direct, epic, regret_bound, responses, starc
from jaxpost.probes.rewards.finite import FiniteMDP, regret, worst_regret

__all__ = ["FiniteMDP", "canonical", "dard", "direct", "epic", "regret", "regret_bound", "responses", "starc", "worst_regret"]
