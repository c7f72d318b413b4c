"""Does writing the steps down solve problems that are hard at once, or would as many tokens without content do as well?

Question: "Towards Revealing the Mystery behind Chain of Thought" (arXiv:2305.15408) shows that a transformer of fixed depth
cannot evaluate long expressions at once and can do it step by step, because what it has written is a memory. Here small
decoders are trained from scratch on expressions modulo 11 with three or four operators: on answers alone, on every intermediate
expression before the answer, and on controls of exactly that length.

Command:   python -m experiments.run --config=step_by_step          (3 seeds, 4 arms)
           python -m experiments.run --config=step_by_step:smoke    (2 seeds, few steps)
Controls:  filler tokens have the length of the steps and no content; wrong steps have their form and false values.
Healthy:   the arm with steps solves three expressions in ten of its own sizes (split id); else no claim is supported. The
           controls are not asked to learn.
Differs from the paper in: one size of transformer, short expressions with every pair in parentheses, and exact match of an
           answer whose steps the model has sampled itself.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "some 2 h on one CPU core (smoke 2 min)"


def _claim(name, statement, control, split="id", primary=True):
    return defaults.solved(name, statement, ("steps", control), split=split, primary=primary)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("steps-help", "Expressions are solved more often step by step than at once.", "answers"),
    _claim("content-matters", "Steps help more than as many filler tokens.", "filler"),
    _claim("truth-matters", "Steps help more than as many false ones.", "wrong-steps"),
    _claim("deeper", "Expressions deeper than any in training are solved more often step by step than at once.", "answers",
           "ood/depth", primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = defaults.small_decoders()
    c.title, c.question = "Step by step", __doc__.splitlines()[0]
    c.papers = ("2305.15408",)
    c.seeds.first = 500
    c.task = ConfigDict({"name": "arithmetic", "size": (3, 4), "ood_size": (5, 5)})
    c.train.steps = 4000  # 128 rows a step
    c.arm = ConfigDict({
        "answers": {"start": "scratch"},
        "steps": {"like": "answers", "task_settings": {"style": "cot"}},
        "filler": {"like": "answers", "task_settings": {"style": "filler"}},
        "wrong-steps": {"like": "answers", "task_settings": {"style": "wrong"}},
    })
    c.arms = ("answers", "steps", "filler", "wrong-steps")
    c.gate = ConfigDict({"kind": "mean_reached", "metric": defaults.SOLVED, "split": "id", "level": 0.3, "first_only": True})
    if argument == "smoke":
        defaults.smaller_decoders(c)
        c.arms = ("answers", "steps", "filler")
        c.task.update({"size": (1, 1), "ood_size": (2, 2)})
    return c
