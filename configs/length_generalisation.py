"""Which algorithms does a transformer carry over to sequences longer than any it was trained on?

Question: "What Algorithms can Transformers Learn?" (arXiv:2310.16028) conjectures that a transformer generalises in length
where a short RASP-L program solves the task: copying a sequence of different symbols does, copying one with repeats does
not, and addition does once index marks say which digits belong together. Here small decoders are trained from scratch on
lengths 1 to 8 (additions of 1 to 5 digits) and asked about lengths up to twice that.

Command:   python -m experiments.run --config=length_generalisation          (3 seeds, 5 arms)
           python -m experiments.run --config=length_generalisation:smoke    (2 seeds, few steps)
Controls:  shuffled hints are as many marks in no order: what they add over no marks is length and tokens, not information.
           Copying with repeats is the same loop without a unique symbol to look up.
Healthy:   every arm solves its own lengths (split id) nearly always; an arm that does not supports nothing.
Differs from the paper in: short lengths, a small decoder with rotary embeddings, and each problem in a prompt of its own; which
           problems generalise is recalled from the paper (*reconstructed*).
"""

from ml_collections import ConfigDict

from experiments.harness import defaults

RUN_TIME = "not measured in its default form (smoke 2 min)"


def _claim(name, statement, arms, split="ood/length", threshold=0.1, **fields):
    return defaults.solved(name, statement, arms, split=split, threshold=threshold, **fields)


# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _claim("unique-beats-repeats", "Copying different symbols carries over to longer sequences more often than repeats do.",
           ("copy-unique", "copy-repeats")),
    _claim("hints-help-addition", "Additions with index marks carry over to longer operands more often than those without.",
           ("addition-hints", "addition")),
    _claim("order-of-hints-matters", "Index marks in order help more than as many marks in no order.",
           ("addition-hints", "addition-shuffled-hints")),
    _claim("lengths-cost", "Even copying different symbols is solved more often at trained lengths than beyond them.",
           ("copy-unique",), kind="signed_sum", terms=((1, {"arm": "copy-unique", "split": "id"}),
                                                       (-1, {"arm": "copy-unique", "split": "ood/length"})), primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = defaults.small_decoders()
    c.title, c.question = "Length generalisation", __doc__.splitlines()[0]
    c.papers = ("2310.16028",)
    c.seeds.first = 400
    c.task = ConfigDict({"name": "rasp", "problem": "copy_unique", "length": (1, 8), "ood_length": (9, 16)})
    c.train.steps = 3000  # 128 rows a step
    digits = {"problem": "addition_reversed", "length": (1, 5), "ood_length": (6, 8)}
    c.arm = ConfigDict({
        "copy-unique": {"start": "scratch"},
        "copy-repeats": {"like": "copy-unique", "task_settings": {"problem": "copy_repeats"}},
        "addition": {"like": "copy-unique", "task_settings": digits},
        "addition-hints": {"like": "copy-unique", "task_settings": {**digits, "hints": "index"}},
        "addition-shuffled-hints": {"like": "copy-unique", "task_settings": {**digits, "hints": "shuffled"}},
    })
    c.arms = ("copy-unique", "copy-repeats", "addition", "addition-hints", "addition-shuffled-hints")
    c.gate = ConfigDict({"kind": "mean_reached", "metric": defaults.SOLVED, "split": "id", "level": 0.9})
    if argument == "smoke":
        defaults.smaller_decoders(c)
        c.arms = ("copy-unique", "copy-repeats", "addition-hints")
    return c
