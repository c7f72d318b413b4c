"""Does RL forget less of an earlier task than SFT when tasks are learned one after the other?

Question: "Reinforcement Fine-Tuning Naturally Mitigates Forgetting in Continual Post-Training" (arXiv:2507.05386) trains on a
sequence of tasks and finds that SFT loses earlier ones while RL keeps them, with and without a KL penalty. Here the sequence
has two tasks: addition, then longer chains of edges to follow. The first task is learned once, by GRPO, and its end is where
four arms start the second task: SFT, GRPO, GRPO with a KL penalty towards that start, and GRPO with shuffled rewards.
Success on addition (id) is read where the arms first have equal success on the second task (later).

Command:   python -m experiments.run --config=continual_forgetting          (5 seeds, 5 arms; about 15 minutes on two CPU cores)
           python -m experiments.run --config=continual_forgetting:smoke    (2 seeds, tiny; about 2 minutes)
Healthy:   the first stage raises addition; SFT and GRPO raise success on the second task; the shuffled control does not.
Differs from the paper in: two synthetic tasks instead of seven of vision and language, no chain of thought, and the paper's
           filter of rollouts is absent.
Came out:  (bundle dac8f19aeefe) success on the second task went from 0.58 to 0.71 with GRPO and to 0.65 with SFT, on the first
           from 0.39 to 0.36 in both. GRPO - SFT at equal success +0.017 [-0.025, +0.058] and with KL +0.017 [-0.025, +0.059]:
           inconclusive. The KL penalty against none +0.002 [-0.004, +0.008]: practically equivalent.
Learning rates: chosen before the first run from the range that rlvr_sparsity's pilot found, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "15 min on two CPU cores (smoke 2 min)"


def _claim(name, statement, arms, at, primary=True):
    return defaults.claim(name, statement, "policy.success", arms, at=at, primary=primary, split="id", matched_on="later")


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("grpo-forgets-less", "At equal success on the second task GRPO keeps more of the first than SFT.",
           ("grpo", "sft"), "matched_success"),
    _claim("kl-forgets-less", "At equal success on the second task GRPO with a KL penalty keeps more of the first than SFT.",
           ("grpo-kl", "sft"), "matched_success"),
    _claim("kl-is-not-needed", "At equal success on the second task the KL penalty keeps more of the first than none.",
           ("grpo-kl", "grpo"), "matched_success"),
    _claim("grpo-forgets-less-at-the-end", "After as many steps GRPO keeps more of the first task than SFT.",
           ("grpo", "sft"), "final", primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = defaults.study()
    c.title, c.question = "Forgetting when tasks come one after the other", __doc__.splitlines()[0]
    c.papers = ("2507.05386",)
    c.tasks = ConfigDict({"later": {"name": "chains", "nodes": (4, 4), "ood_nodes": (5, 5)}})
    c.train.learning_rate = 1e-4
    c.arm = ConfigDict({
        "addition": {"objective": "grpo"},
        "sft": {"objective": "cross_entropy", "task": "later", "start": "addition"},
        "grpo": {"like": "sft", "objective": "grpo"},
        "grpo-kl": {"like": "grpo", "settings": {"kl_place": "loss", "kl_coef": 0.05}, "reference": "start"},
        "shuffled": {"like": "grpo", "permute_rewards": True},
    })
    c.arms = ("sft", "grpo", "grpo-kl", "shuffled")
    if argument == "smoke":
        c = defaults.smaller(c)
        c.tasks.later.update({"nodes": (3, 3), "ood_nodes": (4, 4)})
    return c
