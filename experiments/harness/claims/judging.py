"""Claims judged after the run: paired over seeds, Holm-corrected, gated on arms that did what they are for."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from experiments.harness.claims import across_arms, statistics
from experiments.harness.claims.curves import AmbiguousError, Run
from experiments.harness.claims.gates import FEWEST, Gate, mean_interval, randomised
from experiments.harness.claims.terms import contrast, scale, terms
from jaxpost import stats
from jaxpost.probes import trends
from jaxpost.records import parse_params, select


def judge(claims: Sequence[Mapping], table: pa.Table, last: Mapping[str, int], gate: Callable) -> list[dict]:
    """Results for `records.finish`, in the order of the claims.

    Args:
      claims: as stated in the config.
      table: all rows of role "seed".
      last: arm -> its last step, of every arm of the claims.
      gate: of `gates`.
    """
    return corrected([_judge(claim, table, last, gate) for claim in claims])


def judging(claims: Sequence[Mapping], last: Mapping[str, int], gate: Callable) -> Callable[[pa.Table], list[dict]]:
    """rows of all seeds -> results: `judge` with all but the table given."""
    return lambda table: judge(claims, table, last, gate)


def corrected(results: list[dict]) -> list[dict]:
    """The results, the primary ones with Holm's p-value."""
    tested = [r for r in results if r["primary"] and np.isfinite(r["p"])]
    for result, p in zip(tested, stats.holm([r["p"] for r in tested]) if tested else []):
        result["p_holm"] = float(p)
    return results


def statistic(claim: Mapping, table: pa.Table, last: Mapping[str, int]) -> dict[Run, float]:
    """{run: the claim's statistic}, of every run that has a value in each term; NaN where an event did not happen."""
    if claim["kind"] == "rank_correlation":
        return across_arms.correlations(across_arms.read(claim, table, last))
    sides = [(weight, statistics.of(term, table, last)) for weight, term in terms(claim)]
    paired = set(sides[0][1]).intersection(*(side for _, side in sides))
    return {run: sum(weight * side[run] for weight, side in sides) for run in sorted(paired, key=str)}


def _judge(claim: Mapping, table: pa.Table, last: Mapping[str, int], gate: Callable) -> dict:
    gates = [gate(table, claim, arm) for arm in claim["arms"]]
    sample, ambiguous = None, ""
    try:
        sample = across_arms.read(claim, table, last) if claim["kind"] == "rank_correlation" else None
        units = across_arms.correlations(sample) if sample else statistic(claim, table, last)
    except AmbiguousError as error:
        units, ambiguous = {}, str(error)
    missing = [run for run, x in units.items() if not np.isfinite(x)]
    counted = {run: x for run, x in units.items()
               if np.isfinite(x) and all(g.counted is None or run in g.counted for g in gates)}
    note = "; ".join(g.note for g in gates)
    empty = dict.fromkeys(("p", "p_holm", "estimate", "ci_lo", "ci_hi"), np.nan)
    result = {**claim, "contrast": contrast(claim), **empty, "n_units": len(counted), "verdict": "inconclusive", "note": note}
    if missing and claim["at"] in statistics.EVENTS:
        return result | {"note": f"in seed {missing[0][1]} the event did not happen, so the claim supports nothing; {note}"}
    if not counted:
        none = f"no seed has the value in every term and counts{_absent(claim, table)}"
        return result | {"note": f"{ambiguous or none}; {note}"}
    unit = randomised(counted)
    if len({base for base, _ in counted}) > 1:
        result |= {"n_units": len(unit), "unit": "base"}
    interval, limits = mean_interval(counted), (claim["threshold"], claim["equivalence_margin"])
    if claim["kind"] == "value" and scale(claim) == "fisher":
        interval, limits = stats.Interval(*(np.tanh(end) for end in interval)), trends.fisher(limits)
    result |= {"estimate": float(interval.value), "ci_lo": float(interval.lo), "ci_hi": float(interval.hi),
               "p": float(stats.t_pvalue(unit, limits[0], claim["direction"], limits[1]))}
    gated = _gated(result, interval, gates)
    return across_arms.permuted(gated, sample, counted) if sample else gated


def _absent(claim: Mapping, table: pa.Table) -> str:
    """What the rows say that have no value where the claim reads, ` (arm: reason, ...)`; empty where none says anything."""
    wanted, reasons = {"split": claim["split"]} if claim.get("split") else {}, {}
    for row in select(table, role="seed", metric=claim["metric"], arm=list(claim["arms"]), **wanted).to_pylist():
        at = parse_params(row["params"]).get("at")
        if row["status_reason"] and at == (claim["at"] if claim["at"] in statistics.MATCHED else None):
            reasons.setdefault(row["arm"], row["status_reason"])
    return f" ({', '.join(f'{arm}: {reason}' for arm, reason in reasons.items())})" if reasons else ""


def _gated(result: dict, interval: stats.Interval, gates: Sequence[Gate]) -> dict:
    """The result with its verdict, or why it supports nothing."""
    if not all(g.passed for g in gates):
        return result | {"note": f"an arm did not learn, so it supports nothing; {result['note']}"}
    if any(g.counted is not None for g in gates) and result["n_units"] < FEWEST:
        return result | {"note": f"{result['n_units']} seeds count, at least {FEWEST} are needed; {result['note']}"}
    return result | {"verdict": stats.verdict(interval, result["direction"], result["threshold"], result["equivalence_margin"])}
