"""Is there a sampling temperature for RL, named by the entropy that it gives the policy, that learns most?

Question: "AceReason-Nemotron 1.1" (arXiv:2506.13284) reports that RL gains most when the sampling temperature is chosen so that
the temperature-adjusted entropy stays around 0.3, and that a stronger SFT start ends higher. Here GRPO runs at four sampling
temperatures from one base, and at temperature 1 from a short and a long SFT; the entropy of softmax(logits / T) is read at each
of the four on the policy's own samples.
Controls: rewards permuted within each group, at the lowest and the highest temperature: what sampling alone does to entropy.

Command:   python -m experiments.run --config=sampling_entropy          (5 seeds, 8 arms and 2 starts)
           python -m experiments.run --config=sampling_entropy:smoke    (2 seeds, tiny)
Healthy:   GRPO at temperature 1 raises success; entropy at a temperature grows with the temperature in every arm.
Reads:     GRPO trains the policy that it samples from, at its temperature; success is of samples at temperature 1 in all arms.
Differs from the paper in: a small transformer and answers of a few symbols, whose entropy differs from that of long
           reasoning, so that 0.3 is a number of theirs; temperatures are fixed and do not follow the entropy.
Came out:  (bundle 7a262fe16889, 5 seeds) GRPO ends higher after the long SFT, +0.053 [+0.040, +0.066], SUPPORTED. Sampling at 1
           against 0.4, +0.025 [-0.004, +0.054], and against 1.4, +0.002 [-0.025, +0.028], INCONCLUSIVE. Sampling at 1.4 leaves
           *less* entropy at temperature 1 than sampling at 0.4, -0.055 [-0.059, -0.051], CONTRADICTED: the policy that is
           trained is softmax(logits / 1.4), which is sharper at 1.
Learning rate: the default of rlvr_sparsity's pilot, the same for all arms, not tuned for any temperature.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "17 min on one CPU core (smoke 6 min on two busy ones)"
TEMPERATURES = (0.4, 0.7, 1.0, 1.4)


def _success(name, statement, arms, **fields):
    return defaults.claim(name, statement, "policy.success", arms, split="id", **fields)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _success("cold-is-worse", "GRPO that samples at temperature 1 ends with higher success than at 0.4.",
             ("grpo-t2", "grpo-t0")),
    _success("hot-is-worse", "GRPO that samples at temperature 1 ends with higher success than at 1.4.",
             ("grpo-t2", "grpo-t3")),
    _success("stronger-start-stays-ahead", "GRPO after a long SFT ends with higher success than after a short one.",
             ("after-long", "after-short")),
    defaults.claim("hot-keeps-entropy", "GRPO that samples at 1.4 ends with higher entropy at temperature 1 than at 0.4.",
                   "policy.entropy_at_temperature", ("grpo-t3", "grpo-t0"), split="id", params={"temperature": 1},
                   threshold=0.05),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c = defaults.sized(argument)
    c.title, c.question = "Sampling temperature and entropy in RL", __doc__.splitlines()[0]
    c.papers = ("2506.13284",)
    c.train.learning_rate, c.train.temperatures = 1e-4, TEMPERATURES
    c.train.steps = 150 if argument == "default" else 6
    c.arm = ConfigDict({
        "grpo-t{}": {"objective": "grpo", "over": {"temperature": "train.temperatures"}},
        "permuted-t{}": {"objective": "grpo", "permute_rewards": True, "over": {"temperature": "train.temperatures"}},
        "short": {"objective": "cross_entropy", "steps": "train.steps/6"},
        "long": {"objective": "cross_entropy", "steps": "train.steps/2"},
        "after-short": {"objective": "grpo", "start": "short"},
        "after-long": {"objective": "grpo", "start": "long"},
    })
    c.arms = (*(f"grpo-t{i}" for i in range(4)), "permuted-t0", "permuted-t3", "after-short", "after-long")
    c.measure.probes = ("weight", "policy", "loss_tokens", "samples", "advantage_covariance")
    c.probe = ConfigDict({"samples": {"samples": 4, "ks": (1, 4), "temperatures": TEMPERATURES}})
    return c
