"""What to train on next: curricula with `init / sample / observe`, composed by `chain`."""

from jaxpost.curricula.base import (
    NEEDS,
    Chain,
    Context,
    Curriculum,
    Feedback,
    Graded,
    Plan,
    Pooled,
    Weights,
    blank,
    chain,
)
from jaxpost.curricula.uniform import Uniform

__all__ = ["NEEDS", "Chain", "Context", "Curriculum", "Feedback", "Graded", "Plan", "Pooled", "Uniform", "Weights",
           "blank", "chain"]
