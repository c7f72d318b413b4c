"""The probe of in-context strategies (`strategies`): is a policy on its way to a memorising or a generalising predictor?

Price: one forward pass over the problems of the suite's splits that have both predictors; once an arm and seed half a second on
the host for the law of posterior odds.

Legend: S seeds, N prompts, C answers, M null draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxpost.probes import base, catalog, schedules
from jaxpost.probes.policy import example_rows, of_suite, posterior_odds, strategies
from jaxpost.probes.rows import pooling

_PAPER = "arXiv:2506.17859 (rational-icl 7fcd0a6)"
_NULL = "other_prompts: the policy's answers to other prompts against the predictors of this one, 95 % of one more draw"
_OVER = "t over prompts, delete-one jackknife"
_EXACT = "float64 on float32 logits; num_err: first-order bound on their rounding. Floor: none, a number of its own"
DISTANCE = base.Metric(
    "strategy.relative_distance", "(clip((d(h,G) - d(h,M)) / d(G,M), -1, 1) + 1) / 2 with d the symmetrised KL, means over "
    "prompts: 0 the generalising, 1 the memorising Bayes predictor", "1", _PAPER, _NULL, "mean over prompts", _EXACT,
    ci_method=_OVER)
WEIGHT = base.Metric(
    "strategy.memorising_weight", "w of the mixture w M + (1 - w) G of both predictors that the policy's answers are nearest "
    "to, by the mean of KL(h | mixture): the posterior of the memorising strategy as the policy acts on it", "1",
    f"{_PAPER}; jaxpost: w itself, where the paper fits its law over steps and data sets", _NULL, "mean over prompts", _EXACT,
    ci_method=_OVER)
UNEXPLAINED = base.Metric(
    "strategy.unexplained", "mean of KL(h | w M + (1 - w) G) at that w: what no mixture of the strategies explains", "nat",
    f"{_PAPER} (distance to the interpolation)", _NULL, "mean over prompts", _EXACT, ci_method=_OVER)
METRICS = (DISTANCE, WEIGHT, UNEXPLAINED)
_LAW = ("log odds of memorising = -ln 2 (K_M^beta - K_G^beta) - gamma N^(1 - alpha) (L_M - L_G), N steps, K compressed bits, L "
        "mean losses")
_FIT = ("L-BFGS-B in logarithms from three starts, mean KL of the policies to the law's mixtures over the first 80 % of the "
        "measured steps near a mixture, all splits; num_err: how far the starts disagree that are as good. Floor: none")
ODDS = tuple(base.Metric(f"strategy.odds.{name}", text, unit, f"{_PAPER}; one data set at a time", null, "none", _FIT)
             for name, text, unit, null in (
                 ("alpha", f"exponent of the steps in: {_LAW}", "1", "none: a parameter of the fit"),
                 ("beta", "exponent of the description lengths in the same law", "1", "none: a parameter of the fit"),
                 ("gamma", "rate of the evidence in the same law", "1", "none: a parameter of the fit"),
                 ("held_out", "mean KL(h | the law's mixture) of the last 20 % of the steps", "nat",
                  "constant: the one weight that is best in the other steps")))
base.register(*METRICS, *ODDS)
_FEW = f"fewer than {posterior_odds.LEAST_STEPS} measured steps near a mixture of the strategies"
_LEAST = 1e-12  # chance that a predictor gives what it excludes, so that distances to it are finite


class Answers(NamedTuple):
    """Of the prompts of one split, float32."""

    logp_NxC: jax.Array  # of the policy, over the answers that can come
    memorising_NxC: jax.Array
    generalising_NxC: jax.Array
    rounding_N: jax.Array  # bound on the errors of its logits


@dataclass(frozen=True)
class InContext(of_suite.OfSuite):
    """The statistics of `strategies` on every split of the suite that has both predictors, and their law over the steps.

    Raises: ValueError: fewer than two null draws, or a suite without such a split.
    """

    suite: Any
    draws: int = 4  # of the null
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "strategies"
    version: str = "1"
    definition: str = "arXiv:2506.17859: relative distance and mixture weight of two in-context Bayes predictors"
    metrics: tuple[str, ...] = tuple(metric.id for metric in (*METRICS, *ODDS))
    needs: frozenset[base.Need] = frozenset({base.PARAMS})
    at_base: bool = True

    def __post_init__(self):
        if self.draws < 2:
            raise ValueError(f"InContext.draws={self.draws}; a null band needs 2 draws or more")
        if not getattr(self.suite, "strategic", ()):
            raise ValueError("probe 'strategies' needs a task with two Bayes predictors, such as 'urns'; this suite has none")

    def _measured(self, params: Any, key: jax.Array) -> dict[str, jax.Array]:
        del key
        return of_suite.flat(self.suite.strategies(params))

    def finalize(self, values: Mapping[str, np.ndarray], state: dict, *, arm: str, step: int, seeds: Sequence[int],
                 conditional_on: str | None, row_ids: Callable, **meta: Any) -> dict[str, np.ndarray]:
        """Rows of every split; values as `Answers`, with a leading axis over seeds."""
        table = example_rows.policy_table(arm=arm, step=step, seeds=seeds, conditional_on=conditional_on)
        for label, fields in of_suite.by_label(values).items():
            answers = Answers(**{name: np.asarray(x, np.float64) for name, x in fields.items()})
            h, *known = _positive(answers)
            N = h.shape[1]
            drawn = [_statistics(np.roll(h, -max(1, N * d // (self.draws + 1)), axis=1), known, answers.rounding_N)
                     for d in range(1, self.draws + 1)]
            for i, (metric, one) in enumerate(zip(METRICS, _statistics(h, known, answers.rounding_N), strict=True)):
                band = pooling.prediction_band(np.stack([draw[i].interval.value for draw in drawn], axis=-1), 0.0)
                null = ("other_prompts", *band) if N > 1 else None
                example_rows.add(table, metric.id, one.interval, N, null=null, split=label, unit="prompt",
                                 num_err=one.error[:, None], dtype="fp32")
        return table.columns(row_ids)

    def arrays(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`<label>/<field>` as measured: what the law of posterior odds is fitted to."""
        return {name: np.asarray(x) for name, x in values.items()}

    def across(self, series: Mapping[int, Mapping[str, np.ndarray]], *, infos: Any, arm: str, seeds: Sequence[int],
               conditional_on: str | None, row_ids: Callable) -> dict[str, np.ndarray]:
        """The law of `posterior_odds` over an arm's steps, one fit a seed; losses are those on the first split, of training."""
        steps = [step for step in sorted(series) if step > 0]
        splits = [of_suite.by_label(series[step]) for step in steps]
        by_step = [[Answers(**fields[label]) for label in self.suite.strategic] for fields in splits]  # in the suite's order
        laws = [self._law(steps, [[Answers(*(np.asarray(x[s], np.float64) for x in fields)) for fields in splits]
                                  for splits in by_step]) for s in range(len(seeds))]
        table = example_rows.policy_table(arm=arm, step=max(series), seeds=seeds, conditional_on=conditional_on)
        for i, metric in enumerate(ODDS):
            value, error, constant = (np.asarray([[np.nan if law is None else read(law)] for law in laws]) for read in (
                lambda law, i=i: law[i], lambda law, i=i: law.spread[i], lambda law: law.constant))
            ok = np.isfinite(value)
            null = ("constant", constant, None, None) if metric.id.endswith("held_out") else None
            table.add(metric.id, value, np.where(ok, "ok", "absent").astype(object),
                      np.where(ok, None, _FEW).astype(object), null=null, num_err=error, dtype="fp32")
        return table.columns(row_ids)

    def _law(self, steps: Sequence[int], answers: Sequence[Sequence[Answers]]) -> posterior_odds.Law | None:
        """Of one seed, from the answers of every step and split."""
        if len(steps) < posterior_odds.LEAST_STEPS:
            return None
        h_TxNxC = np.stack([np.concatenate([_positive(one)[0] for one in splits]) for splits in answers])
        if not np.isfinite(h_TxNxC).all():
            return None
        known = [np.concatenate(parts) for parts in zip(*(_positive(one)[1:] for one in answers[0]), strict=True)]
        left = strategies.weight(h_TxNxC, *known, np.zeros(h_TxNxC.shape[:2]))[1].interval.value
        own, other = _positive(answers[0][0])[1:]
        losses = [float(-(own * np.log(p)).sum(-1).mean()) for p in (own, other)]
        near = posterior_odds.settled(left)
        step_T, bits = np.asarray(steps, np.float64), self.suite.strategy_bits()
        return posterior_odds.fit(h_TxNxC[near:], *known, step_T[near:], bits, losses)


def _positive(answers: Answers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(h, memorising, generalising), of which the predictors give nothing no chance at all."""
    return np.exp(answers.logp_NxC), *(np.maximum(x, _LEAST) for x in (answers.memorising_NxC, answers.generalising_NxC))


def _statistics(h: np.ndarray, known: Sequence[np.ndarray], rounding_SxN: np.ndarray) -> tuple[strategies.Found, ...]:
    """In the order of METRICS."""
    return strategies.relative_distance(h, *known, rounding_SxN), *strategies.weight(h, *known, rounding_SxN)


catalog.add(
    __name__,
    catalog.Entry("strategies", "whether a policy answers in context as one that has memorised its training set or as one that "
                  "infers", InContext, ("suite",), by_name=True),
    catalog.Statistic(
        "strategies", "In-context strategies", ("strategy",),
        "Two Bayes predictors frame what a policy may do in context: one knows the sources of its training set, one infers any "
        "source. The relative distance says where between them the policy is, the weight which mixture of both it is, and "
        "unexplained how far even that mixture is from it.",
        "Where both predictors agree (long contexts, sources of training) no distance means much: read it on fresh sources. A "
        "policy that has learned neither lies somewhere between both as well: its unexplained part is large, and its null as "
        "high as its value.",
        "relative distance and weight of mixtures of both predictors, and what is unexplained of a policy that tends to chance",
        extremes={
            "strategy.relative_distance": ("it answers like the memorising predictor", "like the generalising one"),
            "strategy.memorising_weight": ("it answers like the memorising predictor", "like the generalising one"),
            "strategy.odds.held_out": ("the law does not foretell the last steps", "it does; below its null better than none"),
            "strategy.unexplained": ("it follows no mixture of the two", "its answers are a mixture of them"),
        }),
)
