"""Forgetting on text that no task is about: the loss of the policy on it, and its divergence from the base there."""

from jaxpost.probes import base, catalog
from jaxpost.probes.base import Metric, register

METRICS = (
    Metric("policy.text_loss", "mean over tokens of fixed general text of -log pi(x_t | x_<t), the first token of a text given",
           "nat", "jaxpost", "none in the row: compare with the rows of arm base", "mean over tokens", "teacher forcing",
           higher_is_better=False),
    Metric("policy.text_kl", "mean over tokens of fixed general text of KL(pi0(.|x_<t) || pi(.|x_<t)), full vocabulary", "nat",
           "arXiv:2509.04259", "0 at the base", "mean over tokens", "teacher forcing"),
)
register(*METRICS)
catalog.add(__name__, catalog.Entry(
    "general_text", "what training did to text that no task is about: loss, KL to the base",
    where="measured with the policy's statistics where measure.text names a file (post_train_hf)", lane="sidecar",
    needs=frozenset({base.PARAMS, base.PARAMS0}), metrics=tuple(metric.id for metric in METRICS)))
