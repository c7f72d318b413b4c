"""The empirical neural tangent kernel: exact and sketched, its drift and alignment, and the linearised model."""

from jaxpost.probes.kernels.tangent import Answer, Jacobian, Read, kernel, linearised, of_policy

__all__ = ["Answer", "Jacobian", "Read", "kernel", "linearised", "of_policy"]
