"""Does a KL penalty towards the average of two SFT models let RL reach more than one towards the model that it starts from?

Question: SALSA (arXiv:2411.01798) replaces the reference policy of PPO, an SFT model, by the average of the parameters of two
independently tuned ones, and reports that the policy moves further and earns more reward, out of distribution too. Here two SFT
stages see different batches; RL starts from the first and is held by a k1 penalty in the reward to the first, to the average
of both, or to nothing.
Controls: RL that starts from the average, held to it (a better place rather than a better reference); the second SFT model
alone as the reference (another model, without averaging); rewards permuted within each group.

Command:   python -m experiments.run --config=soup_reference          (5 seeds, 8 arms)
           python -m experiments.run --config=soup_reference:smoke    (2 seeds, tiny)
Healthy:   SFT raises success on fresh problems, RL goes beyond it, the permuted control does not.
Differs from the paper in: GRPO instead of PPO; a small transformer and a verifier instead of a reward model; the two SFT stages
           start from one base and differ in their batches. The paper's coefficient was not found; 0.05 is ours.
Came out:  (bundle 96f0cd91f775, 5 seeds) nothing can be said: RL itself moved success on fresh problems by +0.026
           [-0.005, +0.057] after SFT had moved it by +0.116, so that no reference had anything to hold back, and the gate (the
           arm's own stage) makes all five INCONCLUSIVE: on fresh problems -0.002 [-0.014, +0.009], with carries +0.004 [-0.008,
           +0.016], against the other model -0.005 [-0.024, +0.015], bf16 weights unchanged +0.0001 [-0.0003, +0.0004].
Learning rate: the default of rlvr_sparsity's pilot, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "6 min on one idle CPU core"
PAIR = ("soup", "own")

# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    defaults.claim("soup-earns-more", "Held to the average RL has higher success on fresh problems than held to its start.",
                   "policy.success", PAIR, split="id"),
    defaults.claim("soup-earns-more-outside", "Held to the average RL has higher success on problems with carries than held to "
                   "its start.", "policy.success", PAIR, split="ood/carry"),
    defaults.claim("average-not-another", "Held to the average RL has higher success on fresh problems than held to the other "
                   "SFT model.", "policy.success", ("soup", "other"), split="id"),
    defaults.claim("reference-not-start", "Held to the average RL has higher success on fresh problems than RL that starts "
                   "from the average.", "policy.success", ("soup", "from-soup"), split="id", primary=False),
    defaults.claim("soup-moves-further", "Held to the average RL leaves fewer bf16 weights of the base unchanged.",
                   "weight.sparsity.bf16", PAIR, dtype="bf16", direction="less", threshold=-0.02, primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c = defaults.sized(argument)
    c.title, c.question = "A soup as the reference policy", __doc__.splitlines()[0]
    c.papers = ("2411.01798",)
    c.train.learning_rate = 1e-4
    held = {"kl_place": "reward", "kl_estimator": "k1", "kl_coef": 0.05}
    c.arm = ConfigDict({
        "sft-a": {"objective": "cross_entropy", "steps": "train.steps/2"},
        "sft-b": {"like": "sft-a", "independent": True},
        "own": {"objective": "grpo", "settings": held, "steps": "train.steps/2", "start": "sft-a", "reference": "start"},
        "soup": {"like": "own", "reference": ("sft-a", "sft-b")},
        "other": {"like": "own", "reference": "sft-b"},
        "from-soup": {"like": "own", "start": ("sft-a", "sft-b")},
        "free": {"objective": "grpo", "steps": "train.steps/2", "start": "sft-a"},
        "permuted": {"like": "own", "permute_rewards": True},
    })
    c.gate.since = "start"  # RL itself has to move success, not SFT before it
    c.arms = ("own", "soup", "other", "from-soup", "free", "permuted")
    return c
