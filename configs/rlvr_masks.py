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

RUN_TIME = "12 min on two CPU cores (smoke 2 min)"


def _claim(name, statement, metric, arms, at="final", primary=True, threshold=0.02, **variant):
    return {"id": name, "primary": primary, "kind": "difference", "statement": statement, "metric": metric, "arms": arms,
            "at": at, "direction": "greater", "threshold": threshold, "equivalence_margin": threshold, **variant}


# Written before the run; their hash enters the manifest before the first arm. A threshold is also the equivalence margin:
# "supported" needs the whole interval beyond it, "practically equivalent" inside the margin, "contradicted" across zero.
CLAIMS = (
    _claim("complement-beats-principal", "Training the complement of the principal weights raises success more than "
           "training the principal weights.", "policy.success", ("complement", "principal"), split="id"),
    _claim("safe-beats-random", "The safe mask raises success more than random masks of its density.", "policy.success",
           ("safe", "random"), split="id"),
    _claim("complement-forgets-less", "At the same new-task success the complement keeps more of the second task than the "
           "principal weights.", "policy.success", ("complement", "principal"), "matched_success", split="second"),
    _claim("pissa-moves-the-spectrum", "At the same update norm PiSSA moves the spectrum more than LoRA.",
           "weight.spectral_shift_over_update", ("pissa-high", "lora-high"), "matched_norm", dtype="fp32"),
    _claim("dense-beats-safe", "Dense training raises success more than the safe mask.", "policy.success", ("dense", "safe"),
           primary=False, split="id"),
    _claim("low-magnitude-beats-principal", "Training the smallest weights raises success more than training the principal "
           "ones.", "policy.success", ("low_magnitude", "principal"), primary=False, split="id"),
    _claim("lora-beats-pissa", "LoRA raises success more than PiSSA at the adapters' learning rate.", "policy.success",
           ("lora-high", "pissa-high"), primary=False, split="id"),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    if argument not in ("default", "smoke"):
        raise ValueError(f"argument {argument!r} is not known (valid: default, smoke)")
    c = ConfigDict()
    c.experiment = "rlvr_masks"
    c.seeds = ConfigDict({
        "first": 100,  # test seeds are first, first + 1, ...
        "count": 5,  # more may be added later: finished ones are reused
        "bases": 1,  # independently pretrained bases; 1 makes every row conditional on it
        "base": 7,  # seed of the first base
    })
    c.model = ConfigDict({
        "width": 128, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 32, "ff": 256,
    })
    c.task = ConfigDict({"name": "addition", "digits": 2})  # the new task: learned by the arms
    c.second = ConfigDict({"name": "chains", "nodes": (2, 3), "ood_nodes": (4, 4)})  # the old task: forgetting
    c.pretrain = ConfigDict({
        "rows": 128,  # a step
        "learning_rate": 1e-3,  # AdamW
        "second_steps": 1500,  # of the second task alone, before the mixture
        "max_steps": 3000,  # of the mixture, before giving up
        "check_every": 5,  # steps between checks: competence comes suddenly
        "problems": 512,  # a check
        "success_low": 0.3, "success_high": 0.6,  # of the new task, at temperature 1: partly competent
        "second_min": 0.9,  # success on the second task
    })
    c.train = ConfigDict({
        "steps": 150,
        "prompts": 16, "group": 8,  # rows = prompts * group
        "objective": "grpo",
        "learning_rate": 1e-4,  # AdamW, every arm but those that end in -high
        "microbatches": 1,  # exact accumulation
        "steps_per_call": 64,  # at most, between host decisions
    })
    c.tune = ConfigDict({
        "k": 16, "alpha": 0.5,  # of the masks: rank of the reconstruction, share of the entries
        "outside": False,  # whether embeddings, head and gains are trained under masks
        "rank": 8, "lora_alpha": 16.0,  # of adapters; LoRA's scale is lora_alpha / rank, PiSSA's 1
        "modules": ("q", "k", "v", "o", "gate", "up", "down"),  # that are adapted
        "adapter_learning_rate": 1e-3,  # of the arms that end in -high
    })
    c.arms = ("dense", "principal", "complement", "low_magnitude", "safe", "random", "lora", "pissa", "lora-high",
              "pissa-high")
    c.measure = ConfigDict({
        "grid_points": 6,  # measured steps, log-spaced from 1 to the last
        "ks": (16, 8), "alphas": (0.5,),  # first is primary
        "problems": 256,  # a split and measurement
        "probes": ("weight", "policy", "loss_tokens"),  # ids, or the presets economy, standard and full
        "budget": 0.0,  # share of the training time that they may take; 0: what a preset allows, and no limit for ids
    })
    c.mesh = ConfigDict({"ensemble": 1})  # devices that share the seeds
    c.checkpoint = ConfigDict({"every_seconds": 20.0})
    c.wandb = ConfigDict({"mode": "disabled", "project": "jaxpost"})  # mode: disabled, offline or online
    if argument == "smoke":
        c.seeds.count = 2
        c.model.update({"width": 64, "heads": 2, "kv_heads": 1, "ff": 128})
        c.second.update({"nodes": (2, 2), "ood_nodes": (3, 3)})
        c.pretrain.update({"learning_rate": 3e-3, "second_steps": 400, "problems": 256})
        c.train.update({"steps": 8, "prompts": 4, "group": 8})
        c.tune.update({"k": 8, "rank": 4})
        c.measure.update({"grid_points": 3, "problems": 64, "ks": (8,)})
    return c
