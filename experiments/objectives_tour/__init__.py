"""A tour of the recipe table: every row is trained shortly from one base, judged by one rule, and listed."""

from experiments.objectives_tour.experiment import Setup, run

__all__ = ["Setup", "run"]
