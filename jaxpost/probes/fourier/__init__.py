"""Fourier measures of modular addition: basis, metrics, probe and rows."""

from jaxpost.probes.fourier.probe import Addition, Fourier, Inputs, Problems, Reading, Rule

__all__ = ["Addition", "Fourier", "Inputs", "Problems", "Reading", "Rule"]
