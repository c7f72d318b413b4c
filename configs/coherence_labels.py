"""Do per-example gradients agree more on real labels than on random ones, in every layer, and against which null?

Question: the coherent-gradients account of generalisation (arXiv:2203.10036, arXiv:2008.01217) says that gradients of examples
with real labels help each other, and those of random labels much less: m-coherence separates the two during training. This
config asks it of a small classifier on synthetic clusters and of a small decoder on addition, whose random labels are the
same answers permuted between the same problems. Training set, model, optimizer and seeds are the same in both arms.

Command:   python -m experiments.run --config=coherence_labels          (5 seeds)
           python -m experiments.run --config=coherence_labels:smoke    (2 seeds, few steps; under 60 seconds)
Healthy:   every arm lowers its training loss (the random ones memorise); m-coherence of the real arms rises above 1 early
           and falls back as examples are fitted. Per-layer claims are exploratory. The label-permuted null of a row keeps
           the parameters and moves the targets: of a random arm it says what the fit to these very labels adds.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "4 min on two CPU cores (smoke 1 min)"


def _claim(name, problem, statement, layer=None, threshold=1.0):
    where = {} if layer is None else {"layer": layer}
    return defaults.claim(name, statement, "gradient.m_coherence.plug_in", (f"{problem}-real", f"{problem}-random"), at="mean",
                          threshold=threshold, equivalence_margin=threshold / 2, primary=layer is None, **where)


# Written before the run. The unit is examples: by how many more examples an example is helped with real labels, of the
# probe.examples that are measured; the mean runs over the measured steps after the first update.
CLAIMS = (
    _claim("clusters-separate", "clusters", "On clusters, m-coherence with real labels exceeds that with random labels."),
    _claim("addition-separates", "addition", "On addition, m-coherence with real answers exceeds that with permuted ones."),
    *(_claim(f"clusters-layer-{i}", "clusters", f"So it does in layer {i} of the classifier.", i) for i in range(3)),
    *(_claim(f"addition-layer-{i}", "addition", f"So it does in layer {i} of the decoder.", i) for i in range(2)),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = ConfigDict()
    c.experiment = "coherence_labels"
    c.arms = ("clusters-real", "clusters-random", "addition-real", "addition-random")
    c.seeds = ConfigDict({
        "first": 300,  # a seed draws the training set, the initial parameters, the batches and the random labels
        "count": 5,  # more may be added later: finished ones are reused
    })
    c.clusters = ConfigDict({
        "classes": 8,
        "features": 32,
        "separation": 1.0,  # standard deviation of the class centres, in that of the noise around them
        "width": 64,  # of the hidden layers; the classifier has three linear layers
        "learning_rate": 1e-3,  # Adam
    })
    c.addition = ConfigDict({
        "digits": 2,
        "width": 64,  # of the decoder
        "layers": 2,
        "learning_rate": 1e-3,  # Adam
    })
    c.train = ConfigDict({
        "examples": 512,  # the training set
        "batch": 64,  # drawn with replacement a step
        "steps": 1500,
    })
    c.probe = ConfigDict({
        "examples": 128,  # the first of the training set
        "microbatch": 32,
        "draws": 2,  # permutations of the label-permuted null
        "grid_points": 8,  # measured steps, log-spaced from 1 to the last, and 0
    })
    c.learned = 0.1  # an arm whose training loss fell by less, as a share of its first value, supports nothing
    c.mesh = ConfigDict({"ensemble": 1})  # this experiment runs on one device
    c.checkpoint = ConfigDict({"every_seconds": 20.0})  # an arm of a seed is the unit of resuming
    c.wandb = ConfigDict({"mode": "disabled", "project": "jaxpost"})
    if argument == "smoke":
        c.seeds.count = 2
        c.train.update({"examples": 128, "steps": 100})
        c.probe.update({"examples": 64, "draws": 1, "grid_points": 3})
        c.clusters.update({"learning_rate": 3e-3})
        c.addition.update({"learning_rate": 3e-3})
    return c
