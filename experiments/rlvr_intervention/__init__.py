"""Do update masks belong to coordinates or to the function? Train from a base and from a transformed twin of it."""

from experiments.rlvr_intervention.experiment import Setup, run

__all__ = ["Setup", "run"]
