"""The probe of problems with two answers (`auc`): how well the margin between them ranks problems, split by split.

Where a split replaces features of a prompt by those of other problems, this is the feature-randomised AUC: near 1/2 with the
features S replaced and near 1 with all others replaced says that a policy reads S alone.

Legend: S seeds, N problems, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from jaxpost.probes import base, catalog, schedules
from jaxpost.probes.base import Metric, register
from jaxpost.probes.policy import example_rows, of_suite
from jaxpost.stats import Interval

AUC = Metric(
    "policy.auc", "P(margin of a problem whose answer is b > that of one whose answer is a) + half of ties, a and b the two "
    "first answer tokens of the split, margin = logit b - logit a before the answer; absent where a split has other than two",
    "1", "arXiv:2006.07710", "no_preference: 1/2 with 95 % of the Mann-Whitney law, labels in any order (ties counted)",
    "mean over prompts", "exact ranks of float32 margins; numerical error: pairs closer than the rounding of two logits",
    "normal, DeLong's variance over problems; none at 0 or 1", higher_is_better=True)
register(AUC)
_EPS = 2.0**-24
_PARTS = ("margin_N", "positive_N", "two", "size")
_REASONS = np.asarray([None, "the answers of this split do not begin with one of two tokens", "a margin is not finite"], object)


def auc(margin_N: np.ndarray, positive_N: np.ndarray) -> tuple[float, float, float]:
    """(AUC, its standard error, that of no preference) from margins and labels; ties count half.

    Standard errors: DeLong, DeLong and Clarke-Pearson 1988, NaN where a side has one problem or no two problems of different
    sides are out of order, so that it would claim certainty; and that of labels in any order,
    (m + n + 1 - sum (t^3 - t) / ((m + n) (m + n - 1))) / (12 m n) over ties of t margins, its square.

    Raises: ValueError when a side has none.
    """
    margin_N, positive_N = np.asarray(margin_N, np.float64), np.asarray(positive_N, bool)
    above, below = margin_N[positive_N], margin_N[~positive_N]
    m, n = len(above), len(below)
    if not m or not n:
        raise ValueError(f"auc: both labels are needed; found {m} positive and {n} negative problems")
    rank_N = scipy.stats.rankdata(margin_N)
    beaten_m = (rank_N[positive_N] - scipy.stats.rankdata(above)) / n  # share of the other side that each one beats
    beating_n = 1 - (rank_N[~positive_N] - scipy.stats.rankdata(below)) / m
    variance = beaten_m.var(ddof=1) / m + beating_n.var(ddof=1) / n if min(m, n) > 1 else 0.0
    error = variance**0.5 if variance > 0 else np.nan
    tied = np.unique(margin_N, return_counts=True)[1].astype(np.float64)
    blind = (m + n + 1 - (tied**3 - tied).sum() / ((m + n) * (m + n - 1))) / (12 * m * n)
    return float(beaten_m.mean()), float(error), float(blind**0.5)


@dataclass(frozen=True)
class AnswerAUC(of_suite.OfSuite):
    """AUC of the margin between two answers on fixed problems.

    `suite.first_answers(params)` gives {label: (logits_NxV before the first answer token, that token of the oracle i32[N])}
    (`training.Suite`). One pass over the problems, nothing sampled.
    """

    suite: Any
    schedule: schedules.Schedule = schedules.LogSpaced(per_decade=4)
    lane: str = "sidecar"
    id: str = "auc"
    version: str = "1"
    definition: str = "arXiv:2006.07710, AUC of the logit difference on splits with randomised features"
    metrics: tuple[str, ...] = (AUC.id,)
    needs: frozenset[base.Need] = frozenset({base.PARAMS})
    at_base: bool = True

    def __post_init__(self):
        if not hasattr(self.suite, "first_answers"):
            raise ValueError(f"probe 'auc' needs a suite with first_answers(params); {type(self.suite).__name__} has none")

    def _measured(self, params: Any, key: jax.Array) -> dict[str, jax.Array]:
        """Of every label margins, which answer is right, whether there are two, and the largest logit."""
        del key
        out = {}
        for label, (logits_NxV, answer_N) in self.suite.first_answers(params).items():
            first, second = answer_N.min(), answer_N.max()
            pair_Nx2 = logits_NxV.astype(jnp.float32)[:, jnp.stack([first, second])]
            two = (first != second) & ((answer_N == first) | (answer_N == second)).all()
            parts = (pair_Nx2[:, 1] - pair_Nx2[:, 0], (answer_N == second).astype(jnp.int32), two.astype(jnp.int32),
                     jnp.abs(pair_Nx2).max())
            out |= {f"{label}/{name}": part for name, part in zip(_PARTS, parts, strict=True)}
        return out

    def finalize(self, values: Mapping[str, Any], state: dict, *, arm: str, step: int, seeds: Sequence[int],
                 conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]], **meta: Any) -> dict[str, np.ndarray]:
        """A row of every split and seed."""
        del state, meta
        table = example_rows.policy_table(arm=arm, step=step, seeds=seeds, conditional_on=conditional_on)
        for label, parts in of_suite.by_label(values).items():
            margin_SxN, positive_SxN, two_S, size_S = (parts[name] for name in _PARTS)
            value, error, blind, rounding = np.asarray(
                [_row(*one) for one in zip(margin_SxN, positive_SxN, two_S, size_S, strict=True)]).T
            case = np.select([two_S == 0, ~np.isfinite(value)], [1, 2], 0)
            example_rows.add(table, AUC.id, Interval(value, value - 1.96 * error, value + 1.96 * error), margin_SxN.shape[1],
                             null=("no_preference", np.where(two_S, 0.5, np.nan), 0.5 - 1.96 * blind, 0.5 + 1.96 * blind),
                             floor=error, num_err=rounding[:, None], unit="prompt", split=label,
                             status=np.asarray(["ok", "absent", "nan"], object)[case], reason=_REASONS[case])
        return table.columns(row_ids)


def _row(margin_N: np.ndarray, positive_N: np.ndarray, two: int, size: float) -> tuple[float, float, float, float]:
    """(AUC, standard error, that of no preference, share of pairs closer than rounding); NaN where there is none."""
    if not two or not np.isfinite(margin_N).all():
        return (np.nan,) * 4
    positive_N = positive_N == 1
    apart = np.abs(margin_N[positive_N][:, None] - margin_N[~positive_N][None])
    return *auc(margin_N, positive_N), float((apart <= 4 * size * _EPS).mean())


catalog.add(
    __name__,
    catalog.Entry("auc", "how well the margin between two answers ranks problems; with features replaced, which ones are read",
                  AnswerAUC, ("suite",), by_name=True),
)
