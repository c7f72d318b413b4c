"""Do the entries that RLVR changes follow the coordinates of the weights, or only their magnitudes?

Question: "The Path Not Taken" (arXiv:2511.08567, section 4.3) rotates the value/output heads of one layer and permutes the
heads of another, which keeps the function, and reports that the overlap of update masks with an ordinary run falls to the
random level in those layers only. This config asks it with the controls that decide what that means: an independent
ordinary run (other seed) as the ceiling, the overlap that two blind updates of these magnitudes have (a rotation changes
magnitudes), and the intervened run's masks mapped back to the old coordinates (a permutation moves coordinates, so that
even an identical update would lose its raw overlap). Layer 0 is rotated and permuted, layer 1 rotated, layer 2 untouched.

Command:   python -m experiments.run --config=rlvr_intervention          (5 seeds, 3 arms; under 10 minutes on two CPU cores)
           python -m experiments.run --config=rlvr_intervention:smoke    (2 seeds, tiny; under 90 seconds)
Healthy:   the transform moves logits by less than 1e-6 of their norm and by about 1e-3 after the rounding to bf16; all three
           arms raise success alike (0.08 on the shipped seeds); untouched matrices overlap with the intervened run as with
           the independent one. Claims end as supported, practically equivalent, contradicted or inconclusive.
Learning rate: frozen after a run at 1e-4 on seeds 100 to 104, in which 85 % of the entries changed visibly, so that blind
           updates already overlapped by 0.88 and the largest possible fall was of the size of the thresholds. `sweep()` has
           the overrides that repeat it. The claims are those written before that run.
Scope:     the pair (plain, independent) and the pair (plain, intervened) differ in the transform only: the independent and
           the intervened run share batches and sampling keys. One base; one draw of the rotation and of the permutation.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "5 min on two CPU cores (smoke 90 s)"

_OTHER, _RAW, _BACK = ("plain", "independent", "raw"), ("plain", "intervened", "raw"), ("plain", "intervened", "back")
_OVERLAP = "weight.pair.overlap"


def _claim(name, primary, statement, terms, excess=False, threshold=0.02):
    return {"id": name, "primary": primary, "kind": "signed_sum", "statement": statement, "metric": _OVERLAP,
            "arms": ("plain", "independent", "intervened"), "at": "final", "excess": excess, "granularity": "body",
            "dtype": "bf16",
            "terms": tuple((sign, {"arm": arm, "params": {"against": against, "group": group, "map": mapping}})
                           for sign, (against, arm, mapping), group in terms),
            "direction": "greater", "threshold": threshold, "equivalence_margin": threshold}


# Written before the run; their hash enters the manifest before the first arm. A term is (sign, (run 1, run 2, mapping),
# group of matrices); overlap is |M1 & M2| / |M1|; `excess` subtracts each term's own magnitude-conditioned null.
CLAIMS = (
    _claim("consistent-beyond-null", True, "Independent runs share more of their masks than blind updates of the same "
           "magnitudes do, in the matrices that the intervention moves.", ((1, _OTHER, "moved"),), excess=True),
    _claim("falls-where-moved", True, "The intervention lowers the raw overlap more in moved matrices than in the attention "
           "of the untouched layer.", ((1, _OTHER, "moved"), (-1, _RAW, "moved"), (-1, _OTHER, "untouched"),
                                    (1, _RAW, "untouched"))),
    _claim("falls-beyond-magnitudes", True, "The raw overlap of moved matrices falls by more than their changed magnitudes "
           "explain.", ((1, _OTHER, "moved"), (-1, _RAW, "moved")), excess=True),
    _claim("permuted-returns", True, "Mapped back to the old coordinates, matrices that were only permuted overlap more "
           "than raw.", ((1, _BACK, "permuted"), (-1, _RAW, "permuted"))),
    _claim("permuted-stays-below", False, "Mapped back, permuted matrices still overlap less than those of an independent "
           "run.", ((1, _OTHER, "permuted"), (-1, _BACK, "permuted"))),
    _claim("rotated-returns", False, "Rotated back, the updates of rotated matrices overlap more than raw.",
           ((1, _BACK, "rotated"), (-1, _RAW, "rotated")), excess=True),
    _claim("untouched-falls", False, "The intervention lowers the overlap in the attention of the untouched layer too.",
           ((1, _OTHER, "untouched"), (-1, _RAW, "untouched"))),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    base, c = defaults.study(), ConfigDict()
    c.experiment = "rlvr_intervention"
    c.seeds = ConfigDict({"first": 200, "count": 5, "base": base.seeds.base})  # more may be added later
    for section in ("model", "task", "second", "pretrain", "train", "mesh", "checkpoint", "wandb", "tensorboard"):
        c[section] = base[section]
    c.model.layers = 3
    c.intervene = ConfigDict({
        "rotate_permute": (0,),  # layers
        "rotate": (1,),  # layers; at least one layer must be left
        "rotation": "haar",  # haar or hadamard
        "seed": 0,  # of the rotations and permutations, the same in every run
    })
    c.train.update({"steps": 200})
    c.train.learning_rate = 3e-5  # AdamW
    c.measure = ConfigDict({
        "grid_points": 6,  # steps at which the policy is measured, log-spaced from 1 to the last
        "problems": 256,  # a split and measurement
    })
    if argument == "smoke":
        c.seeds.count = 2
        c.model.update({"width": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "ff": 128})
        c.second.update({"nodes": (2, 2), "ood_nodes": (3, 3)})
        c.pretrain.update({"learning_rate": 3e-3, "second_steps": 400, "problems": 256})
        c.train.update({"steps": 8, "prompts": 4, "group": 8})
        c.measure.update({"grid_points": 3, "problems": 64})
    return c


def sweep() -> list[dict[str, str]]:
    """The pilot that chose the learning rate: overrides of one run, on seeds that no result uses."""
    return [{"seeds.first": "100", "train.learning_rate": "1e-4", "train.steps": "150"}]
