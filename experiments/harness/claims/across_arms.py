"""Claims whose sample is the arms: does the order of the arms by one statistic follow that by another?

In every run (seed) Spearman's correlation over the A arms of the statistic with that of `against` is taken; the estimate is the
mean over runs, with its t interval. That interval says how well the correlation of *these* arms is known. Whether so few arms
could be ordered so by chance is asked by permuting their names (`stats.permuted_ranks`, one permutation in all runs): p is that
of the permutations, and a claim is supported only where it is at most 0.05 as well.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from experiments.harness.claims import statistics
from experiments.harness.claims.curves import Run
from experiments.harness.claims.terms import sides
from jaxpost import stats

PLACES = ("final", "mean", "area")
LEVEL = 0.05  # largest p of the permutations that supports a claim


def read(claim: Mapping, table: pa.Table, last: Mapping[str, int]) -> tuple[list[Run], np.ndarray, np.ndarray]:
    """(runs with both statistics in every arm, x [R, A], y [R, A])."""
    found = [[statistics.of(term, table, last) for term in side] for side in sides(claim)]
    runs = sorted(set.intersection(*(set(of_arm) for side in found for of_arm in side)), key=str)
    return runs, *(np.asarray([[of_arm[run] for of_arm in side] for run in runs]).reshape(len(runs), -1) for side in found)


def correlations(claim: Mapping, table: pa.Table, last: Mapping[str, int]) -> dict[Run, float]:
    """{run: rank correlation over the arms}; NaN where all arms have one value."""
    runs, x_RxA, y_RxA = read(claim, table, last)
    return dict(zip(runs, stats.rank_correlations(x_RxA, y_RxA).tolist())) if runs else {}


def permuted(result: dict, claim: Mapping, table: pa.Table, last: Mapping[str, int], counted: Mapping[Run, float]) -> dict:
    """The result with the permutations' p, inconclusive where that is too large for "supported"."""
    runs, x_RxA, y_RxA = read(claim, table, last)
    kept = [run in counted for run in runs]
    test = stats.permuted_ranks(x_RxA[kept], y_RxA[kept], claim["direction"])
    drawn = f"all {test.draws:,}" if test.exact else f"{test.draws:,} random"
    note = f"p = {test.p:.2g} of {drawn} permutations of the arms; {result['note']}"
    result = result | {"p": test.p, "note": note, "ci_lo": max(result["ci_lo"], -1.0), "ci_hi": min(result["ci_hi"], 1.0)}
    if result["verdict"] == "supported" and test.p > LEVEL:
        result |= {"verdict": "inconclusive", "note": f"so few arms are ordered so by chance: {result['note']}"}
    return result
