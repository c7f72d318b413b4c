"""Does cost grow with size as its operations do?

Question: a supervised step at several depths, widths, lengths, rows and ensemble sizes, sampling of groups of several sizes,
and singular values of several matrices. For each axis the operations of the matrix products are counted, and seconds are fitted
to a power of them: an exponent of 1 says that the code adds nothing that grows faster than the work, and wastes nothing at
small sizes.

    every axis    slope of log seconds in log operations     0.9 to 1.1

Command:   python -m experiments.run --config=bench_scaling          (about three minutes)
           python -m experiments.run --config=bench_scaling:smoke    (small; its exponents mean nothing)
Healthy:   below 1 where small sizes pay a constant (one row, one token), above 1 where large ones leave the cache.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "3 min on two CPU cores"


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = ConfigDict()
    c.experiment = "bench_scaling"
    c.model = ConfigDict({"vocab": 256, "width": 128, "layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 64, "ff": 384})
    c.rows = 16
    c.tokens = 64  # of a row, and of a sampled answer
    c.turns = 5
    c.sizes = ConfigDict({  # axis -> sizes, the others as above
        "layers": (2, 4, 8), "width": (128, 256, 512), "sequence": (32, 64, 128, 256), "rows": (8, 16, 32, 64),
        "ensemble": (1, 2, 4, 8), "group": (32, 64, 128), "matrices": (4, 8, 16, 32),
    })
    c.mesh = ConfigDict({"ensemble": 1})  # this experiment runs on one device
    c.wandb = ConfigDict({"mode": "disabled", "project": "jaxpost"})
    if argument == "smoke":
        c.model.update({"vocab": 32, "width": 32, "layers": 1, "head_dim": 16, "ff": 32})
        c.rows, c.tokens, c.turns = 2, 4, 2
        c.sizes.update({"layers": (1, 2), "width": (16, 32), "sequence": (4, 8), "rows": (2, 4), "ensemble": (1, 2),
                        "group": (2, 4), "matrices": (2, 4)})
    return c
