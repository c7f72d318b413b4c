"""The masks at their smallest: a whole run takes seconds."""


from experiments.harness import config as configs
from tests.experiments.smallest import shrink

_SHIPPED = configs.module("rlvr_masks")
RUN_TIME = "seconds"
CLAIMS = _SHIPPED.CLAIMS


def get_config(argument: str = "default"):
    """The tiny config."""
    if argument != "default":
        raise ValueError(f"argument {argument!r} is not known (valid: default)")
    c = shrink(_SHIPPED.get_config("smoke"))
    c.model.update({"width": 32, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 16, "ff": 32})
    c.tune.update({"k": 4, "rank": 2})
    c.arms = ("principal", "safe", "random", "lora-high", "pissa-high")
    c.measure.update({"grid_points": 2, "problems": 8, "ks": (4,)})
    return c
