"""Does SFT fail under another rule because it is SFT, or because it has seen one prompt and no reasoning?

Question: "SFT Memorizes, RL Generalizes" (arXiv:2501.17161) trains on General Points with face cards worth 10 and finds that
SFT fails where they are worth 11 to 13 and RL does not; "Debunk the Myth of SFT Generalization" (arXiv:2510.00237) closes the
gap with diverse prompts and chains of thought. Here small decoders are trained from scratch on one rule or on eight, with
answers alone or with their steps, and one of them by GRPO after a short warm-up; `ood/rule` announces 11 to 13.

Command:   python -m experiments.run --config=another_rule          (3 seeds, 7 arms)
           python -m experiments.run --config=another_rule:smoke    (2 seeds, few steps)
Controls:  filler tokens have the length of the steps; `ood/fake` announces another rule than the verifier goes by: success
           there is success of who has not read the rule; GRPO with rewards permuted within each group.
Healthy:   every arm but the controls solves one hand in ten under its own rule; else it supports nothing.
Differs from the papers in: small decoders from scratch; reward 1 or 0; no second attempts; no KL to a base; RL starts from a
           warm-up on answers with steps.
Came out:  not run in its default form; the smoke form runs to its end (its arms learn nothing in so few steps).
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "not measured (smoke a few minutes on two CPU cores)"
FIXED = ((10, 10, 10),)
DIVERSE = ((8, 8, 8), (9, 9, 9), (10, 10, 10), (8, 9, 10), (7, 8, 9), (9, 10, 11), (5, 7, 9), (6, 8, 10))  # 9-11 is ours


def _claim(name, statement, arms, primary=True, split="ood/rule", **fields):
    return defaults.solved(name, statement, arms, split=split, primary=primary, threshold=0.05, **fields)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("rl-beats-sft", "Under another rule GRPO solves more than SFT with steps on one rule.", ("rl", "fixed-cot")),
    _claim("diverse-helps", "Under another rule SFT on eight rules solves more than SFT on one.", ("diverse", "fixed")),
    _claim("diverse-cot-beats-rl", "Under another rule SFT on eight rules with steps solves more than GRPO.",
           ("diverse-cot", "rl")),
    _claim("steps-help", "Under another rule SFT with steps solves more than with as many filler tokens.",
           ("fixed-cot", "fixed-filler")),
    _claim("reward-matters", "Under another rule GRPO solves more than with permuted rewards.", ("rl", "permuted"),
           primary=False),
    _claim("fixed-ignores-the-rule", "SFT on one rule solves more of the hands whose announced rule does not hold than SFT on "
           "eight.", ("fixed", "diverse"), primary=False, split="ood/fake"),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = defaults.small_decoders()
    c.title, c.question = "Another rule", __doc__.splitlines()[0]
    c.papers = ("2501.17161", "2510.00237")
    c.seeds.first = 700
    c.task = ConfigDict({"name": "general_points", "rules": FIXED})
    c.train.update({"steps": 4000, "warm_up": 3000, "rl_steps": 300, "rl_learning_rate": 1e-4})
    c.arm = ConfigDict({
        "fixed": {"start": "scratch"},
        "diverse": {"like": "fixed", "task_settings": {"rules": DIVERSE}},
        "fixed-cot": {"like": "fixed", "task_settings": {"style": "cot"}},
        "fixed-filler": {"like": "fixed", "task_settings": {"style": "filler"}},
        "diverse-cot": {"like": "fixed", "task_settings": {"rules": DIVERSE, "style": "cot"}},
        "warm-up": {"like": "fixed-cot", "steps": "train.warm_up"},
        "rl": {"like": "fixed-cot", "start": "warm-up", "objective": "grpo", "steps": "train.rl_steps",
               "learning_rate": "train.rl_learning_rate"},
        "permuted": {"like": "rl", "permute_rewards": True},
    })
    c.arms = ("fixed", "diverse", "fixed-cot", "fixed-filler", "diverse-cot", "rl", "permuted")
    c.gate = ConfigDict({"kind": "mean_reached", "metric": defaults.SOLVED, "split": "id", "level": 0.1, "first_only": True})
    if argument == "smoke":
        defaults.smaller_decoders(c)
        c.train.update({"warm_up": 40, "rl_steps": 4})
        c.arms = ("fixed", "diverse", "fixed-cot", "rl", "permuted")
    return c
