"""The shipped tour at its smallest, on the base of `tiny.py`: a whole run takes seconds."""

import importlib.util
from pathlib import Path

from experiments.harness import config as configs

_SPEC = importlib.util.spec_from_file_location("tiny_for_the_tour", Path(__file__).with_name("tiny.py"))
_TINY = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_TINY)

RUN_TIME = "seconds"


def get_config(argument: str = "default"):
    """The tiny config."""
    if argument != "default":
        raise ValueError(f"argument {argument!r} is not known (valid: default)")
    c, base = configs.module("objectives_tour").get_config("smoke"), _TINY.get_config()
    for section in ("model", "task", "second", "pretrain"):
        c[section] = base[section]
    c.rows = ("cross_entropy", "dr_grpo", "rloo", "reinforce")
    c.overrides = ("rloo.learning_rate=1e30",)  # diverges
    c.train.update({"steps": 4, "prompts": 4, "group": 4, "steps_per_call": 2, "optimization_level": 0})
    c.measure.update({"grid_points": 2, "problems": 16, "reevaluations": 5})
    return c
