"""Lazy and rich training: output scale, kernel drift and delayed generalisation on two small problems."""

from experiments.lazy_rich.experiment import Setup, run

__all__ = ["Setup", "run"]
