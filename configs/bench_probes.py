"""What do probes cost beside the training that they watch?

Question: is measuring cheap enough to leave on? Every ratio is taken in one run, its two sides by turns (A B A B), so that
both see the same machine; the median over the turns is compared with a target that was set before.

    economy, standard   a measurement with its rows, over `every` train steps (the presets' own cadence)      <= 3 %, <= 10 %
    coherence           per-layer m-coherence over one plain gradient of the same batch, at one microbatch     <= 1.3
    subspaces           leading singular subspaces of a gapped matrix, certified, against the fastest exact SVD with vectors
                        on this machine, of JAX's and SciPy's gesdd                             >= 3 times faster, < 1e-3 rad
    memory              peak of that per-example program over the train step's, both from XLA                  <= 1.5

Command:   python -m experiments.run --config=bench_probes          (about 4 minutes: exact SVDs of 4096 x 4096)
           python -m experiments.run --config=bench_probes:smoke    (small; under 60 seconds, its ratios mean nothing)
Healthy:   a table of targets, what was measured, and whether it was met; a busy machine shows in the spread of the turns.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "4 min on two CPU cores (smoke 1 min)"


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = ConfigDict()
    c.experiment = "bench_probes"
    c.model = ConfigDict({"width": 384, "layers": 4, "heads": 6, "kv_heads": 6, "head_dim": 64, "ff": 1024})
    c.task = ConfigDict({"name": "addition", "digits": 4})
    c.train = ConfigDict({
        "rows": 64,  # demonstrations of a step
        "learning_rate": 1e-3,
        "microbatch": 16,  # rows whose gradients or activations are held at once, in both programs of `coherence`
    })
    c.presets = ("economy", "standard")
    c.turns = 5  # of each A B pair
    c.subspaces = ConfigDict({
        "size": 4096,
        "k": 64,
        "gap": 0.2,  # (s_k - s_{k+1}) / s_{k+1} of the planted spectrum
        "turns": 2,  # exact decompositions of this size take a minute
    })
    c.mesh = ConfigDict({"ensemble": 1})  # this experiment runs on one device
    c.wandb = ConfigDict({"mode": "disabled", "project": "jaxpost"})
    if argument == "smoke":
        c.model.update({"width": 32, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 16, "ff": 32})
        c.task.update({"digits": 1})
        c.train.update({"rows": 16, "microbatch": 8})
        c.presets = ("economy",)
        c.turns = 2
        c.subspaces.update({"size": 256, "k": 8})
    return c
