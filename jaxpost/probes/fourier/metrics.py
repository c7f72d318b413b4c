"""What each Fourier progress measure means."""

from __future__ import annotations

from jaxpost.probes import base, catalog
from jaxpost.probes.base import Metric

PAPER = "Nanda et al., arXiv:2301.05217"
_KEYS = ("the fewest frequencies of the arm's last measured step whose waves of a + b hold 95 % of the energy of all such "
         "waves in the logits, capped; frozen for all steps (params rule)")
_RANDOM = "random_frequencies: mean and range over other sets of as many frequencies (all, or drawn)"

RESTRICTED = Metric(
    "fourier.restricted_loss", "mean over all p^2 problems of the cross-entropy of: logits projected on cos and "
    f"sin(2 pi w (a + b) / p) of the key frequencies w, plus the mean over problems of what was removed; keys: {_KEYS}",
    "nat", PAPER, _RANDOM + "; untrained (step 0, same keys) as a further row", "none",
    "logits of the p answers, float64 on the host", higher_is_better=False)
EXCLUDED = Metric(
    "fourier.excluded_loss", "mean over the training problems of the cross-entropy of the logits minus their components along "
    "cos and sin(2 pi w (a + b) / p), of all key frequencies together (params which=all) or of one (which=single, k its rank)",
    "nat", PAPER, _RANDOM + "; untrained (step 0, same keys) as a further row", "none",
    "logits of the p answers, float64 on the host; the direction of a + b only")
SHARE = Metric(
    "fourier.logit_share", "share of the variance of the logits over all problems (mean over answers removed) along cos and "
    "sin(2 pi w (a + b) / p) of the key frequencies", "1", PAPER, _RANDOM + "; untrained as a further row", "none",
    "float64 on the host")
KEY_COUNT = Metric(
    "fourier.key_count", "number of key frequencies, at the last measured step", "1", PAPER + " (reconstructed: chosen from "
    "logits; the paper chooses from neurons)", "none: a choice, not a measurement", "none", "cumulative share of energy")
FREQUENCY_SHARE = Metric(
    "fourier.frequency_share", "share of the variance of the logits along cos and sin(2 pi k (a + b) / p) of one frequency k, "
    "at the last measured step", "1", PAPER, "uniform: the mean over all frequencies", "none", "float64 on the host")
COSINE = Metric(
    "fourier.cosine_coefficient", "coefficient of cos(2 pi k (a + b - c) / p) in the logits of answers c, of one frequency k: "
    "(2 / p^3) times their inner product over all a, b and c, at the last measured step", "nat", PAPER,
    "shuffled_answers: the answers c permuted, 95 % of one more draw", "none", "float64 on the host")
GINI = Metric(
    "fourier.gini", "Gini coefficient of the norms of the Fourier components, along the numbers, of the embedding and of the "
    "unembedding: the constant and (p - 1) / 2 frequencies", "1", PAPER + " (recalled: that it is applied to these norms)",
    "gaussian: mean and range over random tables of the same shape", "none", "float64 on the host")
SUM_SQUARES = Metric(
    "fourier.sum_squares", "sum of squares of all parameters", "1", PAPER, "none: compare with step 0", "sum over matrices",
    "float32 sums of leaves")

METRICS = (RESTRICTED, EXCLUDED, SHARE, KEY_COUNT, FREQUENCY_SHARE, COSINE, GINI, SUM_SQUARES)
base.register(*METRICS)


catalog.add(
    __name__,
    catalog.Statistic(
        "fourier", "Fourier progress measures of modular addition", ("fourier",),
        "Restricted loss: what the waves of a + b at the key frequencies say alone; it falls while the circuit forms. Excluded "
        "loss: what is left of the training fit without them; it rises as memory is given up for them. The key frequencies are "
        "frozen from the last step, so the measure does not move. Compare with other sets of as many frequencies.",
        "Projecting on a + b averages memorised answers into right ones: with most problems in training the restricted loss "
        "falls with memorisation, for any frequencies. With many keys among few frequencies random sets overlap them. Keys of "
        "a model that never generalised are the largest of nothing. A Gini over few frequencies is coarse.",
        "restricted loss of memorised answers against the share of problems in training",
        extremes={
            "fourier.restricted_loss": (
                "the key waves alone say little",
                "they solve the problems: the circuit, or memorised answers averaged"),
            "fourier.excluded_loss": ("little of the training fit is left without the waves", "memory holds it without them"),
            "fourier.logit_share": ("the logits are mostly these waves", "they are mostly something else"),
            "fourier.frequency_share": ("this frequency carries the logits", "it does not"),
            "fourier.cosine_coefficient": ("the logits add modulo p by this wave", "near 0: they do not"),
            "fourier.gini": ("few frequencies carry the norm", "it is spread over all"),
        }),
)
