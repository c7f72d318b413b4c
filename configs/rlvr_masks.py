"""Which part of the weights does RLVR need: everything but the principal ones, as the case studies of the paper say?

Question: "The Path Not Taken" (arXiv:2511.08567, tables 4 and 5, section 5) trains with RL under masks of the base: the top
half of |rank-k W0| (principal), its complement, the bottom half of |W0| (low magnitude) and their union (safe), against a
random mask of equal density; and compares LoRA with PiSSA, which adapts the principal triplets. There the safe mask tracks
dense training, the principal mask is slowest, and PiSSA gains nothing and collapses early. This config asks it of one small
transformer: success, forgetting of a second task, KL to the base and rotation of the spectrum, at one learning rate and at
one update norm, over seeds (the paper's are single runs). Random masks differ between seeds.

Command:   python -m experiments.run --config=rlvr_masks          (5 seeds, 10 arms; about 12 minutes on two CPU cores)
           python -m experiments.run --config=rlvr_masks:smoke    (2 seeds, tiny; about 2 minutes)
Healthy:   the dense arm raises success (by 0.07 on the shipped seeds); no entry outside a mask changes; adapters start at the
           base (train.start_error 0 for LoRA, about 1e-8 for PiSSA). Adapters at the masks' learning rate move and learn
           less: see them at matched norm, and the arms that end in -high. Claims end as supported, contradicted or
           inconclusive, whichever.
Budgets:   masks of one half train half of the linear weights, adapters of rank 8 a ninth: train.trained_parameters has them.
Reconstructed: k of the principal mask and LoRA's alpha are not in the paper; embeddings, head and gains are frozen in every
           arm (tune.outside=True trains them in the masked arms).
"""

from ml_collections import ConfigDict

from experiments.harness import defaults, trainable

RUN_TIME = "12 min on two CPU cores (smoke 2 min)"
TITLE = "RLVR under masks and adapters"
QUESTION = ("Does RLVR need the principal weights: how do success, drift and forgetting differ between masks of the base, "
            "random masks of equal density, LoRA and PiSSA, at one learning rate and at one update norm?")


# Written before the run; their hash enters the manifest before the first arm. A threshold is also the equivalence margin:
# "supported" needs the whole interval beyond it, "practically equivalent" inside the margin, "contradicted" across zero.
CLAIMS = (
    defaults.claim("complement-beats-principal", "Training the complement of the principal weights raises success more than "
                   "training the principal weights.", "policy.success", ("complement", "principal"), split="id"),
    defaults.claim("safe-beats-random", "The safe mask raises success more than random masks of its density.",
                   "policy.success", ("safe", "random"), split="id"),
    defaults.claim("complement-forgets-less", "At the same new-task success the complement keeps more of the second task "
                   "than the principal weights.", "policy.success", ("complement", "principal"), at="matched_success",
                   split="second"),
    defaults.claim("pissa-moves-the-spectrum", "At the same update norm PiSSA moves the spectrum more than LoRA.",
                   "weight.spectral_shift_over_update", ("pissa-high", "lora-high"), at="matched_norm", dtype="fp32"),
    defaults.claim("dense-beats-safe", "Dense training raises success more than the safe mask.", "policy.success",
                   ("dense", "safe"), primary=False, split="id"),
    defaults.claim("low-magnitude-beats-principal", "Training the smallest weights raises success more than training the "
                   "principal ones.", "policy.success", ("low_magnitude", "principal"), primary=False, split="id"),
    defaults.claim("lora-beats-pissa", "LoRA raises success more than PiSSA at the adapters' learning rate.",
                   "policy.success", ("lora-high", "pissa-high"), primary=False, split="id"),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = defaults.study()
    c.papers = defaults.RLVR_PAPERS
    c.title, c.question = TITLE, QUESTION
    c.train.learning_rate = 1e-4  # AdamW, every arm but those that end in -high
    c.train.adapter_learning_rate = 1e-3  # of the arms that end in -high
    c.tune = ConfigDict(dict(trainable.DEFAULTS))
    masks = {name: {"objective": "train.objective", "family": "rl", "trainable": name} for name in trainable.NAMES}
    c.arm = ConfigDict(masks | {
        f"{name}-high": {"like": name, "learning_rate": "train.adapter_learning_rate"} for name in ("lora", "pissa")})
    c.arms = ("dense", "principal", "complement", "low_magnitude", "safe", "random", "lora", "pissa", "lora-high",
              "pissa-high")
    if argument == "smoke":
        c = defaults.smaller(c)
        c.tune.update({"k": 8, "rank": 4})
    return c
