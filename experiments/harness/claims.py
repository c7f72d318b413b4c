"""Claims written before the run, judged after it: paired over seeds, Holm-corrected, gated on arms that learned."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from experiments.harness.errors import UserError
from jaxpost import stats
from jaxpost.lookup import nearest
from jaxpost.records import parse_params, select

LEARNED = 0.05  # an arm whose new-task success moved by less supports nothing
KINDS = ("difference", "excess_over_null", "signed_sum")
PLACES = ("final", "matched_norm", "matched_success")
_MAX_PRIMARY = 4


class End(NamedTuple):
    """Where an arm ends, and what it had to learn."""

    step: int
    split: str = "id"  # on which its success has to move


def check(claims: Sequence[Mapping], splits: Sequence[str]) -> None:
    """Refuse claims that could not be judged, before any compute.

    Args:
      splits: that are measured.

    Raises:
      UserError: unknown kind, place or split, a number of arms that the kind does not compare, or as `check_strength`.
    """
    for claim in claims:
        checked = {"kind": KINDS, "at": PLACES} | {name: splits for name in ("split", "matched_on") if name in claim}
        for field, valid in checked.items():
            if claim[field] not in valid:
                raise UserError(f"claim {claim['id']!r}: {field}={claim[field]!r}{nearest(claim[field], valid)}")
        if claim["kind"] == "signed_sum":
            _check_terms(claim)
        elif len(claim["arms"]) not in (1, 2) or (claim["kind"] == "difference" and len(claim["arms"]) == 1):
            raise UserError(f"claim {claim['id']!r}: {len(claim['arms'])} arms; a difference takes 2, an excess over the null "
                            "1 or 2")
    check_strength(claims)


def _check_terms(claim: Mapping) -> None:
    if not claim.get("terms"):
        raise UserError(f"claim {claim['id']!r}: a signed sum has no terms; expected ((sign, {{'arm': ...}}), ...)")
    for sign, term in claim["terms"]:
        if sign not in (1, -1) or term.get("arm") not in claim["arms"]:
            raise UserError(f"claim {claim['id']!r}: term ({sign}, {dict(term)}) is not a sign, 1 or -1, and the fields of a "
                            f"statistic, of which 'arm' is one of {', '.join(claim['arms'])}")


def check_strength(claims: Sequence[Mapping]) -> None:
    """Refuse a threshold inside its margin, or too many primary claims. Raises: UserError."""
    for claim in claims:
        try:
            stats.verdict(stats.Interval(0.0, np.nan, np.nan), claim["direction"], claim["threshold"],
                          claim["equivalence_margin"])
        except ValueError as error:
            raise UserError(f"claim {claim['id']!r}: {error}") from error
    if sum(claim["primary"] for claim in claims) > _MAX_PRIMARY:
        raise UserError(f"{sum(c['primary'] for c in claims)} primary claims; at most {_MAX_PRIMARY}, mark the rest "
                        "primary=False")


def require_arms(claims: Sequence[Mapping], known: Sequence[str]) -> None:
    """Refuse a claim on an arm that the config does not have. Raises: UserError."""
    for claim in claims:
        if unknown := [arm for arm in claim["arms"] if arm not in known]:
            raise UserError(f"claim {claim['id']!r}: arm {unknown[0]!r} is not known{nearest(unknown[0], known)}")


def judgeable(claims: Sequence[Mapping], arms: Sequence[str]) -> list[Mapping]:
    """The claims whose arms all run."""
    return [claim for claim in claims if set(claim["arms"]) <= set(arms)]


def judge(claims: Sequence[Mapping], table: pa.Table, ends: Mapping[str, End]) -> list[dict]:
    """Results for `records.finish`, in the order of the claims.

    Args:
      claims: as stated in the config.
      table: all rows of role "seed".
      ends: of every arm of the claims.
    """
    return corrected([_judge(claim, table, ends) for claim in claims])


def corrected(results: list[dict]) -> list[dict]:
    """The results, the primary ones with Holm's p-value."""
    tested = [r for r in results if r["primary"] and np.isfinite(r["p"])]
    for result, p in zip(tested, stats.holm([r["p"] for r in tested]) if tested else []):
        result["p_holm"] = float(p)
    return results


def learned(table: pa.Table, arm: str, end: End) -> tuple[bool, str]:
    """Whether an arm's success on its split moved by at least LEARNED with an interval that leaves out 0, and the numbers."""
    success = values_of(table, "policy.success", arm, step=end.step, split=end.split)
    start = values_of(table, "policy.success", "base", step=0, split=end.split)
    moved = _stack({run: value - start[run] for run, value in success.items()})
    interval = _interval(moved)
    text = f"{arm}: success moved by {interval.value:+.3f} [{interval.lo:+.3f}, {interval.hi:+.3f}]"
    return bool(abs(interval.value) >= LEARNED and not interval.lo <= 0 <= interval.hi), text


def values_of(table: pa.Table, metric: str, arm: str, *, step: int | None, split: str | None = None,
            dtype: str | None = None, k: int | None = None, params: Mapping = MappingProxyType({}),
            excess: bool = False, granularity: str | None = None) -> dict:
    """{(base, seed): value, or value minus its null} of exactly one variant of a metric, global or of the policy.

    Args:
      granularity: another one, such as "body".
    """
    places = ("global", "policy") if granularity is None else (granularity,)
    found = {}
    for row in select(table, role="seed", metric=metric, arm=arm).to_pylist():
        variant = (row["split"], row["dtype"], row["k"], parse_params(row["params"]))
        if (row["granularity"] in places and variant == (split, dtype, k, dict(params))
                and row["step"] == step and row["value"] is not None):
            found[row["conditional_on"], row["seed"]] = row["value"] - (row["null_value"] if excess else 0.0)
    return found


def unjudged(claim: Mapping, what: str, units: int, gates: Sequence[tuple[object, str]]) -> dict:
    """The result of a claim before its statistic is known: inconclusive, its contrast `what`, the gates' words as its note."""
    missing = dict.fromkeys(("p", "p_holm", "estimate", "ci_lo", "ci_hi"), np.nan)
    return {**claim, "contrast": what, **missing, "n_units": units, "verdict": "inconclusive",
            "note": "; ".join(text for _, text in gates)}


def estimated(interval: stats.Interval, p: float) -> dict:
    """Estimate, interval and p-value of a result."""
    return {"estimate": float(interval.value), "ci_lo": float(interval.lo), "ci_hi": float(interval.hi), "p": float(p)}


def gated(result: dict, interval: stats.Interval, gates: Sequence[tuple[bool, str]]) -> dict:
    """The result with its verdict, or why it supports nothing: an arm did not learn."""
    if not all(ok for ok, _ in gates):
        return result | {"note": "an arm did not learn, so it supports nothing; " + result["note"]}
    return result | {"verdict": stats.verdict(interval, result["direction"], result["threshold"], result["equivalence_margin"])}


def _stack(values: Mapping) -> np.ndarray:
    """[bases, seeds] of {(base, seed): value}."""
    bases = sorted({base for base, _ in values})
    return np.asarray([[v for (b, _), v in sorted(values.items()) if b == base] for base in bases])


def _interval(x_BxS: np.ndarray) -> stats.Interval:
    return stats.hierarchical_interval(x_BxS) if len(x_BxS) > 1 else stats.t_interval(x_BxS[0])


def _judge(claim: Mapping, table: pa.Table, ends: Mapping[str, End]) -> dict:
    terms = _terms(claim)
    sides = [_values(claim | term, table, ends) for _, term in terms]
    paired = set(sides[0]).intersection(*sides)
    gates = [learned(table, arm, ends[arm]) for arm in claim["arms"]]
    result = unjudged(claim, contrast(claim), len(paired), gates)
    if not paired:
        return result | {"note": "no seed has the value in every term (outside its range); " + result["note"]}
    x_BxS = _stack({run: sum(sign * side[run] for (sign, _), side in zip(terms, sides)) for run in paired})
    interval = _interval(x_BxS)
    unit = x_BxS.mean(axis=1) if len(x_BxS) > 1 else x_BxS[0]
    if len(x_BxS) > 1:
        result |= {"n_units": len(x_BxS), "unit": "base"}
    result |= estimated(interval, stats.t_pvalue(unit, claim["threshold"], claim["direction"]))
    return gated(result, interval, gates)


def _terms(claim: Mapping) -> Sequence[tuple[int, Mapping]]:
    """(sign, what differs from the claim's own fields) of every statistic of the sum."""
    return claim["terms"] if claim["kind"] == "signed_sum" else [
        (sign, {"arm": arm}) for sign, arm in zip((1, -1), claim["arms"])]


def _values(claim: Mapping, table: pa.Table, ends: Mapping[str, End]) -> dict:
    """{(base, seed): value} of one statistic: of `claim["arm"]`, where the claim is read."""
    matched = claim["at"] != "final"
    params = {"alpha": str(claim["alpha"])} if "alpha" in claim else dict(claim.get("params", {}))
    params |= {"at": claim["at"], "among": among(claim)} if matched else {}
    params |= {"on": target(claim)} if matched and target(claim) != "id" else {}
    return values_of(table, claim["metric"], claim["arm"], step=None if matched else ends[claim["arm"]].step,
                     split=claim.get("split"), dtype=claim.get("dtype"), k=claim.get("k"), params=params,
                     excess=claim.get("excess", claim["kind"] == "excess_over_null"), granularity=claim.get("granularity"))


def among(claim: Mapping) -> str:
    """The name of the comparison set of a claim's arms."""
    return "+".join(claim["arms"])


def target(claim: Mapping) -> str:
    """The split on which the arms of a claim have equal success, where it is at matched success."""
    return claim.get("matched_on", "id")


def contrast(claim: Mapping) -> str:
    """The statistic in words."""
    where = {"final": "at the last step", "matched_norm": "at matched ||dW||_F",
             "matched_success": "at matched " + ("new-task success" if target(claim) == "id" else
                                                 f"success on {target(claim)}")}[claim["at"]]
    null = " minus its null" if claim.get("excess", claim["kind"] == "excess_over_null") else ""
    if claim["kind"] == "signed_sum":
        terms = " ".join(f"{'+' if sign > 0 else '-'} ({', '.join([term['arm'], *map(str, term.get('params', {}).values())])})"
                         for sign, term in claim["terms"])
        return f"{claim['metric']}{null}: {terms}, {where}"
    variant = " ".join(f"{n}={claim[n]}" for n in ("split", "k", "alpha", "dtype") if n in claim)
    return f"{claim['metric']}{f' ({variant})' if variant else ''}, {' - '.join(claim['arms'])}{null}, {where}"
