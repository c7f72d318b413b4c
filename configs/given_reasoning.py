"""Does RL teach a policy to carry out reasoning that it is given, or to reason for itself, and what does SFT teach?

Question: "Beyond Accuracy: Dissecting Mathematical Reasoning for LLMs Under Reinforcement Learning" (arXiv:2506.04723) gives
models plans and finds that RL does not mainly improve how a given plan is carried out, and that models after RL lose less by
a plan that does not serve them than models after SFT. Here the parity of up to six bits is reasoned out bit by bit. Before an
answer the first quarter, half, three quarters or the whole of the oracle's reasoning is forced, or that of another problem; SFT
and GRPO start from one base and are compared at equal success.
Controls: another problem's reasoning of the same share, in the null of each row; free answers, scored for the other problem;
GRPO with rewards permuted within each group.

Command:   python -m experiments.run --config=given_reasoning          (5 seeds, 3 arms)
           python -m experiments.run --config=given_reasoning:smoke    (2 seeds, tiny)
Healthy:   `policy.success_given_reasoning` grows with the share and is near 1 at share 1; its null falls with the share.
Reads:     an answer behind another problem's reasoning comes from that reasoning (`policy.follows_reasoning` near 1) or from
           the prompt (near 0): the two answers differ wherever it is counted.
Differs from the paper in: parts of one written reasoning instead of plans, subproblems and facts that people wrote; a small
           transformer and one task; what is given stands in the answer, not in the prompt.
Came out:  (bundle a0f21264bcc5, 5 seeds) half of the own reasoning is worth +0.141 [+0.062, +0.219] more than half of another
           problem's, SUPPORTED, and after GRPO +0.592 [+0.439, +0.745] more than with permuted rewards, SUPPORTED, where that
           control has unlearned to answer (success 0.05, a guess has 0.5): the difference is its collapse. At equal success
           GRPO follows another problem's reasoning as often as SFT, +0.005 [-0.015, +0.025], INCONCLUSIVE. Whole
           reasoning is carried out alike, +0.0026 [-0.0017, +0.0068]: within the margin, read from the bundle's rows, since
           the commit of that run read no statistic with several shares at equal success.
Learning rate: the default of rlvr_sparsity's pilot, the same for all arms, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "17 min on one CPU core (smoke 4 CPU minutes)"


def _claim(name, statement, arms, metric="policy.success_given_reasoning", share=None, **fields):
    fields |= {"params": {"share": share}} if share else {}
    return defaults.claim(name, statement, metric, arms, **({"split": "id", "at": "matched_success"} | fields))


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("rl-carries-out-no-better", "At equal success GRPO and SFT carry out reasoning that is given whole equally well.",
           ("grpo", "sft"), share=1, direction="equivalent", threshold=0.0, equivalence_margin=0.02),
    _claim("rl-follows-less", "At equal success GRPO follows another problem's reasoning less often than SFT.", ("grpo", "sft"),
           "policy.follows_reasoning", direction="less", threshold=-0.02),
    _claim("halves-serve", "After GRPO half of the own reasoning is worth more than half of another problem's.", ("grpo",),
           share=0.5, kind="excess_over_null", at="final"),
    _claim("reward-matters", "After GRPO half of the reasoning is worth more than after GRPO with permuted rewards.",
           ("grpo", "permuted"), share=0.5, at="final"),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c = defaults.sized(argument)
    c.title, c.question = "Reasoning that is given", __doc__.splitlines()[0]
    c.papers = ("2506.04723",)
    c.task = ConfigDict({"name": "rasp", "problem": "parity", "style": "cot", "length": (3, 6), "ood_length": (7, 8)})
    c.pretrain.update({"success_low": 0.6, "success_high": 0.8, "problems": 512})  # a guess has 0.5
    c.train.learning_rate = 1e-4
    c.arm = ConfigDict({
        "sft": {"objective": "cross_entropy"},
        "grpo": {"objective": "grpo"},
        "permuted": {"like": "grpo", "permute_rewards": True},
    })
    c.arms = tuple(c.arm)
    c.gate.first_only = True  # the control is not meant to learn
    c.measure.probes = ("weight", "policy", "loss_tokens", "given_reasoning")
    return c
