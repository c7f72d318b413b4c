"""Does averaging a tuned model with the one it was tuned from help where the features that either relies on are spurious?

Question: "Spurious Feature Diversification Improves Out-of-distribution Generalization" (arXiv:2309.17230) explains why
WiSE-FT (arXiv:2109.01903), the average of weights before and after tuning, is better out of distribution: the two rely on
different spurious features, and an average errs where both fail. Here every feature of a prompt tells the label (slabs). A
model is first trained while the simple feature is wrong half of the time, so that the complex ones alone help, and then tuned
where all are right. Two evaluations make one set of features spurious: the simple one is replaced by that of another problem
(ood/simple_random), or all complex ones are (ood/complex_random).

Command:   python -m experiments.run --config=spurious_features          (5 seeds, 7 arms)
           python -m experiments.run --config=spurious_features:smoke    (2 seeds, few steps)
Healthy:   before is right on ood/simple_random and guesses on ood/complex_random; tuned is right on fresh problems, and has
           taken up the simple feature: it is above before on ood/complex_random and below it on ood/simple_random.
Caution:   an average may lie between its ends in both: the claims ask whether it is above the tuned model where the simple
           feature is spurious, and whether it pays for that where the complex ones are.
Differs from the papers in: slabs and a small decoder instead of images. BANG (reconstructed from its abstract) corrects the
           tuned model's confidence before it averages: here it is tuned with label smoothing of 0.1.
Came out:  not run in its default form; the smoke form runs to its end (its arms learn nothing in so few steps).
"""

from ml_collections import ConfigDict

from experiments.harness import defaults
from experiments.harness.defaults import solved

RUN_TIME = "not measured (smoke a few minutes on two CPU cores)"
_SIMPLE, _COMPLEX = "ood/simple_random", "ood/complex_random"
_SHARES = {"wise-3": 0.3, "wise-5": 0.5, "wise-7": 0.7}  # of the tuned model

# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    solved("ends-differ", "Tuning takes up the simple feature: it costs success where that feature is spurious.",
           ("before", "tuned"), split=_SIMPLE, threshold=0.05),
    solved("average-is-robust", "Where the simple feature is spurious the average is right more often than the tuned model.",
           ("wise-5", "tuned"), split=_SIMPLE, threshold=0.05),
    solved("average-is-not-worse", "Where the complex ones are spurious the average is right as often as the tuned model.",
           ("wise-5", "tuned"), split=_COMPLEX, direction="equivalent", threshold=0.0, equivalence_margin=0.05),
    solved("average-gains-in-sum", "Over both evaluations the average is above the mean of its ends.",
           ("wise-5", "before", "tuned"), kind="signed_sum", threshold=0.02, terms=tuple(
               (weight, {"arm": arm, "split": split}) for split in (_SIMPLE, _COMPLEX)
               for arm, weight in (("wise-5", 0.5), ("before", -0.25), ("tuned", -0.25)))),
    solved("less-is-more-robust", "A smaller share of the tuned model is right more often where the simple feature is "
           "spurious.", ("wise-3", "wise-7"), split=_SIMPLE, threshold=0.02, primary=False),
    *(solved(f"bang-beats-wise-{name}", f"Tuned with label smoothing, the average is right more often on {split}.",
             ("bang", "wise-5"), split=split, threshold=0.02, primary=False)
      for name, split in (("simple", _SIMPLE), ("complex", _COMPLEX))),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = defaults.small_decoders()
    c.title, c.question, c.papers = "Averages and spurious features", __doc__.splitlines()[0], ("2309.17230", "2109.01903")
    c.seeds.update({"first": 650, "count": 5})
    c.task = ConfigDict({"name": "slabs", "coordinates": 8, "simple": 2, "complex_slabs": 5})
    c.model.layers = 2
    c.train.steps = 1500  # 128 rows a step
    c.train.tuning_steps = 300
    c.arm = ConfigDict({
        "before": {"start": "scratch", "task_settings": {"noise": 0.5}},
        "tuned": {"start": "before", "steps": "train.tuning_steps"},
        "smoothed": {"like": "tuned", "objective": "sft_label_smoothing"},
        "bang": {"start": ("before", "smoothed"), "edit": {"mix": {"share": 0.5}}},
    } | {name: {"start": ("before", "tuned"), "edit": {"mix": {"share": share}}} for name, share in _SHARES.items()})
    c.arms = tuple(c.arm)
    c.gate = ConfigDict({"kind": "mean_reached", "metric": defaults.SOLVED, "split": "id", "level": 0.7})
    if argument == "smoke":
        defaults.smaller_decoders(c)
        c.train.tuning_steps = 10
    return c
