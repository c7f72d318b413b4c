"""What to train on next: curricula with `init / sample / observe`, rows of one table, composed by `chain`.

    curricula.get("sec", pool=256, difficulty=difficulty)          # a row with its settings
    curricula.chain(curricula.Uniform(pool=256), curricula.get("pods", keep=4))
"""

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
from jaxpost.curricula.rules import RULES, for_run, get, register
from jaxpost.curricula.uniform import Uniform

__all__ = ["NEEDS", "RULES", "Chain", "Context", "Curriculum", "Feedback", "Graded", "Plan", "Pooled", "Uniform", "Weights",
           "blank", "chain", "for_run", "get", "register"]
