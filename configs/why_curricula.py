"""Why do curricula differ: does the order in which they learn follow the gradients of the problems that they choose?

Question: curricula are explained by the gradient. Knapsack RL (arXiv:2509.25849) counts the rollouts that have one, and the
noise scale (arXiv:1812.06162) and coherence (arXiv:2008.01217) say how far they pull together. Here the arms of curriculum_race
train again, and each step reports these of its own rows: do arms with more of them learn faster, over all curricula?
Reading:   effective rows: rollouts of a step with an advantage that is not 0. Coherence alpha: the share of the gradients'
           sum of squares that they agree on, between microbatches of the step's rows; the noise scale is 1 / alpha - 1, whose
           order is that of alpha reversed, but for estimates of alpha below 0, of which it makes negative scales. Each is
           averaged over the measured steps, and ranked over the arms against the area under the curve of success; p is of
           permutations of the arms' names.
Limits:    thirteen arms are a small sample, of which several are variants of one rule. An order explains nothing by itself:
           both may follow how difficult the chosen problems are.

Command:   python -m experiments.run --config=why_curricula          (5 seeds, 13 arms)
           python -m experiments.run --config=why_curricula:smoke    (2 seeds, 5 arms, tiny)
Healthy:   uniform draws raise success on fresh problems; half as many rollouts have less than half as many effective rows, as
           smaller groups agree more often (11 and 30 of 16 and 32 in the smoke form).
Differs from the papers in: correlations over curricula are ours; chunk gradients of a moving policy.
Came out:  not run yet; the smoke form runs to its end (its arms learn nothing in eight steps).
Learning rate: the default of rlvr_sparsity's pilot, not tuned here.
"""

from ml_collections import ConfigDict

from experiments.harness import config as configs
from experiments.harness import defaults

RUN_TIME = "not measured (smoke 5 CPU minutes)"
ARMS = ("uniform", "halved", "sec", "dump", "tscl", "plr", "cures", "easy-to-hard", "hard-to-easy", "random-order", "knapsack",
        "pods", "filtered")
SMOKE = ("uniform", "halved", "sec", "knapsack", "pods")
_LEARNING = {"metric": "policy.success", "split": "id", "at": "area"}


def _follows(name, statement, metric, arms=ARMS, against=_LEARNING, sign=1, primary=True, **fields):
    return defaults.claim(name, statement, metric, arms, kind="rank_correlation", at="mean", against=against, primary=primary,
                          direction="greater" if sign > 0 else "less", threshold=sign * 0.3, equivalence_margin=0.1, **fields)


_ALPHA = {"params": {"chunk": "1"}}  # of single rows, so that arms with other groups compare
# Written before the run; their hash enters the manifest before the first arm.
CLAIMS = (
    _follows("effective-rows", "Curricula with more effective rows learn faster.", "policy.effective_rows"),
    _follows("coherence", "Curricula whose rows agree more on their gradient learn faster.", "gradient.alpha.unbiased",
             **_ALPHA),
    _follows("noise", "Curricula with a smaller noise scale learn faster.", "gradient.noise_scale", sign=-1, primary=False),
    _follows("signal", "Curricula with a larger mean gradient learn faster.", "gradient.mean_norm2", primary=False),
    _follows("effective-rows-end", "Curricula with more effective rows end higher.", "policy.effective_rows",
             against={**_LEARNING, "at": "final"}, primary=False),
    _follows("smoke", "So they do among the arms of the smoke form.", "policy.effective_rows", SMOKE, primary=False),
)


def get_config(argument: str = "default") -> ConfigDict:
    """The config; `argument` is default or smoke."""
    c, small = configs.module("curriculum_race").get_config(argument), argument == "smoke"
    c.title, c.question = "Why curricula differ", __doc__.splitlines()[0]
    c.papers = (*c.papers, "1812.06162", "2008.01217")
    c.arms = SMOKE if small else ARMS
    c.train.microbatches = 4
    c.measure.probes = ("weight", "policy", "loss_tokens", "effective_rows", "gradient_chunks")
    c.gate.first_only = True  # an arm that learns nothing counts in the order
    return c
