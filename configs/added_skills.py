"""Do two skills that were learned apart, each through a low-rank adapter, go together when the adapters are added up?

Question: "Skill Expansion and Composition in Parameter Space" composes skills that are low-rank updates of one base by adding
them. Here one adapter learns sums and one learns to copy, of which the base knows the first in part and the second not at all;
their updates are added to the base. It is compared with the average of both, which halves every update, and with an adapter
for copying that was trained from where the one for sums has ended, which can adapt to it and may forget it.
Controls: each skill alone, which says what adding the other one costs.

Command:   python -m experiments.run --config=added_skills          (5 seeds, 5 arms)
           python -m experiments.run --config=added_skills:smoke    (2 seeds, tiny)
Gate:      the adapters for sums and for copying raise success by 0.05, each on its own task, or no claim is supported: every
           one is about their sum. `in-turn` is a control that need not learn.
Healthy:   at start, success on `copying` is 0.
Differs from the paper in: SFT on two symbolic tasks instead of control; fixed shares instead of a learned gate, and no library
           of skills (*reconstructed*: the sum alone).
Came out:  (bundle e81ee119d98c, 5 seeds) the sum copies better than the average, +0.289 [+0.170, +0.408], and adds far worse
           than sums alone, -0.325 [-0.350, -0.300] (the claim's +0.325): both SUPPORTED. It adds worse than adapters trained in
           turn, -0.029 [-0.047, -0.011], CONTRADICTED. Copying alone copies no better beyond doubt, +0.046 [-0.094, +0.187],
           INCONCLUSIVE at 0.02.
Learning rate: the adapters' rate of rlvr_masks, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "8 min on one busy CPU core"


def _claim(name, statement, arms, split, primary=True, **fields):
    return defaults.claim(name, statement, "policy.success", arms, primary=primary, split=split, **fields)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("sum-beats-average", "The sum of both updates copies better than their average.", ("added", "averaged"), "copying"),
    _claim("sum-keeps-sums", "The sum of both updates adds better than an adapter for copying trained after that for sums.",
           ("added", "in-turn"), "id"),
    _claim("copying-pays", "Copying alone copies better than the sum of both updates.", ("copying", "added"), "copying"),
    _claim("sums-pay", "Sums alone add better than the sum of both updates.", ("sums", "added"), "id"),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c = defaults.sized(argument)
    c.title, c.question = "Skills added up", __doc__.splitlines()[0]
    c.tasks = ConfigDict({"copying": {"name": "rasp", "problem": "copy_repeats", "length": (2, 4), "ood_length": (5, 5)}})
    c.pretrain.success_low = 0.2  # of sums
    c.train.learning_rate = 1e-3
    c.tune = ConfigDict({"rank": 8 if argument == "default" else 4, "lora_alpha": 16.0})
    c.arm = ConfigDict({
        "sums": {"objective": "cross_entropy", "trainable": "lora"},
        "copying": {"like": "sums", "task": "copying"},
        "in-turn": {"like": "copying", "start": "sums"},
        "added": {"start": ("base", "sums", "copying"), "edit": {"add": {"shares": (1.0, 1.0)}}},
        "averaged": {"start": ("sums", "copying")},
    })
    c.arms = ("sums", "copying", "in-turn", "added", "averaged")
    c.gate.first_only = True  # in-turn need not learn; a sum and an average need both of their adapters
    return c
