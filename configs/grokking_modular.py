"""Which measure of the Fourier circuit moves before the test loss does, when a small decoder groks addition mod p?

Question: "Progress measures for grokking" (arXiv:2301.05217) reads continuous progress behind a sudden jump of the test
accuracy: the loss of logits restricted to a few key frequencies of a + b falls, and the training loss without them rises,
before the test loss falls. This config asks it of a decoder with RMSNorm, rotary embedding and gated feed-forward layers,
with seeds, key frequencies frozen from the last step, and arms that memorise and never generalise.

Command:   python -m experiments.run --config=grokking_modular          (5 seeds, 3 arms)
           python -m experiments.run --config=grokking_modular:smoke    (2 seeds, few steps; under 60 seconds)
Timing:    the step of a measure is where, after memorisation (training accuracy 0.95), it has made half of its total change
           for good (`half_change`), on the log axis of measured steps; a lead is the logarithm of a ratio of two such steps
           in one seed. 0.1 is about ten percent.
Settings:  frozen after pilots on seeds 0 to 4. A first run on seeds 100 to 104 with weight decay 2.0 was given up: after 3000
           steps one seed of five had reached a test accuracy of 0.78, so that no claim could be judged. The gate and the
           level of memorisation were then stated anew, on pilot seeds; curves, thresholds and margins are unchanged.
           In that first arm the excluded loss lagged (-0.50 [-0.84, -0.16]) and the restricted loss was inconclusive: the order
           of the measures depends on the setting, and a verdict below holds for this one.
Verdicts:  of the run on seeds 200 to 204, in logarithms of steps: excluded before test +0.65 [+0.57, +0.73], supported;
           memorised first +1.77 [+1.58, +1.95], supported; restricted before test -0.18 [-0.24, -0.13] and Gini of the
           embedding before test -0.25 [-0.33, -0.17], contradicted. Mean test accuracy 0.99 at step 1517.
Found:     seeds 200 to 204, bundle 79aa1b21c995; test accuracy ends at 0.999 (seeds 0.994 to 1.000), in the controls, which
           memorise, at 0.005 (no decay) and 0.04 (random labels). Leads in ln(steps) with 95 percent intervals, and the steps
           of the turn; the test loss turns at 807 to 859:
             excluded loss before test loss          supported     +0.65 [+0.57, +0.73]    391 to 470
             restricted loss before test loss        contradicted  -0.18 [-0.24, -0.13]    974 to 1042
             Gini of the embedding before test loss  contradicted  -0.25 [-0.33, -0.17]    986 to 1106
             memorised before generalised            supported     +1.77 [+1.58, +1.95]    a factor of 5.8
           Exploratory: the unembedding's Gini (+0.22) and the keys' share of the logits (+0.20) lead as well; restricted
           loss of keys against random frequencies is inconclusive (+0.07). Without decay the restricted loss falls to 0.01
           while the test loss rises to 13: here it tells memory from nothing, not a circuit from memory.
Caution:   most problems are in the training table at so small a modulus, so that the projection on waves of a + b averages
           memorised answers into right ones: the restricted loss falls with memorisation already, for any frequencies. That
           is why turns are looked for after it, and why the same loss with random frequencies stands beside it.
"""

from ml_collections import ConfigDict

from experiments.harness import defaults
from experiments.harness.defaults import claim

RUN_TIME = "10 min on two CPU cores (smoke 1 min)"

_LEAD = 0.1  # natural logarithm: steps that differ by less than ten percent are equal
_MEMORISED = 0.95  # accuracy at which a seed has memorised (training) or generalised (test)
_GROK = ("grok",)
_ACCURACY, _TEST_LOSS = {"metric": "fit.accuracy", "split": "id"}, {"metric": "fit.loss", "split": "id"}
_TRAIN_ACCURACY = {"metric": "fit.accuracy", "split": "train"}
_RESTRICTED = {"metric": "fourier.restricted_loss"}


def _lead(name, statement, curve, against=_TEST_LOSS, primary=False):
    """After memorisation `curve` makes half of its change before `against` does."""
    return claim(name, statement, arms=_GROK, kind="order", at="half_change", after=_TRAIN_ACCURACY | {"level": _MEMORISED},
                 against=against, threshold=_LEAD, primary=primary, **curve)


def _higher(name, statement, control):
    return claim(name, statement, arms=("grok", control), threshold=0.5, primary=False, **_ACCURACY)


# Written before the run.
CLAIMS = (
    _lead("restricted-before-test", "After memorisation the restricted loss falls before the test loss does.", _RESTRICTED,
          primary=True),
    _lead("excluded-before-test", "The excluded loss rises before the test loss falls.",
          {"metric": "fourier.excluded_loss", "params": {"which": "all"}}, primary=True),
    _lead("gini-before-test", "The embedding becomes sparse in frequencies (Gini) before the test loss falls.",
          {"metric": "fourier.gini", "module_kind": "embed"}, primary=True),
    claim("memorised-first", "Training accuracy reaches 0.95 in less than half the steps that test accuracy takes.", arms=_GROK,
          kind="order", at="reaches", level=_MEMORISED, against=_ACCURACY, threshold=0.6931, **_TRAIN_ACCURACY),
    _lead("head-gini-before-test", "So does the unembedding.", {"metric": "fourier.gini", "module_kind": "head"}),
    _lead("share-before-test", "The key frequencies' share of the logits rises before the test loss falls.",
          {"metric": "fourier.logit_share"}),
    _lead("restricted-before-accuracy", "The restricted loss falls before the test accuracy rises.", _RESTRICTED, _ACCURACY),
    _lead("keys-before-random", "The restricted loss of the key frequencies falls before that of random ones.", _RESTRICTED,
          _RESTRICTED | {"column": "null_value"}),
    _higher("decay-is-needed", "Without weight decay the same steps do not generalise.", "no-decay"),
    _higher("labels-are-needed", "Random labels are memorised and do not generalise.", "random-labels"),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    defaults.require(argument, "default", "smoke")
    c = defaults.from_scratch()
    c.title = "Progress measures of modular addition"
    c.question = __doc__.splitlines()[0]
    c.papers = ("2301.05217", "2201.02177")
    c.seeds.update({"first": 200})  # a seed draws the initial parameters; pilots used 0 to 4 and 100 to 104
    c.task = ConfigDict({"name": "modular", "modulus": 29, "train_fraction": 0.8})
    c.model = ConfigDict({"width": 48, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 24, "ff": 96})
    c.train.update({
        "steps": 2500,  # of the whole training table
        "learning_rate": 1e-3,  # AdamW, betas (.9, .98), no warm-up
        "weight_decay": 3.0,  # of every arm but no-decay
        "steps_per_call": 500,  # at most, between host decisions
    })
    c.arm = ConfigDict({
        "grok": {"start": "scratch", "source": "table", "answer_tokens": 1,
                 "optimizer_settings": {"weight_decay": "train.weight_decay"}},
        "no-decay": {"like": "grok", "optimizer_settings": {"weight_decay": 0.0}},
        "random-labels": {"like": "grok", "task_settings": {"labels": "random"}},
    })
    c.arms = ("grok", "no-decay", "random-labels")
    # Mean test accuracy over seeds; an arm that never reached it, a control in training, supports nothing.
    c.gate = ConfigDict({"kind": "mean_reached", "metric": "fit.accuracy", "split": "id", "level": 0.99,
                         "control_split": "train"})
    c.measure.update({"grid_points": 48, "probes": ("fit", "fourier")})
    c.probe = ConfigDict({"fourier": {
        "reach": 0.95,  # share of the energy along a + b that the key frequencies hold at the last step
        "cap": 8,  # most key frequencies
        "sets": 32,  # random sets of frequencies in the null
    }})
    if argument == "smoke":
        c.seeds.count = 2
        c.arms = ("grok", "random-labels")
        c.task.update({"modulus": 13})
        c.model.update({"width": 32, "head_dim": 16, "ff": 64})
        c.train.update({"steps": 200})
        c.measure.update({"grid_points": 8})
        c.probe.fourier.update({"sets": 8})
    return c
