"""Does RL narrow what a policy says, and does it generalise better, than SFT at the same success?

Question: "Understanding the Effects of RLHF on LLM Generalisation and Diversity" (arXiv:2310.06452) finds that RLHF generalises
better than SFT out of distribution and has much lower diversity per input, and that a larger KL coefficient does not give it
back. Here both start from one base, learn addition from a verifier or from demonstrations, and are compared where they first
have equal success: in distinct n-grams, similarity and entropy of eight answers to one prompt, across prompts, and in the gap
to problems with a carry everywhere.
Controls: rewards permuted within each group; GRPO with a KL penalty; RAFT, which imitates the policy's own solved samples.

Command:   python -m experiments.run --config=diversity          (5 seeds, 5 arms)
           python -m experiments.run --config=diversity:smoke    (2 seeds, tiny)
Healthy:   SFT and GRPO raise success on fresh problems, the permuted control does not; the base reads as arm "base" at step 0.
Reads:     a policy that is right more often is less varied, whatever it was trained with: hence equal success, and semantic
           entropy, in which all right answers are one.
Differs from the paper in: answers of a few symbols without reasoning, of which one is right; a verifier instead of a reward
           model; similarity of n-grams instead of sentence embeddings; success instead of a judge's preference.
Came out:  no claim supported (bundle e5804669d54a, 5 seeds; GRPO moved success by +0.106 [+0.087, +0.125], SFT by +0.227).
           At equal success answers of GRPO to one prompt are more alike, +0.0198 [+0.0115, +0.0282], and have less semantic
           entropy, -0.058 [-0.090, -0.026]: both are there and neither is beyond its threshold (inconclusive). The gap to
           carries, the KL penalty's entropy and likeness across prompts are practically equivalent.
Learning rate: the default of rlvr_sparsity's pilot, the same for all arms, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "12 min on one CPU core (smoke 5 min on two busy ones)"


def _claim(name, statement, metric, *, arms=("grpo", "sft"), split="id", **fields):
    return defaults.claim(name, statement, metric, arms, at="matched_success", split=split, **fields)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("rl-repeats-itself", "At equal success two answers of GRPO to one prompt are more alike than two of SFT.",
           "policy.similarity_per_input"),
    _claim("rl-means-less", "At equal success GRPO has lower semantic entropy per prompt than SFT.", "policy.semantic_entropy",
           direction="less", threshold=-0.05),
    _claim("rl-generalises", "At equal success GRPO loses less success on problems with carries than SFT.", "policy.ood_gap",
           split="ood/carry", direction="less", threshold=-0.02),
    _claim("kl-gives-it-back", "At equal success GRPO with a KL penalty has higher semantic entropy than without.",
           "policy.semantic_entropy", arms=("grpo-kl", "grpo"), threshold=0.05),
    _claim("rl-repeats-across", "At equal success answers of GRPO to different prompts are more alike than those of SFT.",
           "policy.similarity_across_inputs", primary=False),
    _claim("own-samples-do-it", "At equal success answers of RAFT to one prompt are more alike than those of SFT.",
           "policy.similarity_per_input", arms=("raft", "sft"), primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c = defaults.sized(argument)
    c.title, c.question = "Diversity and generalisation of SFT and RL at equal success", __doc__.splitlines()[0]
    c.papers = ("2310.06452",)
    c.train.learning_rate = 1e-4
    c.arm = ConfigDict({
        "sft": {"objective": "cross_entropy"},
        "grpo": {"objective": "grpo"},
        "grpo-kl": {"like": "grpo", "settings": {"kl_place": "loss", "kl_coef": 0.05}},
        "raft": {"objective": "raft"},
        "permuted": {"like": "grpo", "permute_rewards": True},
    })
    c.arms = ("sft", "grpo", "grpo-kl", "raft", "permuted")
    c.measure.probes = ("weight", "policy", "loss_tokens", "samples", "teacher_forced", "advantage_covariance")
    return c
