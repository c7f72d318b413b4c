"""Circuits: the logit lens on residual states, causal tracing by swapping states between prompts, and induction heads."""

from jaxpost.probes.circuits.asked import Asked, Circuit, Inputs
from jaxpost.probes.circuits.induction import Heads
from jaxpost.probes.circuits.induction_probe import Induction
from jaxpost.probes.circuits.probe import Circuits

__all__ = ["Asked", "Circuit", "Circuits", "Heads", "Induction", "Inputs"]
