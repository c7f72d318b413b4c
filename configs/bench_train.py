"""How fast is a supervised train step beside eager torch?

Question: both sides start from the same weights and take the same steps on the same rows: forward, cross entropy, backward,
clipping by global norm, AdamW. Their losses must agree at every step. They run by turns (A B A B); median ratios are compared
with targets that were set before.

    torch        seconds of the torch step over ours                                                >= 1.2
    limit        operations of our step's matrix products a second, over the best float32 product   >= 0.85

Command:   python -m experiments.run --config=bench_train          (about a minute; needs the extra `parity`)
           python -m experiments.run --config=bench_train:smoke    (small; its ratios mean nothing)
           python -m experiments.run --config=bench_train --config.directory=DIR    with a model of yours
Healthy:   a table with both ratios and their spread; on a busy machine threads of the peer wait for each
           other and it looks slower than it is: pin the command to one free core (taskset -c 1).
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "1 min on two CPU cores"


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = ConfigDict()
    c.experiment = "bench_train"
    c.model = ConfigDict({"vocab": 1024, "width": 256, "layers": 4, "heads": 4, "kv_heads": 2, "head_dim": 64, "ff": 768})
    c.directory = ""  # a Hugging Face directory in place of the model above
    c.rows = 32
    c.tokens = 128  # inputs of a row
    c.microbatches = 4  # of our step: 8 rows fit the cache of a core, and it takes 1.25 instead of 1.50 CPU seconds
    c.learning_rate = 1e-3
    c.turns = 9  # of each A B pair
    c.mesh = ConfigDict({"ensemble": 1})  # this experiment runs on one device
    c.wandb = ConfigDict({"mode": "disabled", "project": "jaxpost"})
    if argument == "smoke":
        c.model.update({"vocab": 32, "width": 32, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 16, "ff": 32})
        c.rows, c.tokens, c.microbatches, c.turns = 4, 6, 2, 2
    return c
