"""Are a base's principal directions the curved ones, and do updates of RLVR avoid curvature more than those of SFT?

Question: Gate II of "The Path Not Taken" (arXiv:2511.08567) says that a KL-anchored step moves where the base is flat, and
takes the leading singular directions of W0 as a proxy of curvature. Neither is assumed here: the Fisher of the base (the GGN
of its cross-entropy on demonstrations) is measured along principal and low-magnitude entries, in the leading subspace and
along the updates of GRPO, SFT and GRPO with shuffled rewards, each against blind directions of equal norm, density and rank,
and again with all other parameters free to answer (layer-conditioned).

Command:   python -m experiments.run --config=rlvr_curvature          (4 seeds, 3 arms)
           python -m experiments.run --config=rlvr_curvature:smoke    (2 seeds, tiny; about 3 minutes, 6 the first time)
Healthy:   GRPO and SFT raise success, shuffled rewards do not; the nulls of masks and frames contain 1.
Against:   one public test of the proxy by Hessian products found none of 48 cells beyond two standard errors, and a smaller
           pilot the opposite sign; a gradient step goes where gradients are large, which is where the Fisher is.
Differs from the paper in: the paper measures no curvature; a small transformer; one damping of the conditioned form.
Smoke form: principal entries 1.35 times as curved as random masks, low-magnitude ones 0.86 times, and every update hundreds of
           times its shuffled twin; no arm learned, so all claims are inconclusive.
Came out:  (4 seeds, one base; in units of a random direction's curvature, minus the null, which is about 1) GRPO's update
           does not avoid curvature: +113 [65, 161] beyond its entries shuffled, and e^1.45 [1.37, 1.53] times SFT's, both
           contradicted. Principal entries are curved, by +0.117 [+0.096, +0.138] over random masks of their density
           (inconclusive at 0.1), low-magnitude ones by -0.048 [-0.056, -0.039] (equivalent), the leading subspace by +14.4
           [12.9, 15.9] over random frames (supported); GRPO's update has e^-2.26 [-2.76, -1.75] times the curvature of the
           update with shuffled rewards (supported).
Steps:     200. A first run of 100 had every claim inconclusive, since GRPO's success moved by +0.053 [-0.041, +0.147] only;
           nothing else was changed, and every estimate had the same sign.
Sharpness: `--config.measure.probes="('weight','policy','gate.curvature','curvature','loss_tokens')"` adds eigenvalues,
           sharpness by layer and under Adam, traces and density, at about 140 gradients of the probe batch a measurement.
Learning rates: chosen before the first run from the range that rlvr_sparsity's pilot found, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "15 min on two CPU cores, by its run of 100 steps in 9 (smoke 3 min)"
PRINCIPAL, LOW = ({"alpha": "0.3", "mask": mask} for mask in ("principal", "low_magnitude"))


def _excess(name, statement, metric, arm, direction, threshold, primary=True, **fields):
    return defaults.claim(name, statement, metric, (arm,), kind="excess_over_null", direction=direction, threshold=threshold,
                          primary=primary, **fields)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _excess("principal-is-curved", "Principal entries of the base have more curvature than random masks of their density.",
            "gate.curvature.mask", "rlvr", "greater", 0.1, params=PRINCIPAL),
    _excess("rlvr-avoids-curvature", "GRPO's update has less curvature than the same entries shuffled.",
            "gate.curvature.update", "rlvr", "less", -0.1),
    defaults.claim("rlvr-flatter-than-sft", "GRPO's update has less curvature than SFT's, relative to random directions.",
                   "gate.curvature.update", ("rlvr", "sft"), kind="ratio", direction="less", threshold=-0.1),
    _excess("low-is-flat", "Low-magnitude entries of the base have less curvature than random masks of their density.",
            "gate.curvature.mask", "rlvr", "less", -0.1, primary=False, params=LOW),
    _excess("subspace-is-curved", "The leading subspace of the base has more curvature than random frames of its rank.",
            "gate.curvature.subspace", "rlvr", "greater", 0.1, primary=False),
    defaults.claim("reward-matters", "GRPO's update has less curvature than with shuffled rewards.", "gate.curvature.update",
                   ("rlvr", "permuted"), kind="ratio", direction="less", threshold=-0.1, primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = defaults.study()
    c.papers = defaults.RLVR_PAPERS
    c.title, c.question = "Gate II: curvature along updates", __doc__.splitlines()[0]
    c.seeds.count, c.train.steps, c.train.learning_rate = 4, 200, 1e-4
    c.arm = ConfigDict({
        "rlvr": {"objective": "grpo"},
        "sft": {"objective": "cross_entropy"},
        "permuted": {"like": "rlvr", "permute_rewards": True},
    })
    c.arms = ("rlvr", "sft", "permuted")
    c.measure.update({"grid_points": 4, "ks": (8,), "problems": 128,
                      "probes": ("weight", "policy", "gate.curvature", "loss_tokens")})
    return defaults.smaller(c) if argument == "smoke" else c
