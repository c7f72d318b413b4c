"""Does a decoder that copies look its symbols up, or does it count positions?

Question: copying a sequence of different symbols can be done by induction heads (find the symbol before, attend to what follows
it) or by attending as many positions back as the sequence is long. Both solve trained lengths; only the first needs nothing of
the length. Here small decoders are trained from scratch to copy, and every head is asked with random sequences that are said
twice, against the same tokens without the repetition.

Command:   python -m experiments.run --config=induction_heads          (3 seeds, 3 arms)
           python -m experiments.run --config=induction_heads:smoke    (2 seeds, few steps)
Controls:  sorting asks for the same symbols and never for what followed one; one layer has no head that reads another's.
Settings:  frozen after a pilot on seed 0 of copying: after 900 steps heads of the second layer scored 0.74 to 0.81 on sequences
           of eight symbols, and up to 0.62 on the null's, which is position.
Healthy:   copying is solved at its own lengths (split id) nearly always.
Source:    after "What Algorithms can Transformers Learn?" (arXiv:2310.16028), whose tasks these are; the score is the field's
           usual one, *recalled*, and the claims are no paper's.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults
from experiments.harness.defaults import claim

RUN_TIME = "not measured in its default form (smoke 1 min)"

_STRONGEST = "circuit.induction.strongest"

# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    claim("copying-looks-up", "The strongest head of a copying decoder attends to what followed its token, beyond position.",
          _STRONGEST, ("copy",), kind="excess_over_null", threshold=0.1),
    claim("copying-more-than-sorting", "That head scores higher where symbols are copied than where they are sorted.",
          _STRONGEST, ("copy", "sort"), threshold=0.2),
    claim("two-layers-more-than-one", "It scores higher in two layers than in one.", _STRONGEST, ("copy", "copy-one-layer"),
          threshold=0.2, primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = defaults.small_decoders()
    c.title, c.question, c.papers = "Induction heads", __doc__.splitlines()[0], ("2310.16028",)
    c.seeds.first = 900
    c.task = ConfigDict({"name": "rasp", "problem": "copy_unique", "length": (1, 8), "ood_length": (9, 16)})
    c.model.layers = 2
    c.train.update({"steps": 1500, "learning_rate": 3e-3})  # 128 rows a step
    c.arm = ConfigDict({
        "copy": {"start": "scratch"},
        "copy-one-layer": {"like": "copy", "model": {"layers": 1}},
        "sort": {"like": "copy", "task_settings": {"problem": "sort"}},
    })
    c.arms = ("copy", "copy-one-layer", "sort")
    c.gate = ConfigDict({"kind": "mean_reached", "metric": defaults.SOLVED, "split": "id", "level": 0.9})
    c.measure.probes = (*c.measure.probes, "induction")
    if argument == "smoke":
        defaults.smaller_decoders(c)
        c.model.layers = 2
    return c
