"""Does a network that could use every feature of its input rely on the simplest one alone?

Question: "The Pitfalls of Simplicity Bias in Neural Networks" (arXiv:2006.07710) builds labels that a linear feature and
several complex ones (slabs) all tell, and reports that networks use the linear one alone. Each coordinate of a prompt is a
feature, and two evaluations say which were used: with the simple coordinate replaced by that of another problem
(ood/simple_random), and with all complex ones replaced (ood/complex_random). A network that used the simple feature alone
guesses in the first and is right in the second.

Command:   python -m experiments.run --config=simplicity_bias          (3 seeds, 3 arms)
           python -m experiments.run --config=simplicity_bias:smoke    (2 seeds, few steps)
Arms:      LMS-5 (linear and 5 slabs), MS-(5,7) (both complex, 5 slabs the simpler), noisy LMS-7 (the linear feature is wrong
           in a tenth of all problems, so that the complex ones are the better ones).
Healthy:   every arm is nearly always right on fresh problems (noisy: at least 0.9, which the simple feature alone reaches).
Differs from the paper in: a transformer over levels instead of a fully connected network over real numbers.
Came out:  not run yet in its default form.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "not measured in its default form (smoke 2 min)"

_SOLVED = "policy.pass_at_k"  # with k = 1: one sample at temperature 1
RANDOM = ("ood/simple_random", "ood/complex_random")


def _claim(name, statement, arm, primary=True):
    terms = tuple((sign, {"arm": arm, "split": split}) for sign, split in zip((1, -1), reversed(RANDOM)))
    return defaults.claim(name, statement, _SOLVED, (arm,), kind="signed_sum", terms=terms, k=1, threshold=0.2, primary=primary)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("linear-alone", "With a linear feature, losing the complex ones costs less than losing it.", "lms-5"),
    _claim("simpler-alone", "With 5 and 7 slabs, losing those of 7 costs less than losing those of 5.", "ms-5-7"),
    _claim("even-if-noisy", "The same holds where the linear feature is wrong in a tenth of all problems.", "noisy-lms-7"),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = defaults.from_scratch()
    c.title, c.question = "Simplicity bias", __doc__.splitlines()[0]
    c.papers = ("2006.07710",)
    c.seeds.update({"first": 600, "count": 3})
    c.task = ConfigDict({"name": "slabs", "coordinates": 8, "simple": 2, "complex_slabs": 5})
    c.model = ConfigDict({"width": 64, "layers": 2, "heads": 4, "kv_heads": 4, "head_dim": 16, "ff": 128})
    c.train.update({"steps": 2000, "learning_rate": 1e-3})  # 128 rows a step
    c.arm = ConfigDict({
        "lms-5": {"start": "scratch"},
        "ms-5-7": {"like": "lms-5", "task_settings": {"simple": 5, "complex_slabs": 7}},
        "noisy-lms-7": {"like": "lms-5", "task_settings": {"complex_slabs": 7, "noise": 0.1}},
    })
    c.arms = tuple(c.arm)
    c.gate = ConfigDict({"kind": "mean_reached", "metric": _SOLVED, "split": "id", "level": 0.85})
    c.measure.update({"grid_points": 8, "problems": 512, "completions": 4, "probes": ("samples", "loss_tokens")})
    c.probe = ConfigDict({"samples": {"samples": 1, "ks": (1,)}})
    if argument == "smoke":
        c.seeds.count = 2
        c.model.update({"width": 32, "layers": 1, "heads": 2, "kv_heads": 2, "ff": 64})
        c.train.update({"steps": 40, "prompts": 4})
        c.measure.update({"grid_points": 3, "problems": 64})
    return c
