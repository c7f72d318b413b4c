"""Do RL and SFT move weights differently, once dtype, learning rate, update norm and a blind null are accounted for?

Question: "The Path Not Taken" (arXiv:2511.08567) reports that RLVR updates are sparse after a bf16 cast, avoid principal
weights and keep the spectrum, and that SFT does none of this. This config asks it of one small transformer where
every control is affordable: the same learning rates for both, matched update norm, rewards permuted within their group,
SGD instead of Adam, bf16 masters, and for every statistic the null of an update that is blind to the weights.

Command:   python -m experiments.run --config=rlvr_sparsity          (5 seeds, 12 arms; under 10 minutes on two CPU cores)
           python -m experiments.run --config=rlvr_sparsity:smoke    (2 seeds, tiny; under 90 seconds)
           python -m experiments.run --config=rlvr_sparsity:full     (3 bases x 5 seeds; about 30 minutes)
Healthy:   the base starts between 0.3 and 0.6 success; the RLVR and SFT arms at the two larger learning rates raise
           it; the permuted-reward arm does not; claims end as supported, practically equivalent, contradicted or inconclusive.
Learning rates: frozen after a pilot on seeds 0 to 2 (the test seeds are 100 and up) from another base: RLVR raised success
           at 3e-5, 1e-4 and 3e-4 and lost it at 1e-3; SGD raised it at 0.003 and 0.01 and lost it at 0.03. `sweep()`
           has the overrides that repeat it.
"""

from ml_collections import ConfigDict

RUN_TIME = "10 min on two CPU cores (smoke 90 s, full 30 min)"

# Written before the run; their hash enters the manifest before the first arm. A threshold is also the equivalence
# margin: "supported" needs the whole interval beyond it, "practically equivalent" inside it, "contradicted" across zero.
CLAIMS = (
    {"id": "sparser-at-same-lr", "primary": True, "kind": "difference",
     "statement": "RLVR leaves more bf16 weights unchanged than SFT at the same learning rate.",
     "metric": "weight.sparsity.bf16", "dtype": "bf16", "arms": ("rlvr-lr1", "sft-lr1"), "at": "final",
     "direction": "greater", "threshold": 0.02, "equivalence_margin": 0.02},
    {"id": "sparser-at-matched-norm", "primary": True, "kind": "difference",
     "statement": "RLVR is still sparser than SFT when both updates have the same Frobenius norm.",
     "metric": "weight.sparsity.bf16", "dtype": "bf16", "arms": ("rlvr-lr1", "sft-lr1"), "at": "matched_norm",
     "direction": "greater", "threshold": 0.02, "equivalence_margin": 0.02},
    {"id": "off-principal-beyond-null", "primary": True, "kind": "excess_over_null",
     "statement": "The RLVR update mask overlaps the principal mask less than the magnitude-conditioned null says.",
     "metric": "weight.overlap.principal", "dtype": "bf16", "k": 16, "alpha": 0.5, "arms": ("rlvr-lr1",), "at": "final",
     "direction": "less", "threshold": -0.01, "equivalence_margin": 0.01},
    {"id": "forgets-less-at-matched-success", "primary": True, "kind": "difference",
     "statement": "At the same new-task success RLVR keeps more of the second task than SFT.",
     "metric": "policy.success", "split": "second", "arms": ("rlvr-lr1", "sft-lr1"), "at": "matched_success",
     "direction": "greater", "threshold": 0.02, "equivalence_margin": 0.02},
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default, smoke or full."""
    c = ConfigDict()
    c.experiment = "rlvr_sparsity"
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
        "prompts": 16, "group": 8,  # RL rows = prompts * group; SFT takes as many demonstrations
        "objective": "grpo",  # of the RLVR arms: grpo, dr_grpo, rloo or reinforce
        "learning_rates": (3e-5, 1e-4, 2e-4),  # both RLVR and SFT run at each
        "sgd_learning_rate": 0.01,  # heavy ball, momentum 0.9
        "microbatches": 1,  # exact accumulation
        "steps_per_call": 64,  # at most, between host decisions
    })
    c.arms = ("rlvr-lr0", "rlvr-lr1", "rlvr-lr2", "sft-lr0", "sft-lr1", "sft-lr2", "raft", "permuted", "rlvr-sgd",
              "sft-sgd", "rlvr-bf16", "sft-bf16")
    c.measure = ConfigDict({
        "grid_points": 8,  # measured steps, log-spaced from 1 to the last
        "ks": (16, 8, 32), "alphas": (0.5, 0.3),  # first is primary
        "problems": 256,  # a split and measurement; as many demonstrations are the probe batch
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
        c.arms = ("rlvr-lr0", "rlvr-lr1", "rlvr-lr2", "sft-lr0", "sft-lr1", "sft-lr2", "permuted")  # two compilations
        c.measure.update({"grid_points": 3, "problems": 64, "ks": (16,), "alphas": (0.5,)})
    elif argument == "full":
        c.seeds.bases = 3
    elif argument != "default":
        raise ValueError(f"argument {argument!r} is not known (valid: default, smoke, full)")
    return c


def sweep() -> list[dict[str, str]]:
    """The pilot that chose the learning rates: overrides of one run each, on seeds that no result uses."""
    pilot = {"seeds.first": "0", "seeds.count": "3", "arms": "('rlvr-lr0','rlvr-lr1','rlvr-lr2','sft-lr0','sft-lr1','sft-lr2')"}
    return [pilot | {"train.learning_rates": rates} for rates in ("(3e-5,1e-4,3e-4)", "(1e-4,3e-4,1e-3)")]
