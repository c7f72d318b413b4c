"""Why does a decoder that groks comparison leave its training distribution, and one that groks two-hop composition not?

Question: "Grokked Transformers are Implicit Reasoners" (arXiv:2405.15071) trains on facts and on what follows from a part of
them. Held-out inferences are answered long after the training set is memorised; inferences from facts that were told and never
used are answered for comparisons alone. The paper reads the reason in circuits: a composition looks up the bridge entity in
lower layers and the second fact in upper ones, which hold a copy of those facts only that training combined; a comparison looks
up both values in the same layers. Here the smallest worlds that show it, with the logit lens and causal tracing as rows.

Command:   python -m experiments.run --config=grokked_circuits          (3 seeds, 2 arms)
           python -m experiments.run --config=grokked_circuits:smoke    (2 seeds, few steps)
Settings:  frozen after pilots on seed 0: composition reached 0.97 on held-out inferences and 0.06 out of distribution after
           3000 steps, comparison 1.00 and 0.77 after 2400. Circuits were read on seed 0 after the claims were written: past
           one layer the bridge entity had a reciprocal rank of 0.39 (null 0.17), and 0.41 of the answers moved with it.
Caution:   a prompt without its last token is the question of an atomic fact, so that the last state of the first relation is
           trained to name the bridge entity, in distribution and out of it. The claims read the state before.
Healthy:   both arms memorise within 100 steps; composition is right on 0.9 of the held-out inferences from step 1600 on.
Differs from the paper in: two layers instead of eight, whole tables as batches, a hundredth of its facts. Sharing the layers'
           parameters, which lets its compositions leave the distribution, and complex reasoning are absent.
Came out:  not run yet in its default form.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults
from experiments.harness.defaults import claim

RUN_TIME = "not measured in its default form (smoke 2 min)"

_OOD = "ood/facts"
_RANK, _CARRIED = "circuit.lens.reciprocal_rank", "circuit.tracing.transferred"


def _circuit(name, statement, metric, position, primary=True, split="train", layer=1, **params):
    """In the state after the first layer a statistic is above its null by 0.3."""
    return claim(name, statement, metric, ("composition",), kind="excess_over_null", layer=layer, split=split,
                 params={"position": position, **params}, threshold=0.3, primary=primary)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    claim("comparison-leaves", "Out of distribution comparisons are answered rightly more often than compositions.",
          "fit.accuracy", ("comparison", "composition"), split=_OOD, threshold=0.3),
    claim("composition-stays", "Compositions are answered in distribution and not out of it.", "fit.accuracy", ("composition",),
          kind="signed_sum", threshold=0.5, terms=tuple((sign, {"arm": "composition", "split": split})
                                                        for sign, split in ((1, "id"), (-1, _OOD)))),
    _circuit("bridge-is-named", "After one layer the state of the first relation names the bridge entity.", _RANK,
             "first_relation", target="bridge"),
    _circuit("bridge-is-carried", "That state of another entity's prompt brings the other answer.", _CARRIED, "first_relation",
             replaced="entity"),
    _circuit("bridge-is-named-outside", "Out of distribution the bridge entity is named as well.", _RANK, "first_relation",
             primary=False, split=_OOD, target="bridge"),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = defaults.from_scratch()
    c.title, c.question, c.papers = "Circuits of grokked reasoning", __doc__.splitlines()[0], ("2405.15071",)
    c.seeds.update({"first": 800, "count": 3})  # a seed draws the initial parameters
    c.task = ConfigDict({"name": "facts", "entities": 20, "relations": 8, "degree": 8, "ratio": 5.8})
    c.model = ConfigDict({"width": 64, "layers": 2, "heads": 4, "kv_heads": 4, "head_dim": 16, "ff": 128})
    c.train.update({"steps": 3000, "learning_rate": 3e-3, "weight_decay": 1.0, "steps_per_call": 250})  # of whole tables
    c.arm = ConfigDict({
        "composition": {"start": "scratch", "source": "table", "answer_tokens": 1,
                        "optimizer_settings": {"weight_decay": "train.weight_decay"}},
        "comparison": {"like": "composition", "task_settings": {"problem": "comparison", "entities": 40, "attributes": 2,
                                                                "values": 5, "ratio": 18.0}},
    })
    c.arms = ("composition", "comparison")
    c.gate = ConfigDict({"kind": "mean_reached", "metric": "fit.accuracy", "split": "id", "level": 0.9})
    c.measure.update({"grid_points": 8, "even_points": 6, "problems": 128, "probes": ("fit", "circuits")})
    if argument == "smoke":
        c.seeds.count = 2
        c.train.steps = 60
        c.measure.update({"grid_points": 2, "even_points": 0, "problems": 32})
    return c
