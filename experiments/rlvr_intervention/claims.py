"""Claims about overlaps of update masks: signed sums of pair statistics, paired over seeds, gated on arms that learned."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from experiments.harness import claims as claim_rules
from experiments.harness.errors import UserError
from jaxpost import stats
from jaxpost.lookup import nearest
from jaxpost.probes.updates import mask_pairs
from jaxpost.records import parse_params, select

FIELDS = ("id", "primary", "kind", "statement", "metric", "arms", "at", "terms", "excess", "direction", "threshold",
          "equivalence_margin")


def check(claims: Sequence[Mapping], groups: Sequence[str], pairs: Sequence[tuple[str, str, str]]) -> None:
    """Refuse claims that could not be judged, before any compute.

    Args:
      groups: names of groups of matrices.
      pairs: (against, arm, mapping) that are measured.

    Raises:
      UserError: a field that is missing, an unknown metric, group or pair, or as `claims.check_strength`.
    """
    for claim in claims:
        name = claim.get("id", "without an id")
        if missing := [field for field in FIELDS if field not in claim]:
            raise UserError(f"claim {name!r} lacks {missing[0]!r}; a claim has {', '.join(FIELDS)}")
        if claim["metric"] not in mask_pairs.METRICS:
            raise UserError(f"claim {name!r}: metric {claim['metric']!r} is not known"
                            f"{nearest(claim['metric'], mask_pairs.METRICS)}")
        for sign, pair, group in claim["terms"]:
            if sign not in (1, -1) or tuple(pair) not in pairs:
                raise UserError(f"claim {name!r}: term ({sign}, {tuple(pair)}) is not a sign and one of {list(pairs)}")
            if group not in groups:
                raise UserError(f"claim {name!r}: group {group!r} is not known{nearest(group, groups)}")
    claim_rules.check_strength(claims)


def values_of(table: pa.Table, metric: str, pair: tuple[str, str, str], group: str, excess: bool) -> dict[tuple, float]:
    """{(base, seed): value, or value minus its null} of a pair of runs in a group of matrices."""
    against, arm, mapping = pair
    wanted = {"against": against, "group": group, "map": mapping}
    return {(row["conditional_on"], row["seed"]): row["value"] - (row["null_value"] if excess else 0.0)
            for row in select(table, role="seed", metric=metric, arm=arm, granularity="body").to_pylist()
            if parse_params(row["params"]) == wanted and row["value"] is not None}


def judge(claims: Sequence[Mapping], table: pa.Table, steps: int) -> list[dict]:
    """Results for `records.finish`, in the order of the claims; primary ones Holm-corrected."""
    return claim_rules.corrected([_judge(claim, table, steps) for claim in claims])


def contrast(claim: Mapping) -> str:
    """The statistic in words."""
    terms = " ".join(f"{'+' if sign > 0 else '-'} ({against}, {arm}, {mapping}; {group})"
                     for sign, (against, arm, mapping), group in claim["terms"])
    return f"{claim['metric']}{' minus its null' if claim['excess'] else ''}: {terms}, at the last step"


def _judge(claim: Mapping, table: pa.Table, steps: int) -> dict:
    sides = [values_of(table, claim["metric"], tuple(pair), group, claim["excess"]) for _, pair, group in claim["terms"]]
    paired = sorted(set(sides[0]).intersection(*sides))
    gates = [claim_rules.learned(table, arm, claim_rules.End(steps)) for arm in claim["arms"]]
    result = claim_rules.unjudged(claim, contrast(claim), len(paired), gates)
    if not paired:
        return result | {"note": "no seed has the value in every term; " + result["note"]}
    x_S = np.asarray([sum(sign * side[run] for (sign, _, _), side in zip(claim["terms"], sides)) for run in paired])
    interval = stats.t_interval(x_S)
    result |= claim_rules.estimated(interval, stats.t_pvalue(x_S, claim["threshold"], claim["direction"]))
    return claim_rules.gated(result, interval, gates)
