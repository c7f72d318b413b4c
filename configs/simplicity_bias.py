"""Does a network that could use every feature of its input rely on the simplest one alone?

Question: "The Pitfalls of Simplicity Bias in Neural Networks" (arXiv:2006.07710) builds labels that a linear feature and
several complex ones (slabs) all tell, and reports that networks use the linear one alone. Each coordinate of a prompt is a
feature, and two evaluations say which were used: with the simple coordinate replaced by that of another problem
(ood/simple_random), and with all complex ones replaced (ood/complex_random). A network that used the simple feature alone
guesses in the first and is right in the second. `policy.auc` on the same splits is the paper's feature-randomised AUC.

Command:   python -m experiments.run --config=simplicity_bias          (3 seeds, 3 arms)
           python -m experiments.run --config=simplicity_bias:smoke    (2 seeds, few steps)
Arms:      LMS-5 (linear and 5 slabs), MS-(5,7) (both complex, 5 slabs the simpler), noisy LMS-7 (the linear feature is wrong
           in a tenth of all problems, so that the complex ones are the better ones).
Healthy:   every arm is nearly always right on fresh problems (noisy: at least 0.9, which the simple feature alone reaches).
Differs from the paper in: a transformer over levels instead of a fully connected network over real numbers.
Came out:  (3 seeds) every arm solves all fresh problems. Solved with the complex features replaced, less solved with the simple
           one replaced: LMS-5 +0.387 [+0.139, +0.635] inconclusive (the simple feature, AUC 1.00 against 0.80); MS-(5,7)
           -0.127 [-0.913, +0.659] inconclusive (one seed of three uses 7 slabs alone, two use both); noisy LMS-7 -0.479 in
           every seed, contradicted: where the linear feature errs in a tenth, all seeds use the complex ones alone.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "6 min on two CPU cores beside other work (smoke 2 min)"

RANDOM = ("ood/simple_random", "ood/complex_random")


def _claim(name, statement, arm, primary=True):
    terms = tuple((sign, {"arm": arm, "split": split}) for sign, split in zip((1, -1), reversed(RANDOM)))
    return defaults.solved(name, statement, (arm,), kind="signed_sum", terms=terms, threshold=0.2, primary=primary)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("linear-alone", "With a linear feature, losing the complex ones costs less than losing it.", "lms-5"),
    _claim("simpler-alone", "With 5 and 7 slabs, losing those of 7 costs less than losing those of 5.", "ms-5-7"),
    _claim("even-if-noisy", "The same holds where the linear feature is wrong in a tenth of all problems.", "noisy-lms-7"),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = defaults.small_decoders()
    c.title, c.question = "Simplicity bias", __doc__.splitlines()[0]
    c.papers = ("2006.07710",)
    c.seeds.first = 600
    c.measure.probes = (*c.measure.probes, "auc")  # of the two answers, also with features replaced
    c.task = ConfigDict({"name": "slabs", "coordinates": 8, "simple": 2, "complex_slabs": 5})
    c.model.layers = 2
    c.train.steps = 2000  # 128 rows a step
    c.arm = ConfigDict({
        "lms-5": {"start": "scratch"},
        "ms-5-7": {"like": "lms-5", "task_settings": {"simple": 5, "complex_slabs": 7}},
        "noisy-lms-7": {"like": "lms-5", "task_settings": {"complex_slabs": 7, "noise": 0.1}},
    })
    c.arms = tuple(c.arm)
    c.gate = ConfigDict({"kind": "mean_reached", "metric": defaults.SOLVED, "split": "id", "level": 0.85})
    if argument == "smoke":
        defaults.smaller_decoders(c)
    return c
