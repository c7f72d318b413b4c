"""Stages at their smallest: a warm-up that two arms share, an arm that cannot move, one from an average, an average."""

from ml_collections import ConfigDict

from experiments.harness import defaults
from tests.experiments.smallest import shrink

RUN_TIME = "seconds"
CLAIMS = ({"id": "keeps-more", "primary": True, "kind": "difference",
           "statement": "It keeps more.", "metric": "policy.success",
           "split": "second", "arms": ("ppo", "still"), "at": "matched_success", "matched_on": "later", "direction": "greater",
           "threshold": 0.02, "equivalence_margin": 0.02},)


def get_config(argument: str = "default"):
    """The tiny config."""
    c = shrink(defaults.smaller(defaults.study()))
    c.model.update({"width": 32, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 16, "ff": 32})
    c.tasks = ConfigDict({"later": {"name": "chains", "nodes": (3, 3), "ood_nodes": (4, 4)}})
    c.train.learning_rate = 1e-3
    c.arm = ConfigDict({
        "warm-up": {"objective": "cross_entropy", "steps": 2, "pool": 8},
        "still": {"start": "warm-up", "objective": "cross_entropy", "learning_rate": 1e-30, "task": "later"},
        "ppo": {"start": ("base", "warm-up"), "steps": "train.steps", "objective": "reft", "task": "later",
                "reference": ("base", "still"), "schedule": "cosine", "optimizer_settings": {"weight_decay": 0.1}},
        "average": {"start": ("base", "ppo")},
    })
    c.arms = ("still", "ppo", "average")
    c.measure.update({"grid_points": 2, "problems": 8, "ks": (4,), "completions": 0, "probes": ("weight", "policy")})
    c.probe = ConfigDict({"weight": {"spectra": "none"}})
    return c
