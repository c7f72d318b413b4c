"""Does averaging a tuned model with its base solve problems that neither solves, more often than chance would have it?

Question: "Spurious Feature Diversification Improves Out-of-distribution Generalization" (arXiv:2309.17230) explains the gain
of weight-space averages (WiSE-FT) by "false, false, true" cases: both ends are wrong and the average is right, because each
relies on other features. This config counts them on fresh problems of the new task, for SFT and for GRPO, against
independence: the share solved by the average times the share solved by neither end. The averages are arms as well, so their
success out of distribution is compared with that of their tuned ends.

Command:   python -m experiments.run --config=weight_interpolation          (5 seeds, 5 arms; about 8 minutes on two CPU cores)
           python -m experiments.run --config=weight_interpolation:smoke    (2 seeds, tiny; about 2 minutes)
Healthy:   SFT and GRPO raise success; the averages lie between their ends or above; with 512 problems the share of
           false-false-true cases is known to about 0.01.
Differs from the paper in: a generative task and greedy tokens of demonstrations instead of image classes; the distribution
           shift is of operands (carries, length), with no spurious features planted.
Came out:  (bundle af9f76d1671a) SFT raised success by 0.38, GRPO by 0.13. Cases that only the average solves are fewer
           than independence says: SFT -0.032 [-0.042, -0.021], GRPO -0.113 [-0.125, -0.102], contradicted. On carries the
           average with the base is below SFT by -0.157 [-0.169, -0.144], contradicted, and GRPO -0.009 [-0.028, +0.010],
           inconclusive. Solved cases go together across the path, so independence is a high bar.
Learning rates: chosen before the first run from the range that rlvr_sparsity's pilot found, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "8 min on two CPU cores (smoke 2 min)"


def _beyond_chance(arm: str) -> dict:
    return defaults.claim(f"{arm}-beyond-chance", f"Halfway between the base and {arm.upper()} more problems are solved that "
                          "neither end solves than independence says.", "interpolation.false_false_true", (arm,),
                          kind="excess_over_null", threshold=0.01)


def _better(average: str, tuned: str, split: str) -> dict:
    return defaults.claim(f"{average}-on-{split.rpartition('/')[2]}", f"The average of the base and {tuned.upper()} has higher "
                          f"success on {split} than {tuned.upper()}.", "policy.success", (average, tuned), threshold=0.01,
                          split=split)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (_beyond_chance("sft"), _beyond_chance("grpo"), _better("sft-average", "sft", "ood/carry"),
          _better("grpo-average", "grpo", "ood/carry"))


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = defaults.study()
    c.title, c.question = "Averages of a tuned model and its base", __doc__.splitlines()[0]
    c.papers = ("2309.17230",)
    c.train.learning_rate = 2e-4
    c.arm = ConfigDict({
        "sft": {"objective": "cross_entropy"},
        "grpo": {"objective": "grpo"},
        "sft-average": {"start": ("base", "sft")},
        "grpo-average": {"start": ("base", "grpo")},
        "both-average": {"start": ("sft", "grpo")},
    })
    c.arms = ("sft", "grpo", "sft-average", "grpo-average", "both-average")
    c.measure.update({"problems": 512, "probes": ("weight", "policy", "interpolation", "loss_tokens")})
    return defaults.smaller(c) if argument == "smoke" else c
