"""What is an answer worth whose reasoning is cut short, after RL and after SFT?

Question: "Are Large Reasoning Models Interruptible?" (arXiv:2510.11713) cuts reasoning after a part of its tokens and asks for
the answer. Here the parity of up to six bits is reasoned out bit by bit, four tokens a bit; the mark that ends the reasoning is
forced after 0, 4, ..., 24 tokens, and the policy answers with what it has. SFT imitates whole reasoning, RL (GRPO) is rewarded
for the answer alone, so that it may come to need fewer tokens; both start from one base and are compared at equal success.
Controls: in the null of each row, the same cut behind as many tokens of the same reasoning in a random order; GRPO with rewards
permuted within each group; GRPO whose reasoning is cut after twelve tokens in training, which has seen what it is tested on.

Command:   python -m experiments.run --config=interrupt          (5 seeds, 4 arms)
           python -m experiments.run --config=interrupt:smoke    (2 seeds, tiny)
Healthy:   `policy.interrupted_success` grows with the budget and meets success without a cut at 24 tokens; at budget 0 it is
           near the guess, 1/2, as is its null at every budget; `policy.interrupted_share` is 0 at 24.
Differs from the paper in: a small transformer and one task; budgets are tokens, not parts of each answer's own length; no
           change of the problem while it is reasoned about.
Came out:  (bundle cbc01c33e46a, 5 seeds) after GRPO half of the reasoning is worth +0.345 [+0.291, +0.399] more than the same
           tokens in another order, SUPPORTED. SFT does not wait for more tokens at equal success, -0.22 [-0.55, +0.10] tokens,
           INCONCLUSIVE; beyond permuted rewards GRPO is +0.21 [+0.01, +0.40] under the cut, INCONCLUSIVE. GRPO under cuts lost
           success (-0.113 [-0.284, +0.059]), so that practice supports nothing; it is +0.23 [+0.06, +0.40] below GRPO without
           cuts where nothing is cut, SUPPORTED. Not healthy as stated above: cut at 0 to 8 tokens no arm answers at all
           (success 0, not 1/2), so that what the controls lack is the form of an answer as much as its content.
Learning rate: the default of rlvr_sparsity's pilot, the same for all arms, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults
from jaxpost.tasks import traces

RUN_TIME = "23 min on one CPU core (smoke 9 min on two busy ones)"
BUDGETS, CUT = (0, 4, 8, 12, 16, 20, 24), 12  # tokens of reasoning
_AT = {"params": {"budget": CUT}}


def _claim(name, statement, metric, arms, **fields):
    return defaults.claim(name, statement, f"policy.interrupted_{metric}", arms, split="id", **fields)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("rl-waits-less", "At equal success SFT waits for more tokens of reasoning than GRPO.", "budget", ("sft", "grpo"),
           at="matched_success", threshold=0.5),
    _claim("content-matters", "After GRPO half of the reasoning is worth more than the same tokens in another order.",
           "success", ("grpo",), kind="excess_over_null", **_AT),
    _claim("practice-helps", "GRPO under cuts reaches higher success than GRPO where the reasoning is cut as in training.",
           "success", ("grpo-cut", "grpo"), **_AT),
    _claim("reward-matters", "Where the reasoning is cut, GRPO reaches higher success than with permuted rewards.", "success",
           ("grpo", "permuted"), **_AT),
    defaults.claim("practice-is-free", "GRPO under cuts reaches lower success than GRPO where nothing is cut.",
                   "policy.success", ("grpo", "grpo-cut"), split="id", primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c = defaults.sized(argument)
    c.title, c.question = "Answers whose reasoning is cut", __doc__.splitlines()[0]
    c.papers = ("2510.11713",)
    c.task = ConfigDict({"name": "rasp", "problem": "parity", "style": "cot", "length": (3, 6), "ood_length": (7, 8)})
    c.pretrain.update({"success_low": 0.6, "success_high": 0.8, "problems": 512})  # a guess has 0.5
    c.train.learning_rate = 1e-4
    c.arm = ConfigDict({
        "sft": {"objective": "cross_entropy"},
        "grpo": {"objective": "grpo"},
        "permuted": {"like": "grpo", "permute_rewards": True},
        "grpo-cut": {"like": "grpo", "forcing": {"interrupt": {"at": 1 + CUT, "words": (traces.END,)}}},
    })
    c.arms = tuple(c.arm)
    c.gate.first_only = True  # controls are not meant to learn
    c.measure.probes = ("weight", "policy", "loss_tokens", "interrupted")
    c.probe = ConfigDict({"interrupted": {"budgets": BUDGETS}})
    return c
