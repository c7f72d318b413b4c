"""What every tiny study shares: tasks of which a base is partly competent within 25 steps, and four steps of training."""

from ml_collections import ConfigDict


def shrink(c: ConfigDict) -> ConfigDict:
    """The config with the smallest tasks, pretraining and training."""
    c.task = ConfigDict({"name": "chains", "nodes": (2, 2), "ood_nodes": (3, 3)})
    c.second = ConfigDict({"name": "addition", "digits": 1})
    c.pretrain.update({"rows": 16, "learning_rate": 1e-2, "second_steps": 5, "max_steps": 100, "check_every": 20,
                       "problems": 64, "success_low": 0.0, "success_high": 1.0, "second_min": 0.0})
    c.train.update({"steps": 4, "prompts": 4, "group": 4, "steps_per_call": 2})
    return c
