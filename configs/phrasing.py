"""Does SFT learn the words in which problems are told, and RL the problems?

Question: SFT on one phrasing is said to lose accuracy under another where GRPO does not (of spatial reasoning in vision-
language models; recalled, without a citation). Here a base knows part of a symbolic world of directions in four phrasings;
SFT and GRPO then train on scenes in one of them, and are evaluated in that one and in one that the stage has not seen, at the
end and at equal success.
Controls:  SFT on three phrasings, on as many rows; GRPO with rewards permuted within each group.

Command:   python -m experiments.run --config=phrasing          (5 seeds, 4 arms)
           python -m experiments.run --config=phrasing:smoke    (2 seeds, tiny)
Healthy:   SFT and GRPO raise success in the phrasing that they see; the permuted control does not.
Differs from the papers in: symbols instead of pictures; everything but the question is *reconstructed*.
Came out:  not run yet; the smoke form runs to its end (its arms learn nothing in eight steps).
Learning rate: the default of rlvr_sparsity's pilot, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "not measured (smoke 3 min on two CPU cores)"


def _claim(name, statement, arms, primary=True, **fields):
    return defaults.claim(name, statement, "policy.success", arms, primary=primary, split="unseen", **fields)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("rl-beats-sft-unseen", "In a phrasing that the stage has not seen GRPO has higher success than SFT.",
           ("grpo", "sft")),
    _claim("at-equal-success", "The same holds where both have the same success in the phrasing that they see.",
           ("grpo", "sft"), at="matched_success", matched_on="seen"),
    _claim("paraphrases-help-sft", "SFT on three phrasings has higher success in the fourth than SFT on one.",
           ("paraphrased", "sft")),
    _claim("reward-matters", "GRPO has higher success there than with permuted rewards.", ("grpo", "permuted"), primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c = defaults.sized(argument)
    c.title, c.question = "Phrasing", __doc__.splitlines()[0]
    c.task = ConfigDict({"name": "spatial", "phrasings": (0, 1, 2, 3)})  # what the base learns
    c.tasks = ConfigDict({name: {"name": "spatial", "phrasings": phrasings}
                          for name, phrasings in (("seen", (0,)), ("unseen", (3,)), ("three", (0, 1, 2)))})
    c.pretrain.update({"success_high": 0.7, "second_min": 0.8})
    c.train.learning_rate = 1e-4
    c.arm = ConfigDict({
        "sft": {"objective": "cross_entropy", "task": "seen"},
        "grpo": {"objective": "grpo", "task": "seen"},
        "paraphrased": {"like": "sft", "task": "three"},
        "permuted": {"like": "grpo", "permute_rewards": True},
    })
    c.arms = tuple(c.arm)
    c.gate.first_only = True  # controls are not meant to learn
    return c
