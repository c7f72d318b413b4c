"""The shipped experiment at its smallest: a whole run takes seconds. The argument names a variant.

A user's config, as `--config=path/to/mine.py` takes it: it starts from the shipped one and changes what it likes.
"""

import importlib.util
from pathlib import Path

from tests.experiments.smallest import shrink

_PATH = Path(__file__).resolve().parents[2] / "configs" / "rlvr_sparsity.py"
_SPEC = importlib.util.spec_from_file_location("shipped_rlvr_sparsity", _PATH)
_SHIPPED = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_SHIPPED)

RUN_TIME = "seconds"
CLAIMS = _SHIPPED.CLAIMS[:2]


def get_config(argument: str = "default"):
    """The tiny config."""
    if argument != "default":
        raise ValueError(f"argument {argument!r} is not known (valid: default)")
    c = shrink(_SHIPPED.get_config("smoke"))
    c.seeds.count = 2
    c.model.update({"width": 32, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 16, "ff": 32})
    c.arms = ("rlvr-lr1", "sft-lr1")
    c.measure.update({"grid_points": 2, "problems": 8, "ks": (4,)})
    return c
