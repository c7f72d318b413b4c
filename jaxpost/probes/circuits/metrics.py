"""What each statistic of a circuit means."""

from __future__ import annotations

from jaxpost.probes import base, catalog
from jaxpost.probes.base import Metric

PAPER = "Wang et al., arXiv:2405.15071"
_NOISE = ("noise: the prompt's own state plus a Gaussian direction as long as the difference of the two states, 95 % of one "
          "more draw")
_ALGORITHM = "float32 states and logits; num_err: prompts that rounding of their logits may decide otherwise"

_AT = "the residual state after `layer` blocks (0: the embedding) at params position"

RECIPROCAL_RANK = Metric(
    "circuit.lens.reciprocal_rank", f"mean over prompts of 1 / rank of the token of params target in the logit lens of {_AT}: "
    "final norm and unembedding, rank 1 + the number of tokens of the vocabulary with a larger logit", "1", PAPER,
    "other_prompts: the targets of other prompts, 95 % of one more draw; shuffled_unembedding (permuted columns: H_V / V) as a "
    "further row", "mean over examples", f"{_ALGORITHM}; noise floor: 1 / vocabulary, the last rank",
    ci_method="t over prompts")
CHANGED = Metric(
    "circuit.tracing.changed", f"share of prompts whose most probable answer changes when {_AT} is replaced by that of the run "
    "with another token in the place of params replaced", "1", f"{PAPER} (causal strength)", _NOISE, "mean over examples",
    f"{_ALGORITHM}; noise floor: the same without a replacement", ci_method="t over prompts")
TRANSFERRED = Metric(
    "circuit.tracing.transferred", "share of prompts whose most probable answer becomes that of the other run, of those where "
    "the two runs differ; otherwise as circuit.tracing.changed", "1", f"{PAPER} (jaxpost: towards which answer)", _NOISE,
    "mean over examples", f"{_ALGORITHM}; noise floor: as changed", ci_method="t over prompts")

METRICS = (RECIPROCAL_RANK, CHANGED, TRANSFERRED)
base.register(*METRICS)


catalog.add(
    __name__,
    catalog.Statistic(
        "lens", "Logit lens of what lies between question and answer", ("circuit.lens",),
        "How high the bridge entity, a value or the answer stands when an intermediate state is read as if it were the last. "
        "Read it above other_prompts: what the same tokens score on prompts that they do not belong to. In the last state the "
        "target that is the answer has the policy's own rank.",
        "A low rank does not say that the token is not there: an intermediate state need not speak the language of the head. A "
        "high one does not say that it is used: causal tracing asks that. With few labels the null is high. Where the "
        "beginning of a prompt is itself a question of training, its last state is trained to name that answer.",
        "reciprocal rank of a token that is written into the stream with growing strength, and of other tokens",
        extremes={"circuit.lens": ("the state already names the token", "the head does not find it there")}),
    catalog.Statistic(
        "tracing", "Causal tracing by swapping states", ("circuit.tracing",),
        "Which states carry what a token of the prompt says: replaced by those of a prompt with another token, they change the "
        "answer (changed) and make it the other prompt's (transferred). A state that carries it transfers where noise of the "
        "same size does not.",
        "Changed alone is not evidence: noise changes answers too, wherever margins are small. The embedding's state of the "
        "replaced token transfers everything by construction. A path that two states carry in parallel shows in neither.",
        "share of answers transferred by a planted carrier and by noise of the same size",
        extremes={"circuit.tracing": ("the state carries what was replaced", "it does not, or other states do too")}),
)
