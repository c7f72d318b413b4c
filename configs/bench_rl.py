"""How fast is a step of GRPO beside TRL's trainer?

Question: both sides have the same weights and take steps of the same shape: sample a group for every prompt at temperature 1
from the whole softmax, score it by a rule, one AdamW step on GRPO's loss without a KL term. Answers have a fixed length and no
end token. Before they are timed, both must give the same loss on one batch that TRL sampled. Steps go by turns (A B A B);
median ratios are compared with targets that were set before.

    trl, small           4.7M parameters, 8 prompts x 8 samples x 32 tokens       seconds of TRL over ours   >= 2.5
    trl, rlvr_sparsity   the default size of that study                           seconds of TRL over ours   >= 10
    trl, pretrained      a directory of yours, such as DIR/model of               seconds of TRL over ours   >= 2.5
                         `python -m experiments.smollm2 DIR`; not selected unless you say so

Command:   python -m experiments.run --config=bench_rl          (about two minutes; needs the extra `parity`)
           python -m experiments.run --config=bench_rl:smoke    (small; its ratio means nothing)
           python -m experiments.run --config=bench_rl --config.selected="('pretrained',)" \\
               --config.cases.pretrained.directory=DIR             (SmolLM2-135M takes ten minutes and 6 GiB)
Healthy:   a table with the ratios and their spread. Our step is what a study runs, with its inline probes; TRL's has
           logging, saving, gradient checkpointing and the KL term off. On a busy machine threads of the peer wait for each
           other and it looks slower than it is: pin the command to one free core (taskset -c 1).
"""

from ml_collections import ConfigDict

from experiments.harness import config as configs
from experiments.harness import defaults

RUN_TIME = "2 min on two CPU cores"
CASE = {"directory": "", "prompts": 8, "group": 8, "prompt": 16, "tokens": 32, "microbatches": 1, "learning_rate": 1e-4}
SMALL = {"vocab": 1024, "width": 256, "layers": 4, "heads": 4, "kv_heads": 2, "head_dim": 64, "ff": 1104}
SMALLEST = {"vocab": 32, "width": 32, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 16, "ff": 32}


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = ConfigDict()
    c.experiment = "bench_rl"
    c.turns = 7  # of each A B pair
    c.mesh = ConfigDict({"ensemble": 1})  # this experiment runs on one device
    c.wandb = ConfigDict({"mode": "disabled", "project": "jaxpost"})
    study = configs.module("rlvr_sparsity").get_config()
    same = {"prompts": study.train.prompts, "group": study.train.group, "prompt": 10, "tokens": 6}  # of its additions
    c.cases = ConfigDict({"small": {**CASE, "model": SMALL, "wanted": 2.5},
                          "rlvr_sparsity": {**CASE, **same, "model": {"vocab": 32, **study.model}, "wanted": 10.0},
                          "pretrained": {**CASE, "microbatches": 4, "learning_rate": 1e-5, "model": SMALLEST, "wanted": 2.5}})
    c.selected = ("small", "rlvr_sparsity")  # cases that are measured
    if argument == "smoke":
        c.turns = 2
        for case in c.cases.values():
            case.update({"prompts": 2, "group": 2, "prompt": 3, "tokens": 5, "model": SMALLEST})
    return c
