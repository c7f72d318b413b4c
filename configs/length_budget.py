"""Does a length budget that shrinks along training make answers right within the final budget?

Question: Train Long, Think Short (arXiv:2508.08940) begins with a generous target B(t) of the length term of the reward and
shrinks it, and reports more accuracy within the final budget than a fixed target, and that one late drop ruins it. Here answers
are chains with reasoning that goes astray twice, and can be written without. Arms differ in B(t) alone: decaying (32, 22, 16,
11 tokens), the final target from the start, one late drop to it, the decaying targets in reversed order, and no length term.
Measured on the same problems with room for the final budget alone (`brief`): longer answers are cut there and wrong.

Command:   python -m experiments.run --config=length_budget          (3 seeds, 5 arms)
           python -m experiments.run --config=length_budget:smoke    (2 seeds, tiny)
Healthy:   `reward_triangular_length` in the events rises in every arm with a length term; success on `id`, with all the room,
           does not fall below the base's.
Differs from the paper in: a small transformer and one task; the budget is not written into the prompt; no format term.
Came out:  not run yet; of the smoke form see the README of this repository's studies.
Learning rate: the default of rlvr_sparsity's pilot, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "not measured"
STEPS, FIRST, FACTOR, LAST = 120, 32.0, 0.7, 11


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
    _claim("late-drop-forgets", "With all the room, a decaying budget solves more than one late drop.", ("decaying", "late-drop"),
           primary=False, split="id"),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c, small = defaults.sized(argument), argument == "smoke"
    c.title, c.question = "Length budgets along training", __doc__.splitlines()[0]
    c.papers = ("2508.08940",)
