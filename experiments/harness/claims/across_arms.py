"""Claims whose sample is the arms: does the order of the arms by one statistic follow that by another?

In every run (seed) Spearman's correlation over the A arms of the statistic with that of `against` is taken; the estimate is the
mean over runs, with its t interval. That interval says how well the correlation of *these* arms is known. Whether so few arms
could be ordered so by chance is asked by permuting their names (`stats.permuted_ranks`, one permutation in all runs): p is that
of the permutations, and a claim is supported only where it is at most 0.05 as well, and contradicted only where that of the
other direction is.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from experiments.harness.claims import statistics
from experiments.harness.claims.curves import Run
from experiments.harness.claims.terms import sides
from jaxpost import stats

PLACES = ("final", "mean", "area")
LEVEL = 0.05  # largest p of the permutations with which an order of the arms supports or contradicts a claim
_OTHER = {"greater": "less", "less": "greater"}


class Sample(NamedTuple):
    """Runs with both statistics in every arm, and these."""

    runs: list[Run]
    x_RxA: np.ndarray
    y_RxA: np.ndarray


def read(claim: Mapping, table: pa.Table, last: Mapping[str, int]) -> Sample:
    """Both statistics of a claim in every arm."""
    by_side = [[statistics.of(term, table, last) for term in side] for side in sides(claim)]
    runs = sorted(set.intersection(*(set(of_arm) for side in by_side for of_arm in side)), key=str)
    return Sample(runs, *(np.asarray([[of_arm[run] for of_arm in side] for run in runs]).reshape(len(runs), len(side))
                          for side in by_side))


def correlations(sample: Sample) -> dict[Run, float]:
    """{run: rank correlation over the arms}; NaN where all arms have one value."""
    return dict(zip(sample.runs, stats.rank_correlations(sample.x_RxA, sample.y_RxA).tolist())) if sample.runs else {}


def permuted(result: dict, sample: Sample, counted: Mapping[Run, float]) -> dict:
    """The result with the permutations' p, inconclusive where that of its verdict's direction is too large."""
    kept = [run in counted for run in sample.runs]
    x_RxA, y_RxA, stated = sample.x_RxA[kept], sample.y_RxA[kept], result["direction"]
    test = stats.permuted_ranks(x_RxA, y_RxA, stated)
    drawn = f"all {test.draws:,}" if test.exact else f"{test.draws:,} random"
    note = f"p = {test.p:.2g} of {drawn} permutations of the arms; {result['note']}"
    result = result | {"p": test.p, "note": note, "ci_lo": max(result["ci_lo"], -1.0), "ci_hi": min(result["ci_hi"], 1.0)}
    ordered = {"supported": stated, "contradicted": _OTHER[stated]}.get(result["verdict"])
    if ordered and (p := stats.permuted_ranks(x_RxA, y_RxA, ordered).p) > LEVEL:
        result |= {"verdict": "inconclusive", "note": f"so few arms are ordered so by chance ({ordered}, p = {p:.2g}): {note}"}
    return result
