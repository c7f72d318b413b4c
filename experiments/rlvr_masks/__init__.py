"""RLVR under masks of the base and through adapters: which part of the weights has to be free?"""

from experiments.rlvr_masks.experiment import Setup, run

__all__ = ["Setup", "run"]
