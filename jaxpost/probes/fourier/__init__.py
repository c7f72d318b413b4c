"""Fourier measures of modular addition: basis, metrics, probe and rows."""

from jaxpost.probes.fourier.probe import Fourier, Inputs, Problems, Reading, Rule

__all__ = ["Fourier", "Inputs", "Problems", "Reading", "Rule"]
