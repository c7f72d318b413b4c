"""Circuits: the logit lens on residual states, and causal tracing by swapping states between prompts."""

from jaxpost.probes.circuits.asked import Asked, Circuit, Inputs
from jaxpost.probes.circuits.probe import Circuits

__all__ = ["Asked", "Circuit", "Circuits", "Inputs"]
