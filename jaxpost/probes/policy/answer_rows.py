"""Rows of several answers a prompt: success of k attempts, entropies, diversity, gap to other splits, calibration.

Every statistic is of the same samples. `MAKERS` has one function a metric, which adds its rows of one split:
(probe, table, label, answers of every label) -> None. The definitions are in `answer_metrics`.

Legend: S seeds, N prompts, G samples a prompt, M = N G texts, T tokens, K temperatures, O orders of n-grams.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from jaxpost import stats
from jaxpost.probes import samples
from jaxpost.probes.base import Metric
from jaxpost.probes.policy import calibration, example_rows, text_sets
from jaxpost.probes.policy.answer_metrics import (
    ALL,
    ANSWERS,
    CALIBRATION,
    EAD,
    EAD_ACROSS,
    EAD_PER_INPUT,
    GAP,
    PASS,
    SEMANTIC,
    SEQUENCE,
    SIMILARITY,
    SIMILARITY_ACROSS,
    TEMPERED,
)

NO_WORD = "no sampled text has a word"
_ROUNDING, _REFERENCE = 2.0**-53, "id"


@dataclass(frozen=True)
class Answers:
    """The samples of one split, of every seed, on the host. A token that is no word is text_sets.NO_WORD."""

    solved_SxNxG: np.ndarray  # bool
    tokens_SxNxGxT: np.ndarray
    logp_SxNxG: np.ndarray  # of the whole answer, end token included
    length_SxNxG: np.ndarray  # tokens, end token included
    entropy_SxNxGxK: np.ndarray  # sums over the tokens of an answer, one a temperature
    vocabulary: int
    guess: float | None

    @property
    def prompts(self) -> int:
        """N."""
        return self.solved_SxNxG.shape[1]

    @property
    def count_SxN(self) -> np.ndarray:
        """Solved samples of each prompt."""
        return self.solved_SxNxG.sum(2)

    @functools.cached_property
    def texts(self) -> list[Texts]:
        """The texts of every seed."""
        return [Texts(text_sets.aligned(tokens.reshape(-1, tokens.shape[-1])), solved.ravel(), *solved.shape)
                for tokens, solved in zip(self.tokens_SxNxGxT, self.solved_SxNxG, strict=True)]


@dataclass(frozen=True)
class Texts:
    """The texts of one seed, prompt by prompt, and the sets that they make."""

    words_MxT: np.ndarray
    solved_M: np.ndarray
    N: int
    G: int

    @functools.cached_property
    def grams(self) -> tuple[text_sets.Grams, ...]:
        """n-grams of every text."""
        return text_sets.grams(self.words_MxT)

    @functools.cached_property
    def firsts(self) -> tuple[text_sets.Grams, ...]:
        """n-grams of the first text of every prompt."""
        return text_sets.grams(self.words_MxT[::self.G])

    @property
    def own_M(self) -> np.ndarray:
        """The set of each text: its prompt."""
        return np.repeat(np.arange(self.N), self.G)

    @property
    def others_M(self) -> np.ndarray:
        """Sets of G texts, each of another prompt; every text is in one."""
        return (self.own_M - np.tile(np.arange(self.G), self.N)) % self.N


def _passes(metric: Metric, read: Callable, guess: Callable) -> Callable:
    def make(probe, table, label, answers):
        asked = answers[label]
        for k in probe.ks:
            x_SxN = read(asked.count_SxN, probe.samples, k)
            null = None if asked.guess is None else ("guess", *guess(asked.guess, k, asked.prompts))
            example_rows.add(table, metric.id, stats.t_interval(x_SxN), asked.prompts, null=null,
                             floor=example_rows.standard_error(x_SxN), k=k, unit="prompt", split=label,
                             params=f"samples={probe.samples};solved={probe.solved:g}", num_err=asked.prompts * _ROUNDING)

    return make


def _add_known(probe, table, metric: Metric, label: str, x_SxN: np.ndarray, missing: str, *, num_err: float, **more) -> None:
    """A mean over the prompts that have a value (NaN elsewhere); how many have none is said."""
    interval, error_S, count_S = example_rows.over_known(x_SxN)
    out_S = x_SxN.shape[1] - count_S
    reason = np.asarray([[missing if not n else f"{out} of {n + out} prompts have no text with a word" if out else None]
                         for n, out in zip(count_S, out_S, strict=True)], object)
    status = np.where(count_S[:, None] > 0, "ok", "absent").astype(object)
    more = {"params": f"samples={probe.samples}"} | more
    example_rows.add(table, metric.id, interval, count_S[:, None], unit="prompt", split=label, floor=error_S, status=status,
                     reason=reason, num_err=num_err, **more)


def _per_input(metric: Metric, read: Callable[[Answers, Texts, np.ndarray], np.ndarray], missing: str = NO_WORD) -> Callable:
    """A statistic of the set of a prompt's texts, against sets of texts of other prompts."""
    def make(probe, table, label, answers):
        asked = answers[label]
        x_SxN = np.stack([read(asked, texts, texts.own_M) for texts in asked.texts])
        null = None
        if asked.prompts >= probe.samples:
            null = ("other_prompts", *example_rows.over_known([read(asked, texts, texts.others_M) for texts in asked.texts])[0])
        _add_known(probe, table, metric, label, x_SxN, missing, null=null, num_err=64 * _ROUNDING)

    return make


def _ead_of_sets(asked: Answers, texts: Texts, set_M: np.ndarray) -> np.ndarray:
    return samples.ead(*text_sets.distinct(texts.grams, set_M, texts.N), asked.vocabulary)


def _ead(probe, table, label, answers) -> None:
    asked, parts = answers[label], []
    for texts in asked.texts:
        kinds_MxO, grams_MxO = text_sets.distinct(texts.grams, np.arange(texts.N * texts.G), texts.N * texts.G)
        each = samples.ead(kinds_MxO, grams_MxO, asked.vocabulary), *samples.ead_null(grams_MxO, asked.vocabulary)
        parts.append([x.reshape(texts.N, texts.G) for x in each])
    x_SxNxG, null_SxNxG, deviation_SxNxG = map(np.stack, zip(*parts, strict=True))
    count_SxN = np.isfinite(x_SxNxG).sum(2)

    def over_texts(y_SxNxG, power=1):
        unknown_SxN = np.full(count_SxN.shape, np.nan)
        return np.divide(np.nansum(y_SxNxG, axis=2), count_SxN**power, out=unknown_SxN, where=count_SxN > 0)

    prompts_S = (count_SxN > 0).sum(1)
    value_S = example_rows.over_known(over_texts(null_SxNxG))[0].value
    half_S = 1.96 * np.sqrt(np.nansum(over_texts(deviation_SxNxG**2, 2), axis=1)) / np.maximum(prompts_S, 1)
    _add_known(probe, table, EAD, label, over_texts(x_SxNxG), NO_WORD, num_err=64 * _ROUNDING,
               null=("uniform_words", value_S, value_S - half_S, value_S + half_S),
               params=f"samples={probe.samples};vocabulary={asked.vocabulary}")


def _across(metric: Metric, read: Callable[[Answers, Texts], tuple], missing: str) -> Callable:
    """A statistic of the set of all prompts' first texts, from (value, without each prompt [N], null or None)."""
    def make(probe, table, label, answers):
        asked = answers[label]
        value_S, without_SxN, nulls = zip(*(read(asked, texts) for texts in asked.texts), strict=True)
        value_S, without_SxN = np.asarray(value_S), np.stack(without_SxN)
        interval = example_rows.delete_one(value_S, without_SxN)
        known = np.isfinite(value_S)[:, None]
        example_rows.add(table, metric.id, interval, asked.prompts, unit="prompt", split=label,
                         num_err=asked.prompts * _ROUNDING,
                         null=None if nulls[0] is None else ("uniform_words", *np.asarray(nulls).T),
                         status=np.where(known, "ok", "absent").astype(object), reason=np.where(known, None, missing))

    return make


def _ead_across(asked: Answers, texts: Texts) -> tuple:
    kinds, totals = text_sets.distinct(texts.firsts, np.zeros(texts.N, int), 1)
    without_NxO = text_sets.distinct_without(texts.firsts, texts.N)
    mean, deviation = (x[0] for x in samples.ead_null(totals, asked.vocabulary))
    return (samples.ead(kinds, totals, asked.vocabulary)[0], samples.ead(*without_NxO, asked.vocabulary),
            (mean, mean - 1.96 * deviation, mean + 1.96 * deviation))


def _similarity_across(asked: Answers, texts: Texts) -> tuple:
    del asked
    return (text_sets.similarity(texts.firsts, np.zeros(texts.N, int), 1)[0],
            text_sets.similarity_without(texts.firsts, texts.N), None)


def _tempered(probe, table, label, answers) -> None:
    asked = answers[label]
    tokens_SxN = asked.length_SxNxG.sum(2)
    for i, temperature in enumerate(probe.temperatures):
        entropy_SxN = asked.entropy_SxNxGxK[..., i].sum(2)
        interval = example_rows.jackknife(lambda total, tokens: total / tokens, entropy_SxN, tokens_SxN)
        example_rows.add(table, TEMPERED.id, interval, asked.prompts, unit="prompt", split=label,
                         params=f"samples={probe.samples};temperature={temperature:g}",
                         num_err=_float32(asked, 1), broken="the policy's logits are not finite")


def _sequence(probe, table, label, answers) -> None:
    asked, at = answers[label], probe.temperatures.index(1.0)
    x_SxN = asked.entropy_SxNxGxK[..., at].mean(2)
    example_rows.add(table, SEQUENCE.id, stats.t_interval(x_SxN), asked.prompts, unit="prompt", split=label,
                     floor=example_rows.standard_error(x_SxN), params=f"samples={probe.samples}",
                     num_err=_float32(asked, asked.tokens_SxNxGxT.shape[-1]), broken="the policy's logits are not finite")


def _float32(asked: Answers, tokens: int) -> float:
    """Rounding of the float32 entropies of so many tokens: 16 units in the last place of log V each."""
    return tokens * np.log(asked.vocabulary) * 2.0**-20


def _gap(probe, table, label, answers) -> None:
    if not label.startswith("ood/") or _REFERENCE not in answers:
        return
    inside, outside = answers[_REFERENCE], answers[label]
    interval, error_S = example_rows.welch(inside.solved_SxNxG.mean(2), outside.solved_SxNxG.mean(2))
    known = inside.guess is not None and outside.guess is not None
    example_rows.add(table, GAP.id, interval, inside.prompts + outside.prompts, unit="prompt", split=label, floor=error_S,
                     null=("guess", inside.guess - outside.guess, None, None) if known else None,
                     params=f"samples={probe.samples};solved={probe.solved:g}", num_err=outside.prompts * _ROUNDING)


def _calibration(probe, table, label, answers) -> None:
    asked = answers[label]
    confidence_SxN = np.minimum(np.exp(np.asarray(asked.logp_SxNxG[..., 0], np.float64)), 1.0)
    intervals, nulls = [], []
    for confidence_N, right_N in zip(confidence_SxN, asked.solved_SxNxG[..., 0], strict=True):
        whole = np.isfinite(confidence_N).all()
        rng = np.random.default_rng(0)
        nulls.append(calibration.null(confidence_N, rng) if whole else (np.nan,) * 3)
        intervals.append(calibration.interval(confidence_N, right_N, rng) if whole else example_rows.UNKNOWN)
    example_rows.add(table, CALIBRATION.id, example_rows.stack(intervals), asked.prompts, unit="prompt", split=label,
                     null=("calibrated", *np.asarray(nulls).T), params=f"bins={calibration.BINS}",
                     num_err=asked.tokens_SxNxGxT.shape[-1] * 2.0**-18, broken="the policy's log-probabilities are not finite")


_ONE = "one sample a prompt, or no two texts of a prompt have a word"
MAKERS: Mapping[str, Callable] = {
    PASS.id: _passes(PASS, samples.pass_at_k, samples.guess_at_k),
    ALL.id: _passes(ALL, samples.all_at_k, samples.guess_all_at_k),
    EAD.id: _ead,
    EAD_PER_INPUT.id: _per_input(EAD_PER_INPUT, _ead_of_sets),
    EAD_ACROSS.id: _across(EAD_ACROSS, _ead_across, NO_WORD),
    SIMILARITY.id: _per_input(SIMILARITY, lambda _, texts, set_M: text_sets.similarity(texts.grams, set_M, texts.N), _ONE),
    SIMILARITY_ACROSS.id: _across(SIMILARITY_ACROSS, _similarity_across, "no two texts have a word"),
    ANSWERS.id: _per_input(ANSWERS, lambda _, texts, set_M: text_sets.entropy(
        text_sets.classes(texts.words_MxT), set_M, texts.N)),
    SEMANTIC.id: _per_input(SEMANTIC, lambda _, texts, set_M: text_sets.entropy(
        text_sets.classes(texts.words_MxT, texts.solved_M), set_M, texts.N)),
    TEMPERED.id: _tempered,
    SEQUENCE.id: _sequence,
    GAP.id: _gap,
    CALIBRATION.id: _calibration,
}
