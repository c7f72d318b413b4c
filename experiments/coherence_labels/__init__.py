"""Gradient coherence of training on real and on random labels: arms x seeds, measured on a grid, judged by fixed claims."""

from experiments.coherence_labels.experiment import Setup, run

__all__ = ["Setup", "run"]
