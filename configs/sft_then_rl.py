"""SFT and then RL, or both at once: which of the ways to combine them learns, generalises, forgets and moves weights how?

Question: ReFT (arXiv:2401.08967) warms up with SFT, "SFT or RL?" (arXiv:2504.11468) reports that such a warm-up can hinder
the RL after it, and CHORD, LUFFY, SRFT, SASR, AMFT, UFT and Prefix-RFT train on demonstrations and rollouts in one step. All
of them run here from one base, at one learning rate, on the same number of rows and optimizer steps, and are compared in
success on fresh problems, on problems with carries, on the second task (forgetting), and in the geometry of the update at
equal norm. Controls: SFT alone and GRPO alone for as many steps, and GRPO after SFT with rewards permuted within each group.

Command:   python -m experiments.run --config=sft_then_rl          (5 seeds, 11 arms)
           python -m experiments.run --config=sft_then_rl:smoke    (2 seeds, tiny)
Healthy:   SFT alone and GRPO alone raise success on fresh problems; the permuted control does not go beyond its warm-up.
Work:      every arm takes 150 steps of 128 rows; a second half has batches of its own and begins with new moments of AdamW.
Differs from the papers in: a small transformer whose demonstrations are answers without reasoning; defaults of each row.
Came out:  (bundle 3c2319a9ea42, 5 seeds) RL after SFT is below as many steps of SFT on problems with carries, -0.052 [-0.089,
           -0.016], and CHORD is below SFT and then RL on fresh problems, -0.038 [-0.063, -0.012]: both CONTRADICTED. RL after
           SFT beats RL alone by +0.045 [+0.012, +0.079], INCONCLUSIVE at 0.02; at equal norm it is as sparse as SFT
           (PRACTICALLY EQUIVALENT). The claim at equal success has no value: GRPO did not raise success beyond where SFT had
           left it (0.44 to 0.44), so that no seed reaches a common level from below.
Learning rate: the default of rlvr_sparsity's pilot, not tuned for any of the methods, which is a disadvantage to those whose
           papers tune it.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "19 min on one CPU core (smoke 6 min on two)"
HYBRIDS = ("chord_mu", "luffy", "srft", "sasr", "amft", "uft", "prefix_rft")

# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    defaults.claim("rl-after-sft-generalises", "RL after SFT has higher success on problems with carries than as many steps of "
                   "SFT.", "policy.success", ("sft-then-rl", "sft-then-sft"), split="ood/carry"),
    defaults.claim("warm-up-helps", "RL after SFT has higher success on fresh problems than RL alone for as many steps.",
                   "policy.success", ("sft-then-rl", "rl-then-rl"), split="id"),
    defaults.claim("rl-after-sft-keeps", "At the same success RL after SFT keeps more of the second task than SFT.",
                   "policy.success", ("sft-then-rl", "sft-then-sft"), split="second", at="matched_success"),
    defaults.claim("both-at-once", "CHORD has higher success on fresh problems than SFT and then RL.", "policy.success",
                   ("chord_mu", "sft-then-rl"), split="id"),
    defaults.claim("sparser-at-matched-norm", "At the same update norm RL after SFT leaves more bf16 weights unchanged than "
                   "SFT.", "weight.sparsity.bf16", ("sft-then-rl", "sft-then-sft"), dtype="bf16", at="matched_norm",
                   primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c, small = defaults.sized(argument), argument == "smoke"
    c.title, c.question = "SFT and RL, in turn or at once", __doc__.splitlines()[0]
    c.papers = ("2401.08967", "2504.11468")
    c.train.learning_rate = 1e-4
    c.arm = ConfigDict({
        "sft": {"objective": "cross_entropy", "steps": "train.steps/2"},
        "rl": {"objective": "grpo", "steps": "train.steps/2"},
        "sft-then-sft": {"like": "sft", "start": "sft", "independent": True},  # of the batches of the first half
        "rl-then-rl": {"like": "rl", "start": "rl", "independent": True},
        "sft-then-rl": {"like": "rl", "start": "sft", "independent": True},
        "permuted": {"like": "sft-then-rl", "permute_rewards": True},
        **{name: {"objective": name} for name in HYBRIDS},
    })
    c.arms = ("sft-then-sft", "rl-then-rl", "sft-then-rl", "permuted", *(HYBRIDS[:2] if small else HYBRIDS))
    return c
