"""Policy statistics: what a policy does on fixed problems, as measurement rows with the base as reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxpost import stats
from jaxpost.probes import base, catalog, price, schedules
from jaxpost.probes.base import Metric, register
from jaxpost.probes.policy import example_rows

_METRICS = (
    Metric("policy.success", "mean verifier reward of one sample a problem at temperature 1, fixed problems", "1",
           "arXiv:2511.08567", "best guess that does not solve the problem (the task states it)", "mean over prompts",
           "one KV-cached sample a problem", higher_is_better=True),
    Metric("policy.kl_forward", "E_{y ~ pi0} sum_t KL(pi0(.|x, y_<t) || pi(.|x, y_<t)), full vocabulary; params "
           "reduce=sequence_sum or token_mean", "nat", "arXiv:2509.04259", "0 at the base", "mean over prompts",
           "teacher forcing on samples of the base"),
    Metric("policy.kl_reverse", "E_{y ~ pi} sum_t KL(pi(.|x, y_<t) || pi0(.|x, y_<t)), full vocabulary; params "
           "reduce=sequence_sum or token_mean", "nat", "arXiv:2509.04259", "0 at the base", "mean over prompts",
           "teacher forcing on the policy's own samples"),
    Metric("policy.entropy", "mean over tokens sampled from pi at temperature 1 of -sum_v pi_v log pi_v", "nat",
           "arXiv:2505.22617", "none in the row: compare with the rows of arm base", "mean over tokens",
           "full vocabulary on the policy's own samples"),
)
_WORK = (
    Metric("policy.loss_tokens", "tokens that entered the loss, mean over the steps since the last measurement", "token",
           "jaxpost", "none: a control of equal work between arms", "none", "sum of the loss mask"),
)
_COVARIANCE = Metric(
    "policy.advantage_covariance", "mean over sampled tokens of (l - mean l)(A - mean A), divisor N, l the log-probability "
    "before the update and A the advantage as the loss used it; mean over the steps since the last measurement", "nat",
    "arXiv:2505.22617", "independence: 0, advantages that know nothing of the log-probabilities", "mean over tokens",
    "float32 sums in the train step, A centred first", "t over steps (neighbouring steps are not independent)")
register(*_METRICS, *_WORK, _COVARIANCE)

# value name of training.Suite.measure -> (metric, params)
_DIVERGENCES = {
    "kl_forward": ("policy.kl_forward", "reduce=sequence_sum"),
    "kl_forward_token": ("policy.kl_forward", "reduce=token_mean"),
    "kl_reverse": ("policy.kl_reverse", "reduce=sequence_sum"),
    "kl_reverse_token": ("policy.kl_reverse", "reduce=token_mean"),
    "text_kl": ("policy.text_kl", None),
    "entropy": ("policy.entropy", None),
}


def finalize(values: Mapping[str, np.ndarray], *, arm: str, step: int, seeds: Sequence[int], conditional_on: str,
             guesses: Mapping[str, float]) -> dict[str, list]:
    """Columns of rows of role "seed" from the values of `training.Suite.measure`.

    Args:
      values: name -> array over seeds; `success/<label>`, the divergences, entropy, `text_loss`, `loss_tokens` (any may be
        missing).
      guesses: label -> guess baseline, the null of success.
    """
    rows = []
    for name, value_S in values.items():
        label = name.removeprefix("success/")
        if label != name:
            fixed = {"metric": "policy.success", "split": label, "null_kind": "guess", "null_value": guesses[label]}
        elif name in _DIVERGENCES:
            metric, params = _DIVERGENCES[name]
            fixed = {"metric": metric, "params": params}
            if name != "entropy":
                fixed |= {"null_kind": "base", "null_value": 0.0}
        else:
            fixed = {"metric": f"policy.{name}"}
        for seed, value in zip(seeds, np.asarray(value_S, np.float64), strict=True):
            finite = bool(np.isfinite(value))
            rows.append({"arm": arm, "role": "seed", "step": step, "seed": seed, "granularity": "policy", "n_units": 1,
                         "unit": "seed", "value": float(value) if finite else None, "status": "ok" if finite else "nan",
                         "status_reason": None if finite else "the policy's logits are not finite",
                         "conditional_on": conditional_on, **fixed})
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


@dataclass(frozen=True)
class PolicyStatistics:
    """Success, exact KL to the base and entropy on fixed problems.

    `suite.measure(params, base, key)` gives a dict of scalars (`training.Suite`); `guesses` are (label, baseline) pairs of
    its splits. All steps and arms of a seed share one key, so that they differ by their parameters only.
    """

    suite: Any
    guesses: tuple[tuple[str, float], ...]
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "policy"
    version: str = "1"
    definition: str = "arXiv:2509.04259 (KL), verifier reward on fixed problems"
    metrics: tuple[str, ...] = tuple(metric.id for metric in _METRICS)
    needs: frozenset[base.Need] = frozenset({base.PARAMS0, base.PARAMS})
    stream: str = "evaluate"
    at_base: bool = True

    def cost(self, ctx: base.Context) -> base.Cost:
        """Counted from the program itself: sampling depends on the tasks."""
        return price.traced(self.suite.measure, ctx[base.PARAMS], ctx[base.PARAMS0], jax.random.key(0))

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """No state."""
        return {}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, {value name: scalar})."""
        return state, self.suite.measure(ctx[base.PARAMS], ctx[base.PARAMS0], key)

    def finalize(self, values: Mapping[str, Any], state: dict, *, arm: str, step: int, seeds: Sequence[int],
                 conditional_on: str, **meta: Any) -> dict[str, list]:
        """Rows; see the function `finalize`. The tensors and `row_ids` in `meta` are not read: there are no further nulls."""
        return finalize(values, arm=arm, step=step, seeds=seeds, conditional_on=conditional_on, guesses=dict(self.guesses))


class OfHistory:
    """What probes share that read the history that every train step reports."""

    def cost(self, ctx: base.Context) -> base.Cost:
        """Nothing: the train step has it."""
        return base.Cost()

    def init(self, ctx: base.Context, key: jax.Array) -> dict:
        """No state."""
        return {}

    def measure(self, ctx: base.Context, state: dict, key: jax.Array) -> tuple[dict, dict]:
        """(state, history): what the steps since the last measurement reported."""
        return state, ctx[base.HISTORY]


class MeanOfHistory(OfHistory):
    """A probe whose rows are the mean, over the steps since the last measurement, of what they report under the probe's id."""

    def finalize(self, values: Mapping[str, np.ndarray], state: dict, *, arm: str, step: int, seeds: Sequence[int],
                 conditional_on: str, **meta: Any) -> dict[str, list]:
        """Rows of the mean; `values[id]` is [S, steps]. None where the steps do not report it."""
        del state, meta
        if self.id not in values:
            return {"metric": []}
        means = {self.id: values[self.id].mean(axis=1)}
        return finalize(means, arm=arm, step=step, seeds=seeds, conditional_on=conditional_on, guesses={})


@dataclass(frozen=True)
class LossTokens(MeanOfHistory):
    """How much work an arm's loss did: read from the history that every train step reports, at no cost."""

    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "inline"
    id: str = "loss_tokens"
    version: str = "1"
    definition: str = "sum of the loss mask of a step"
    metrics: tuple[str, ...] = tuple(metric.id for metric in _WORK)
    needs: frozenset[base.Need] = frozenset({base.HISTORY})

@dataclass(frozen=True)
class AdvantageCovariance(OfHistory):
    """Covariance of log-probability and advantage over the tokens of a step, from the history at no cost.

    Positive: the loss raises tokens that are likely already, and entropy falls (arXiv:2505.22617). Absent where an objective
    has no advantages, and where no token of a step counted.
    """

    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "inline"
    id: str = "advantage_covariance"
    version: str = "1"
    definition: str = "arXiv:2505.22617, population covariance over tokens"
    metrics: tuple[str, ...] = (_COVARIANCE.id,)
    needs: frozenset[base.Need] = frozenset({base.HISTORY})

    def finalize(self, values: Mapping[str, np.ndarray], state: dict, *, arm: str, step: int, seeds: Sequence[int],
                 conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]], **meta: Any) -> dict[str, np.ndarray]:
        """Rows of the mean over the steps; `values["advantage_covariance"]` is [S, steps], NaN where no token counted."""
        del state, meta
        table = example_rows.policy_table(arm=arm, step=step, seeds=seeds, conditional_on=conditional_on)
        steps_S = values.get("advantage_covariance", np.empty((len(seeds), 0)))
        each = [np.asarray(x, np.float64)[~np.isnan(x)] for x in steps_S]
        intervals = [stats.t_interval(x) if x.size else stats.Interval(*(np.asarray(np.nan),) * 3) for x in each]
        interval = stats.Interval(*(np.asarray([getattr(one, end) for one in intervals]) for end in ("value", "lo", "hi")))
        known = np.isfinite(interval.value)
        status = np.asarray([["ok" if ok else "nan" if x.size else "absent"]
                             for ok, x in zip(known, each, strict=True)], object)
        reason = np.asarray([["the objective has no advantages, or no token counted" if not x.size else
                              "the covariance of a step is not finite" if not ok else
                              None if x.size > 1 else "one step: no interval"] for ok, x in zip(known, each)], object)
        example_rows.add(table, _COVARIANCE.id, interval, np.asarray([[x.size] for x in each]), unit="step",
                         null=("independence", 0.0, None, None), status=status, reason=reason,
                         floor=np.asarray([x.std(ddof=1) / np.sqrt(x.size) if x.size > 1 else np.nan for x in each]))
        return table.columns(row_ids)


catalog.add(
    __name__,
    catalog.Entry("policy", "what the policy does: success, KL to the base, entropy", PolicyStatistics, ("suite", "guesses")),
    catalog.Entry("advantage_covariance",
                  "whether the loss raises tokens that are likely already: log-probability against advantage",
                  AdvantageCovariance),
    catalog.Entry("loss_tokens", "how many tokens entered the loss: equal work between arms", LossTokens),
    catalog.Statistic(
        "policy", "What the policy does", ("policy",),
        "Success against the best guess that does not solve the problem; KL to the base in both directions; entropy of own "
        "samples. The covariance of log-probability and advantage says whether a step raises what is likely already (entropy "
        "falls). All arms of a seed share prompts and noise, so differences are paired.",
        "KL per sequence grows with length, per token it does not; entropy falls with every kind of training. Success of the "
        "base is itself a noisy number: compare with the rows of arm base.",
        "KL in both directions between two categorical policies",
        extremes={
            "policy.success": ("most samples are right", "few are"),
            "policy.kl": ("the policy is far from the base, or (per sequence) answers are long", "it is near"),
            "policy.entropy": ("the policy is undecided", "it is sure, as after every kind of training"),
            "policy.advantage_covariance": (
                "the step raises what is likely already: entropy falls",
                "below 0: what is unlikely"),
            "policy.effective_rows": ("most rollouts have an advantage", "most groups agree, or little is left in the loss"),
        }),
)
