"""Do demonstrations of an axiom on short chains teach a transformer to apply it to longer, branching and reordered graphs?

Question: "Teaching Transformers Causal Reasoning through Axiomatic Training" (arXiv:2407.07612) trains on transitivity over
short chains with flipped edges and reports that larger graphs are then answered rightly. Here small decoders are trained from
scratch on chains of three and four nodes and asked about five, about side branches, and about edges listed in reverse or at
random.
Controls:  the best shortcut that does not walk the chain ("the first node has an edge out and the second an edge in") is
           right in 0.92 of the training distribution and in 0.63 of longer chains: a claim counts beyond that. The same
           problems with the walk written out, with filler tokens of equal length, and with false steps say what reasoning
           adds.

Command:   python -m experiments.run --config=causal_axioms          (3 seeds, 4 arms)
           python -m experiments.run --config=causal_axioms:smoke    (2 seeds, few steps)
Healthy:   every arm is nearly always right on fresh chains of the trained lengths.
Differs from the paper in: one token a node, shorter chains, labels balanced at every distance, no chains whose edges all point
           one way (sequential ones) as a training set of their own.
Came out:  not run yet in its default form.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "not measured in its default form (smoke 2 min)"

_SOLVED = "policy.pass_at_k"  # with k = 1: one sample at temperature 1
SHORTCUT = 0.13  # by how much the best shortcut beats a guess on longer chains


def _claim(name, statement, arms, split="ood/length", threshold=0.1, **fields):
    return defaults.claim(name, statement, _SOLVED, arms, split=split, k=1, threshold=threshold, **fields)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("beyond-the-shortcut", "Longer chains are answered rightly more often than the best shortcut does.", ("answers",),
           kind="excess_over_null", threshold=SHORTCUT),
    _claim("walking-helps", "Longer chains are answered rightly more often when the walk is written out.",
           ("walks", "answers")),
    _claim("content-matters", "The walk helps more than as many filler tokens.", ("walks", "filler")),
    _claim("order-matters", "The walk helps more on edges in random order than false steps do.", ("walks", "false-walks"),
           "ood/shuffled", primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = defaults.from_scratch()
    c.title, c.question = "Transitivity beyond the trained graphs", __doc__.splitlines()[0]
    c.papers = ("2407.07612",)
    c.seeds.update({"first": 700, "count": 3})
    c.task = ConfigDict({"name": "chains"})
    c.model = ConfigDict({"width": 64, "layers": 3, "heads": 4, "kv_heads": 4, "head_dim": 16, "ff": 128})
    c.train.update({"steps": 4000, "learning_rate": 1e-3})  # 128 rows a step
    c.arm = ConfigDict({
        "answers": {"start": "scratch"},
        "walks": {"like": "answers", "task_settings": {"style": "cot"}},
        "filler": {"like": "answers", "task_settings": {"style": "filler"}},
        "false-walks": {"like": "answers", "task_settings": {"style": "wrong"}},
    })
    c.arms = tuple(c.arm)
    c.gate = ConfigDict({"kind": "mean_reached", "metric": _SOLVED, "split": "id", "level": 0.95, "first_only": True})
    c.measure.update({"grid_points": 8, "problems": 512, "completions": 4, "probes": ("samples", "loss_tokens")})
    c.probe = ConfigDict({"samples": {"samples": 1, "ks": (1,)}})
    if argument == "smoke":
        c.seeds.count = 2
        c.model.update({"width": 32, "layers": 1, "heads": 2, "kv_heads": 2, "ff": 64})
        c.train.update({"steps": 40, "prompts": 4})
        c.measure.update({"grid_points": 3, "problems": 64})
    return c
