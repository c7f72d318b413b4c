"""How much backtracking should the traces of SFT hold before RL, and is it their content or their length that counts?

Question: "How Much Backtracking is Enough?" (arXiv:2505.24273) trains on traces with 0 to 10 detours before RL and reports that
one is best on Countdown and five on Sudoku, that false traces do as well as right ones, and that shuffled ones hurt. More
detours are more tokens, which nothing there holds equal. Here small decoders are trained from scratch on traces with 0, 1, 3
and 5 detours, each of which is undone and checked to fail, and then by GRPO with as much room as the longest.

Command:   python -m experiments.run --config=backtracking_dose          (3 seeds, 14 arms, Countdown)
           python -m experiments.run --config=backtracking_dose:sudoku   (the same on 4 x 4 Sudoku)
           python -m experiments.run --config=backtracking_dose:smoke    (2 seeds, few steps)
Controls:  of exactly the length of three detours: filler tokens, false steps, right steps in another order.
Healthy:   SFT without detours solves one in ten problems of its kind; GRPO raises that. An arm below that supports nothing.
Differs from the paper in: a small decoder from scratch in place of a language model; reward 1 or 0, without a format term;
           detours of one trace differ, and each is checked to fail.
Came out:  not run in its default form; the smoke form runs to its end (its arms learn nothing in so few steps).
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "about a day on one CPU core (a step of SFT 2 s for three seeds; smoke a few minutes)"
DOSES, CONTROLS = (0, 1, 3, 5), ("filler(3)", "wrong(3)", "shuffled(3)")


def _claim(name, statement, arms, primary=True, **fields):
    return defaults.solved(name, statement, arms, split="id", primary=primary, threshold=0.05, **fields)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("one-beats-none", "After RL, traces with one detour solve more than those without.", ("rl-1", "rl-0")),
    _claim("content-beats-filler", "After RL, traces with three detours solve more than as many filler tokens.",
           ("rl-3", "rl-filler")),
    _claim("order-matters", "After RL, traces with three detours solve more than their steps in another order.",
           ("rl-3", "rl-shuffled")),
    _claim("truth-matters", "After RL, traces with three detours solve more than as many false steps (the paper: as much).",
           ("rl-3", "rl-wrong")),
    _claim("five-beat-one", "After RL, traces with five detours solve more than those with one.", ("rl-5", "rl-1"),
           primary=False),
    _claim("rl-adds", "RL solves more than the SFT on one detour that it starts from.", ("rl-1", "sft-1"), primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default, sudoku or smoke."""
    defaults.require(argument, "default", "sudoku", "smoke")
    c = defaults.small_decoders()
    c.title, c.question = "The dose of backtracking before RL", __doc__.splitlines()[0]
    c.papers = ("2505.24273",)
    c.seeds.first = 600
    longest, world = {"sudoku": (222, {"name": "sudoku"})}.get(argument, (135, {"name": "countdown", "numbers": 3}))
    c.task = ConfigDict({**world, "room": longest})  # every style has the room of five detours
    c.train.update({"steps": 3000, "rl_steps": 300, "rl_learning_rate": 1e-4})
    styles = {**{str(k): f"backtrack({k})" for k in DOSES}, **{style.partition("(")[0]: style for style in CONTROLS}}
    sft = {f"sft-{name}": {"start": "scratch", "task_settings": {"style": style}} for name, style in styles.items()}
    rl = {f"rl-{name}": {"start": f"sft-{name}", "objective": "grpo", "steps": "train.rl_steps",
                         "learning_rate": "train.rl_learning_rate", "task_settings": {"style": style}}
          for name, style in styles.items()}
    c.arm = ConfigDict({**sft, **rl})
    c.arms = (*sft, *rl)
    c.gate = ConfigDict({"kind": "mean_reached", "metric": defaults.SOLVED, "split": "id", "level": 0.1, "first_only": True})
    if argument == "smoke":
        defaults.smaller_decoders(c)
        c.train.rl_steps = 4
        c.arms = ("sft-0", "sft-1", "sft-filler", "rl-0", "rl-1", "rl-filler")
    return c
