"""How long does a study take from nothing, and how long once its programs are compiled?

Question: a study runs in a process of its own with an empty compilation cache, then once more in another directory with what
the first run compiled. Both must give the same bundle. Seconds are compared with targets that were set before.

    rlvr_sparsity:smoke, cold and warm    <= 45 s
    rlvr_sparsity, cold                   <= 300 s
    rlvr_sparsity, warm                   <= 210 s

Command:   python -m experiments.run --config=bench_start            (the smoke form of rlvr_sparsity, three minutes)
           python -m experiments.run --config=bench_start:full       (its default form, a quarter of an hour)
           python -m experiments.run --config=bench_start:smoke      (the cheapest benchmark's smoke form)
Healthy:   a table with both; on an idle machine turns differ by a few percent.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "3 min on two CPU cores"


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default, full or smoke."""
    defaults.require(argument, "default", "full", "smoke")
    c = ConfigDict()
    c.experiment = "bench_start"
    c.study = {"default": "rlvr_sparsity:smoke", "full": "rlvr_sparsity", "smoke": "simplicity_bias:smoke"}[argument]
    c.wanted = ConfigDict({"cold": 300.0, "warm": 210.0} if argument == "full" else {"cold": 45.0, "warm": 45.0})
    c.turns = 1  # of a cold and a warm run
    c.mesh = ConfigDict({"ensemble": 1})  # this experiment runs on one device
    c.wandb = ConfigDict({"mode": "disabled", "project": "jaxpost"})
    return c
