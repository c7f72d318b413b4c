"""Does a study that was disturbed end with the rows of the undisturbed one? The smallest study: every stage takes seconds.

One arm of RL and one of SFT on two-node chains, from a base that is pretrained for some dozens of steps; a checkpoint at every
step, so that a fault at any moment meets one. Nothing is learned of models from it.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "seconds"
CLAIMS = (defaults.claim("sparser", "RLVR leaves more bf16 weights unchanged than SFT at the same learning rate.",
                         "weight.sparsity.bf16", ("rlvr", "sft"), dtype="bf16"),)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; it has no other form."""
    defaults.require(argument, "default")
    c = defaults.study()
    c.title, c.question = "A study to be disturbed", "Does a disturbed run end with the rows of the undisturbed one?"
    c.seeds.count = 2
    c.model = ConfigDict({"width": 16, "layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 16, "ff": 16})
    c.task = ConfigDict({"name": "chains", "nodes": (2, 2), "ood_nodes": (3, 3)})
    c.second = ConfigDict({"name": "addition", "digits": 1})
    c.pretrain.update({"rows": 16, "learning_rate": 1e-2, "second_steps": 5, "max_steps": 200, "check_every": 20,
                       "problems": 64, "success_low": 0.0, "success_high": 1.0, "second_min": 0.0})
    c.train.update({"steps": 4, "prompts": 4, "group": 4, "steps_per_call": 1})
    c.arm = ConfigDict({"rlvr": {"objective": "grpo", "learning_rate": 1e-3}, "sft": {"learning_rate": 1e-3}})
    c.arms = ("rlvr", "sft")
    c.measure.update({"grid_points": 2, "problems": 8, "ks": (4,), "alphas": (0.5,)})
    c.checkpoint.every_seconds = 0.0
    return c
