"""Gradient suppression: how much of random labels is fitted at the same accuracy on clean ones."""

from experiments.gradient_suppression.experiment import Setup, run

__all__ = ["Setup", "run"]
