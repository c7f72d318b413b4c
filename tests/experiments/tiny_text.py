"""The text experiment at its smallest, from the shipped config."""

import importlib.util
from pathlib import Path

_PATH = Path(__file__).resolve().parents[2] / "configs" / "post_train_hf.py"
_SPEC = importlib.util.spec_from_file_location("shipped_post_train_hf", _PATH)
_SHIPPED = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_SHIPPED)

RUN_TIME = "seconds"
CLAIMS = _SHIPPED.CLAIMS[:1]


def get_config(argument: str = "default"):
    """The tiny config; the model's directory and the data are given on the command line."""
    if argument != "default":
        raise ValueError(f"argument {argument!r} is not known (valid: default)")
    c = _SHIPPED.get_config("smoke")
    c.seeds.count = 1
    c.train.update({"steps": 3, "prompts": 2, "group": 4, "steps_per_call": 1})
    c.arms = ("rlvr-lr1", "sft-lr1")
    c.measure.update({"spectra": "none", "problems": 8})
    return c
