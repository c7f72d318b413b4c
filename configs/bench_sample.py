"""How fast is sampling beside `generate` of transformers?

Question: both sides have the same weights and prompts and write the same number of tokens, drawn from the whole softmax at
temperature 1, without an end token. Before they are timed, every greedy token of the peer must be our largest logit. Then they
run by turns (A B A B); the median ratio is compared with a target that was set before.

    generate     seconds of transformers' generate over ours                                        >= 3

Command:   python -m experiments.run --config=bench_sample          (about a minute; needs the extra `parity`)
           python -m experiments.run --config=bench_sample:smoke    (small; its ratio means nothing)
Healthy:   a table with the ratio, its spread, and what both reach of a float32 matrix product measured in the same run.
           On a busy machine threads of the peer wait for each other and it looks slower than it is: pin the command to one
           free core (taskset -c 1).
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "1 min on two CPU cores"


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = ConfigDict()
    c.experiment = "bench_sample"
    c.model = ConfigDict({"vocab": 1024, "width": 256, "layers": 4, "heads": 4, "kv_heads": 2, "head_dim": 64, "ff": 768})
    c.rows = 64
    c.prompt = 16  # tokens of a prompt
    c.tokens = 64  # that are written
    c.turns = 7  # of each A B pair
    c.mesh = ConfigDict({"ensemble": 1})  # this experiment runs on one device
    c.wandb = ConfigDict({"mode": "disabled", "project": "jaxpost"})
    if argument == "smoke":
        c.model.update({"vocab": 32, "width": 32, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 16, "ff": 32})
        c.rows, c.prompt, c.tokens, c.turns = 4, 3, 5, 2
    return c
