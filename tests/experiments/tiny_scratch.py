"""A study from scratch at its smallest: an arm, one that goes on from its end with another task, and the average of both."""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "seconds"
CLAIMS = ({"id": "keeps", "primary": True, "kind": "value", "statement": "The second arm keeps the first task.",
           "metric": "policy.pass_at_k", "k": 1, "split": "task", "arms": ("second",), "at": "final",
           "direction": "greater", "threshold": 0.1, "equivalence_margin": 0.1},)


def get_config(argument: str = "default"):
    """The tiny config."""
    c = defaults.from_scratch()
    c.seeds.update({"first": 3, "count": 2})
    c.model = ConfigDict({"width": 8, "layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 8, "ff": 8, "vocab": 64})
    c.task = ConfigDict({"name": "addition", "digits": 1})
    c.tasks = ConfigDict({"longer": {"name": "addition", "digits": 2}})
    c.train.update({"steps": 2, "prompts": 2, "group": 2, "learning_rate": 1e-2})
    c.arm = ConfigDict({
        "first": {"start": "scratch"},
        "second": {"start": "first", "task": "longer"},
        "average": {"start": ("first", "second"), "task": "longer"}})
    c.arms = ("second", "average")
    c.measure.update({"grid_points": 2, "problems": 4, "completions": 2, "probes": ("samples", "loss_tokens")})
    c.probe = ConfigDict({"samples": {"samples": 1, "ks": (1,)}})
    return c
