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

from experiments.harness import defaults

RUN_TIME = "10 min on two CPU cores (smoke 90 s, full 30 min)"
TITLE = "RLVR against SFT in weight space"
QUESTION = ("Do RL with verifiable rewards and supervised fine-tuning move weights differently, once dtype, learning rate, "
            "update norm and a blind null are accounted for?")

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
    defaults.require(argument, "default", "smoke", "full")
    c = defaults.study()
    c.papers = defaults.RLVR_PAPERS
    c.title, c.question = TITLE, QUESTION
    c.train.learning_rates = (3e-5, 1e-4, 2e-4)  # both RLVR and SFT run at each
    c.train.sgd_learning_rate = 0.01  # heavy ball, momentum 0.9
    c.arm = ConfigDict(defaults.RLVR_AND_SFT)
    c.arms = ("rlvr-lr0", "rlvr-lr1", "rlvr-lr2", "sft-lr0", "sft-lr1", "sft-lr2", "raft", "permuted", "rlvr-sgd",
              "sft-sgd", "rlvr-bf16", "sft-bf16")
    c.measure.update({"grid_points": 8, "ks": (16, 8, 32), "alphas": (0.5, 0.3)})
    if argument == "smoke":
        c = defaults.smaller(c)
        c.arms = ("rlvr-lr0", "rlvr-lr1", "rlvr-lr2", "sft-lr0", "sft-lr1", "sft-lr2", "permuted")  # two compilations
        c.measure.ks = (16,)
    elif argument == "full":
        c.seeds.bases = 3
    return c


def sweep() -> list[dict[str, str]]:
    """The pilot that chose the learning rates: overrides of one run each, on seeds that no result uses."""
    pilot = {"seeds.first": "0", "seeds.count": "3", "arms": "('rlvr-lr0','rlvr-lr1','rlvr-lr2','sft-lr0','sft-lr1','sft-lr2')"}
    return [pilot | {"train.learning_rates": rates} for rates in ("(3e-5,1e-4,3e-4)", "(1e-4,3e-4,1e-3)")]
