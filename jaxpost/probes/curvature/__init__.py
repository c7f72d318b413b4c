"""Curvature of a loss: products with Hessian, GGN and empirical Fisher, spectra, traces, and Gate II of arXiv:2511.08567."""

from jaxpost.probes.curvature.products import KINDS, Curvature, empirical_fisher, ggn, hessian

__all__ = ["KINDS", "Curvature", "empirical_fisher", "ggn", "hessian"]
