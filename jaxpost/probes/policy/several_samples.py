"""The probe of several samples a prompt: what k attempts solve, how varied answers are, how sure and how calibrated.

Legend: S seeds, N prompts, G samples a prompt, T tokens, K temperatures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpost.lookup import nearest
from jaxpost.probes import base, catalog, samples, schedules
from jaxpost.probes.policy import answer_metrics, answer_rows, example_rows, of_suite, text_sets

_OF_LOGITS = (answer_metrics.TEMPERED.id, answer_metrics.SEQUENCE.id)


class Sampled(NamedTuple):
    """What `suite.samples` gives for one split."""

    reward_NxG: jax.Array  # float32 in [0, 1]
    tokens_NxGxT: jax.Array  # int32
    word_NxGxT: jax.Array  # > 0 where a token is a word of the answer
    logp_NxG: jax.Array  # float32, of the whole answer
    length_NxG: jax.Array  # tokens of the answer, its end too
    entropy_NxGxK: jax.Array  # float32, of softmax(logits / temperature), summed over these tokens


@dataclass(frozen=True)
class PolicySamples(of_suite.OfSuite):
    """The statistics of `answer_rows` on fixed problems, all of one set of samples.

    `suite.samples(params, key, n, temperatures)` gives {label: Sampled} and `suite.vocabularies()` {label: V}
    (`training.Suite`); `guesses` are (label, baseline) pairs of its splits. All steps and arms of a seed share one key.

    Raises:
      ValueError: k > samples, a threshold outside (0, 1], a metric that it does not have, a temperature that is not above 0,
        sequence entropy without temperature 1, or a suite without samples.
    """

    suite: Any
    guesses: tuple[tuple[str, float], ...]
    samples: int = 8  # n, of each prompt
    ks: tuple[int, ...] = (1, 4, 8)
    solved: float = 1.0  # a sample is solved if its reward is at least this
    temperatures: tuple[float, ...] = (1.0,)  # that entropies are read at; they take a pass over the samples
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "samples"
    version: str = "2"
    definition: str = "arXiv:2107.03374 (pass@k), arXiv:2310.06452 (diversity), arXiv:2506.13284 (entropy at a temperature)"
    metrics: tuple[str, ...] = tuple(answer_rows.MAKERS)  # those that are made
    needs: frozenset[base.Need] = frozenset({base.PARAMS})
    stream: str = "samples"
    at_base: bool = True

    def __post_init__(self):
        for k in self.ks:
            samples.check_k(k, self.samples)
        if not self.ks or len(set(self.ks)) < len(self.ks) or not 0 < self.solved <= 1:
            raise ValueError(f"PolicySamples needs distinct ks, at least one, and 0 < solved <= 1; found ks={self.ks}, "
                             f"solved={self.solved}")
        if unknown := [name for name in self.metrics if name not in answer_rows.MAKERS]:
            raise ValueError(f"probe 'samples' has no metric {unknown[0]!r}{nearest(unknown[0], answer_rows.MAKERS)}")
        if self._of_logits and not (self.temperatures and min(self.temperatures) > 0):
            raise ValueError(f"probe 'samples': temperatures={self.temperatures}; expected at least one, all above 0")
        if answer_metrics.SEQUENCE.id in self.metrics and 1.0 not in self.temperatures:
            raise ValueError(f"probe 'samples': temperatures={self.temperatures}; sequence entropy is read at 1, add it")
        if not hasattr(self.suite, "samples") or not hasattr(self.suite, "vocabularies"):
            raise ValueError(f"probe 'samples' needs a suite with samples(params, key, n, temperatures) and vocabularies(); "
                             f"{type(self.suite).__name__} has none (use probe 'policy', one sample a prompt)")

    @property
    def _of_logits(self) -> bool:
        return any(name in self.metrics for name in _OF_LOGITS)

    def _measured(self, params: Any, key: jax.Array) -> dict[str, jax.Array]:
        out = {}
        temperatures = self.temperatures if self._of_logits else ()
        for label, sampled in self.suite.samples(params, key, self.samples, temperatures).items():
            out |= {f"{label}/solved_SxNxG": sampled.reward_NxG >= self.solved, f"{label}/logp_SxNxG": sampled.logp_NxG,
                    f"{label}/tokens_SxNxGxT": jnp.where(sampled.word_NxGxT > 0, sampled.tokens_NxGxT, text_sets.NO_WORD),
                    f"{label}/length_SxNxG": sampled.length_NxG, f"{label}/entropy_SxNxGxK": sampled.entropy_NxGxK}
        return out

    def finalize(self, values: Mapping[str, Any], state: dict, *, arm: str, step: int, seeds: Sequence[int],
                 conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]], **meta: Any) -> dict[str, np.ndarray]:
        """Rows of every split and metric; values have a leading axis over seeds."""
        del state, meta
        guesses, fields = dict(self.guesses), of_suite.by_label(values)
        answers = {label: answer_rows.Answers(**given, vocabulary=vocabulary, guess=guesses.get(label))
                   for label, given in fields.items() for vocabulary in (self.suite.vocabularies()[label],)}
        table = example_rows.policy_table(arm=arm, step=step, seeds=seeds, conditional_on=conditional_on)
        for label in answers:
            for metric in self.metrics:
                answer_rows.MAKERS[metric](self, table, label, answers)
        return table.columns(row_ids)


catalog.add(
    __name__,
    catalog.Entry("samples", "what k attempts solve (pass@k, all@k), how varied answers are, how sure and how calibrated",
                  PolicySamples, ("suite", "guesses")),
    catalog.Statistic(
        "answers", "Several answers to one prompt",
        ("policy.pass_at_k", "policy.all_at_k", "policy.ead", "policy.similarity", "policy.answer_entropy",
         "policy.semantic_entropy", "policy.entropy_at_temperature", "policy.sequence_entropy", "policy.ood_gap",
         "policy.calibration_error", "policy.teacher_forced_accuracy", "policy.interrupted",
         "policy.success_given_reasoning", "policy.follows_reasoning"),
        "What k attempts at a prompt solve: some of them (pass@k) or all (all@k, reliability). How varied answers are: within "
        "a prompt and across prompts, in distinct n-grams (EAD), in similarity of n-grams, in entropy over different answers; "
        "semantic entropy counts all that the verifier accepts as one. How much success falls off distribution, and whether "
        "answers are right as often as the policy's own probability says. How much of success is left where the reasoning is "
        "cut after so many tokens, or the first part of the oracle's is given, and whether answers follow reasoning that is "
        "another problem's.",
        "pass@k grows with k for guessers too: read it over its null. Diversity per input may stay high while answers to all "
        "prompts become alike: read both, over samples of other prompts. EAD falls with the length of a text, and a set of n "
        "answers has at most log n of entropy. A policy that is less often right is more varied: compare at equal success. "
        "Where several answers are right, the probability of one is below that of being right, which reads as miscalibration. "
        "Guessers need no reasoning: read success under a cut over its control, which has as many tokens that say nothing. An "
        "answer that follows another problem's reasoning comes from the reasoning, one that is right all the same from the "
        "prompt.",
        "calibration error of policies that are as sure as they are right, and of overconfident ones",
        extremes={
            "policy.pass_at_k": ("some of k samples is right on most prompts; guessers read high at large k", "on few"),
            "policy.all_at_k": ("most prompts are solved every time", "few are, or prompts are solved now and then"),
            "policy.ead": ("the words of a text are varied", "they repeat; also in long texts"),
            "policy.ead_per_input": ("answers to one prompt share few n-grams", "they repeat each other"),
            "policy.ead_across_inputs": ("answers to different prompts share few n-grams", "they follow one template"),
            "policy.similarity_per_input": ("answers to one prompt are alike", "they differ"),
            "policy.similarity_across_inputs": ("answers to different prompts are alike", "they differ"),
            "policy.answer_entropy": ("a prompt gets many different answers", "one answer"),
            "policy.semantic_entropy": ("a prompt gets many wrong answers, or right and wrong ones", "answers mean one thing"),
            "policy.entropy_at_temperature": ("next tokens are open at this temperature", "they are decided"),
            "policy.sequence_entropy": ("answers are undecided, or long", "they are decided"),
            "policy.ood_gap": ("success falls off distribution", "0 it carries over, below 0 it is higher there"),
            "policy.calibration_error": ("the policy is surer, or less sure, than it is right", "near its null: calibrated"),
            "policy.teacher_forced_accuracy": ("demonstrations are continued token by token", "they are not"),
            "policy.interrupted_success": ("answers are right although the reasoning is cut", "they need more of it"),
            "policy.interrupted_share": ("most reasoning is longer than the budget", "it has ended by itself"),
            "policy.success_given_reasoning": ("answers are right behind so much of the oracle's reasoning", "they are wrong"),
            "policy.follows_reasoning": ("answers say what the given reasoning says", "they do not, as free answers do not"),
            "policy.interrupted_budget": ("success comes with the last tokens of the reasoning", "0 it needs none of it"),
        }),
)
