"""The intervention at its smallest: a whole run takes seconds."""

from ml_collections import ConfigDict

from experiments.harness import config as configs

_SHIPPED = configs.module("rlvr_intervention")
RUN_TIME = "seconds"
CLAIMS = _SHIPPED.CLAIMS


def get_config(argument: str = "default"):
    """The tiny config."""
    if argument != "default":
        raise ValueError(f"argument {argument!r} is not known (valid: default)")
    c = _SHIPPED.get_config("smoke")
    c.model.update({"width": 32, "layers": 3, "heads": 2, "kv_heads": 2, "head_dim": 16, "ff": 32})
    c.task = ConfigDict({"name": "chains", "nodes": (2, 2), "ood_nodes": (3, 3)})
    c.second = ConfigDict({"name": "addition", "digits": 1})
    c.pretrain.update({"rows": 16, "learning_rate": 1e-2, "second_steps": 5, "max_steps": 100, "check_every": 10,
                       "problems": 64, "success_low": 0.1, "success_high": 1.0, "second_min": 0.0})
    c.train.update({"steps": 4, "prompts": 4, "group": 4, "steps_per_call": 2})
    c.measure.update({"grid_points": 2, "problems": 8})
    return c
