"""Does a length budget that shrinks along training make answers right within the final budget?

Question: Train Long, Think Short (arXiv:2508.08940) begins with a generous target B(t) of the length term of the reward and
shrinks it, and reports more accuracy within the final budget than a fixed target, and that one late drop ruins it. Here answers
are chains with reasoning that goes astray twice, 18 tokens for the shortest ones and 22 for the others, which fit once a detour
is left out. Arms differ in B(t) alone: decaying (32, 26, 22, 18 tokens), the final target from the start, one late drop to it,
the decaying targets in reversed order, and no length term. Measured on the same problems with room for the final budget alone
(`brief`): longer answers are cut there and wrong.

Command:   python -m experiments.run --config=length_budget          (3 seeds, 5 arms)
           python -m experiments.run --config=length_budget:smoke    (2 seeds, tiny)
Gate:      the first arm of a claim solves half of the problems within the final budget at some step; else it supports nothing.
Healthy:   `reward_triangular_length` in the events rises in every arm with a length term; success on `id`, with all the room,
           does not fall below the base's.
Differs from the paper in: a small transformer and one task; the budget is not written into the prompt; no format term.
Came out:  (bundle cc3144c87af2, 3 seeds) all INCONCLUSIVE at 0.02: within the final budget the decaying one against that budget
           from the start -0.037 [-0.107, +0.034], against a late drop +0.020 [-0.041, +0.080], against reversed targets +0.022
           [+0.002, +0.042], against no length term -0.012 [-0.037, +0.014]; with all the room against a late drop +0.018
           [-0.021, +0.057]. Seeds end at 0.68 to 0.74: three do not resolve 0.02.
Learning rate: the default of rlvr_sparsity's pilot, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "15 min on one busy CPU core"
FIRST, LAST = 32.0, 18.0  # tokens of the first and of the final budget


def _claim(name, statement, arms, primary=True, split="brief"):
    return defaults.claim(name, statement, "policy.success", arms, primary=primary, split=split)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("decay-beats-fixed", "A decaying budget solves more within the final one than that budget from the start.",
           ("decaying", "fixed")),
    _claim("decay-beats-late-drop", "A decaying budget solves more within the final one than one late drop.",
           ("decaying", "late-drop")),
    _claim("decay-beats-reversed", "A decaying budget solves more within the final one than its targets in reversed order.",
           ("decaying", "reversed")),
    _claim("term-matters", "A decaying budget solves more within the final one than no length term.", ("decaying", "none"),
           primary=False),
    _claim("late-drop-forgets", "With all the room, a decaying budget solves more than one late drop.",
           ("decaying", "late-drop"), primary=False, split="id"),
)


def _budget(first: float, factor: float, every: str) -> dict:
    return {"like": "none", "reward": {"correct": 0.6, "triangular_length": {"weight": 0.3, "length": int(LAST)}},
            "curriculum": {"length_budget": {"first": first, "factor": factor, "every": every}}}


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c = defaults.sized(argument)
    c.title, c.question = "Length budgets along training", __doc__.splitlines()[0]
    c.papers = ("2508.08940",)
    c.seeds.count = min(c.seeds.count, 3)
    nodes = {"nodes": (3, 4), "ood_nodes": (5, 5)}
    c.task = ConfigDict({"name": "chains", "style": "backtrack(2)", **nodes})
    c.tasks = ConfigDict({"brief": {"name": "chains", "room": int(LAST), **nodes}})
    c.second.update({"nodes": (2, 2), "ood_nodes": (3, 3)})  # answered without reasoning
    c.pretrain.update({"success_low": 0.65, "success_high": 0.85})  # an answer is one of two labels: a guess has 0.5
    c.train.update({"learning_rate": 1e-4, "steps": 120 if argument == "default" else 8})
    shrink = (LAST / FIRST) ** (1 / 3)
    c.arm = ConfigDict({
        "none": {"objective": "grpo"},
        "decaying": _budget(FIRST, shrink, "train.steps/4"),
        "fixed": _budget(LAST, 1.0, "train.steps/4"),
        "late-drop": _budget(FIRST, LAST / FIRST, "train.steps*3/4"),
        "reversed": _budget(LAST, 1 / shrink, "train.steps/4"),
    })
    c.arms = tuple(c.arm)
    c.gate = ConfigDict({"kind": "mean_reached", "metric": "policy.success", "split": "brief", "level": 0.5,
                         "first_only": True})
    return c
