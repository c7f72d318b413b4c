"""Refusals: a claim that could not be judged is one line before any compute."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.harness.claims import across_arms, statistics
from experiments.harness.claims.curves import SELECTORS
from experiments.harness.claims.terms import KINDS, scale
from experiments.harness.errors import UserError
from jaxpost import kinds, probes, stats
from jaxpost.lookup import nearest
from jaxpost.probes import trends
from jaxpost.records.schema import ENUMS

MOST_PRIMARY = 4
FIELDS = ("id", "primary", "kind", "statement", "metric", "arms", "at", "direction", "threshold", "equivalence_margin")
_OPTIONAL = ("column", "params", "alpha", "matched_on", "scale", "excess", "terms", "against", "level", "after", "window",
             "reading", "method", "over", "over_scale", "positions", *SELECTORS)

# What is read of the curves inside a claim and of the terms of a sum. An order and a correlation over arms read `against` in
# the claim's own arms.
_CURVE = ("metric", "params", *SELECTORS)
_EVENT = (*_CURVE, "column", "at", "level", "after")
_READ = {"after": ("arm", *_CURVE, "level"), "against": ("arm", *_CURVE),
         "term": ("arm", *_EVENT, "scale", "excess", "against", "window", "reading", "method"),
         ("order", "against"): _EVENT, ("rank_correlation", "against"): (*_CURVE, "column", "at", "after")}

_KINDS = {"primary": bool, "params": Mapping, "arms": tuple[str, ...], "k": int, "layer": int,
          **dict.fromkeys(("threshold", "equivalence_margin", "level", "alpha"), float),
          **dict.fromkeys(("id", "statement", "metric", "arm", "kind", "at", "direction"), str)}


def fields(claims: Sequence[Mapping], metrics: Mapping = probes.METRICS) -> None:
    """Refuse a claim that lacks a field, has one that is not known or holds another type, names a metric that is not one of
    `metrics`, or has the id of another; the same of the curves `against` and `after`, and of the terms of a sum.

    Raises:
      UserError.
    """
    if not isinstance(claims, tuple | list):
        raise UserError(f"CLAIMS is {type(claims).__name__}; expected a tuple of claims, of none as ()")
    taken = set()
    for position, claim in enumerate(claims):
        if not isinstance(claim, Mapping):
            raise UserError(f"claim number {position} is {claim!r}; expected {{'id': ..., 'metric': ..., ...}}")
        name = claim.get("id", f"number {position}")
        if missing := [field for field in FIELDS if field not in claim]:
            raise UserError(f"claim {name!r} lacks {missing[0]!r}; a claim has {', '.join(FIELDS)}")
        if unknown := [field for field in claim if field not in (*FIELDS, *_OPTIONAL)]:
            raise UserError(f"claim {name!r}: field {unknown[0]!r} is not known{nearest(unknown[0], (*FIELDS, *_OPTIONAL))}")
        if not isinstance(claim.get("terms") or (), tuple | list):
            raise UserError(f"claim {name!r}: terms={claim['terms']!r}; expected ((weight, {{'arm': ...}}), ...)")
        if bad := [pair for pair in claim.get("terms") or () if not (isinstance(pair, tuple | list) and len(pair) == 2)]:
            raise UserError(f"claim {name!r}: term {bad[0]!r} is no pair; expected (weight, {{'arm': ...}})")
        for field, stated in _parts(claim):
            _require_known(claim, field, stated)
        for stated in (claim, *(part for _, part in _parts(claim))):
            _require_types(name, stated)
        if not name or set(name) & set("=;") or name in taken:
            raise UserError(f"claim {name!r}: an id is text of its own, without '=' and ';', by which rows name the claim")
        taken.add(name)
        for metric in [claim["metric"], *(other["metric"] for other in _others(claim))]:
            if metric not in metrics:
                raise UserError(f"claim {name!r}: metric {metric!r} is not known{nearest(metric, metrics)}")


def _require_types(name: str, stated: Mapping) -> None:
    """Refuse values that no row could have, or that could not be compared. Raises: UserError."""
    for field, value in stated.items():
        if value is not None and field in _KINDS and (why := kinds.refusal(value, _KINDS[field])):
            raise UserError(f"claim {name!r}: {field}={value!r}: {why}")
        if value is not None and field in ENUMS and value not in ENUMS[field]:
            raise UserError(f"claim {name!r}: {field}={value!r} is not known{nearest(str(value), ENUMS[field])}")


def _parts(stated: Mapping) -> list[tuple[str, Mapping]]:
    """(against, after or term, what is stated there) of the curves and terms inside a claim, and inside these."""
    parts = [(field, stated[field]) for field in ("against", "after") if field in stated]
    parts += [("term", term) for _, term in stated.get("terms") or ()]
    return parts + [part for _, inner in parts if isinstance(inner, Mapping) for part in _parts(inner)]


def _require_known(claim: Mapping, field: str, stated: object) -> None:
    """Refuse a curve or term that is no mapping, or of which something is not read. Raises: UserError."""
    name, kind = claim.get("id"), claim["kind"]
    if not isinstance(stated, Mapping):
        raise UserError(f"claim {name!r}: {field}={stated!r} is {type(stated).__name__}; expected {{'metric': ...}}")
    known = _READ.get((kind, field), _READ[field])
    for key in stated:
        if key == "arm" and key not in known:
            raise UserError(f"claim {name!r}: {field} is of arm {stated[key]!r}, and kind {kind!r} reads it in the claim's own "
                            "arms; leave 'arm' out")
        if key not in known:
            raise UserError(f"claim {name!r}: {key!r} of {field} is not known{nearest(key, known)}")


def _others(claim: Mapping) -> list[Mapping]:
    """Further statistics that a claim names."""
    return [stated for _, stated in _parts(claim) if "metric" in stated]


def check(claims: Sequence[Mapping], splits: Sequence[str] | None = None) -> None:
    """Refuse claims that could not be judged.

    Args:
      splits: that are measured; None: not known here.

    Raises:
      UserError: unknown kind, place, split or setting, a number of arms that the kind does not compare, a field that the kind
        or place needs, or as `check_strength`.
    """
    for claim in claims:
        valid = {"kind": KINDS, "at": statistics.PLACES, "scale": statistics.SCALES, "window": statistics.WINDOWS,
                 "reading": trends.READINGS, "method": trends.METHODS, "column": ("value", "null_value"),
                 "over_scale": ("linear", "log")}
        if splits is not None:
            valid |= {"split": splits, "matched_on": splits}
        for stated, (field, known) in itertools.product((claim, *(part for _, part in _parts(claim))), valid.items()):
            if field in stated and stated[field] not in known:
                raise UserError(f"claim {claim['id']!r}: {field}={stated[field]!r}{nearest(stated[field], known)}")
        _check_arms(claim)
        _check_place(claim)
        if claim["kind"] == "signed_sum":
            _check_terms(claim)
    check_strength(claims)


def _check_arms(claim: Mapping) -> None:
    fewest, most, words = KINDS[claim["kind"]]
    if not fewest <= len(claim["arms"]) <= most:
        number = str(fewest) if fewest == most else f"{fewest} to {most}" if most < 64 else f"at least {fewest}"
        raise UserError(f"claim {claim['id']!r}: kind {claim['kind']!r} ({words}) takes {number} arms, found "
                        f"{len(claim['arms'])}")
    if twice := [arm for i, arm in enumerate(claim["arms"]) if arm in claim["arms"][:i]]:
        raise UserError(f"claim {claim['id']!r}: arms names {twice[0]!r} twice; the arms of a claim are different ones")


def _check_place(claim: Mapping) -> None:
    name, kind, at = claim["id"], claim["kind"], claim["at"]
    if kind == "order" and at not in statistics.EVENTS:
        raise UserError(f"claim {name!r}: an order compares events; at={at!r} is none, choose {' or '.join(statistics.EVENTS)}")
    if kind == "rank_correlation":
        _check_ranks(claim)
    if (kind in ("order", "rank_correlation") or at == "trend") and "metric" not in claim.get("against", {}):
        raise UserError(f"claim {name!r}: kind={kind!r} at {at!r} compares with another curve; state against={{'metric': ...}}")
    if at == "reaches" and "level" not in claim:
        raise UserError(f"claim {name!r}: at='reaches' needs the level that is reached")
    for field, stated in _parts(claim):
        if field == "after" and not {"metric", "level"} <= set(stated):
            raise UserError(f"claim {name!r}: after={dict(stated)} needs a metric and the level that it reaches first")
    if kind == "slope" and len(set(claim.get("positions", ()))) < 2:
        raise UserError(f"claim {name!r}: a slope needs over=, a field of the arms that takes at least two values; found "
                        f"{claim.get('over')!r} with {claim.get('positions', ())}")


def _check_ranks(claim: Mapping) -> None:
    for at in (claim["at"], claim.get("against", {}).get("at", "final")):
        if at not in across_arms.PLACES:
            raise UserError(f"claim {claim['id']!r}: at={at!r}; a rank correlation over arms is read at "
                            f"{', '.join(across_arms.PLACES)}")
    if claim["direction"] == "equivalent":
        raise UserError(f"claim {claim['id']!r}: direction='equivalent'; a rank correlation over arms is greater or less")


def _check_terms(claim: Mapping) -> None:
    if not claim.get("terms"):
        raise UserError(f"claim {claim['id']!r}: a signed sum has no terms; expected ((weight, {{'arm': ...}}), ...)")
    for weight, term in claim["terms"]:
        if not isinstance(weight, int | float) or not weight or term.get("arm") not in claim["arms"]:
            raise UserError(f"claim {claim['id']!r}: term ({weight}, {dict(term)}) is not a weight and the fields of a "
                            f"statistic, of which 'arm' is one of {', '.join(claim['arms'])}")


def check_strength(claims: Sequence[Mapping]) -> None:
    """Refuse a threshold inside its margin, or too many primary claims. Raises: UserError."""
    for claim in claims:
        try:
            stats.verdict(stats.Interval(0.0, np.nan, np.nan), claim["direction"], claim["threshold"],
                          claim["equivalence_margin"])
        except ValueError as error:
            raise UserError(f"claim {claim['id']!r}: {error}") from error
        correlates = claim.get("kind") == "rank_correlation" or (
            claim.get("kind") == "value" and "at" in claim and scale(claim) == "fisher")
        if correlates and not -1 < claim["threshold"] < 1:
            raise UserError(f"claim {claim['id']!r}: threshold={claim['threshold']} of a correlation; it lies between -1 and 1")
    if (primary := sum(claim["primary"] for claim in claims)) > MOST_PRIMARY:
        raise UserError(f"{primary} primary claims; at most {MOST_PRIMARY}, mark the rest primary=False")


def require_arms(claims: Sequence[Mapping], known: Sequence[str]) -> None:
    """Refuse a claim on an arm that the config does not have. Raises: UserError."""
    for claim in claims:
        if unknown := [arm for arm in _arms(claim) if arm not in known]:
            raise UserError(f"claim {claim['id']!r}: arm {unknown[0]!r} is not known{nearest(unknown[0], known)}")


def judgeable(claims: Sequence[Mapping], arms: Sequence[str]) -> list[Mapping]:
    """The claims whose arms all run, those of the curves and terms inside a claim as well."""
    return [claim for claim in claims if set(_arms(claim)) <= set(arms)]


def require_curves(claims: Sequence[Mapping], last: Mapping[str, int]) -> None:
    """Refuse a claim that reads the curve of an arm which takes no step.

    Args:
      last: arm -> its last step.

    Raises:
      UserError.
    """
    for claim in claims:
        along = [arm for arm in claim["arms"] if claim["at"] in (*statistics.ALONG, "trend")]
        along += [stated["arm"] for field, stated in _parts(claim) if "arm" in stated and (
            field in ("against", "after") or stated.get("at", claim["at"]) in (*statistics.ALONG, "trend"))]
        if still := [arm for arm in along if not last[arm]]:
            raise UserError(f"claim {claim['id']!r}: arm {still[0]!r} takes no step and has one measurement, and what is read "
                            f"there is a curve{nearest(still[0], [arm for arm, step in last.items() if step])}")


def require_read(claims: Sequence[Mapping]) -> None:
    """Refuse a claim on a statistic that the comparisons at equal norm, KL or success do not read. Raises: UserError."""
    for claim in claims:
        for stated in (claim, *(part for field, part in _parts(claim) if field == "term")):
            metric, at = (stated.get(field, claim[field]) for field in ("metric", "at"))
            rooms = ("policy.",) if at == "matched_success" else ("weight.", "policy.")
            if at in statistics.MATCHED and (not metric.startswith(rooms) or metric == "policy.loss_tokens"):
                raise UserError(f"claim {claim['id']!r}: {metric} is not read at {at!r}; "
                                f"{' and '.join(f'{room}*' for room in rooms)} are, without policy.loss_tokens")


def _arms(claim: Mapping) -> tuple[str, ...]:
    return (*claim["arms"], *(stated["arm"] for _, stated in _parts(claim) if "arm" in stated))


def placed(claims: Sequence[Mapping], field_of: Mapping[str, Mapping]) -> list[dict]:
    """The claims, those of kind slope with the positions of their arms: the values of the field `over`, or their logarithms.

    Args:
      field_of: arm -> {field: value}.

    Raises:
      UserError: an arm without the field, or one that is not a number above 0 where logarithms are taken.
    """
    return [{**claim} | ({"positions": _positions(claim, field_of)} if claim["kind"] == "slope" else {}) for claim in claims]


def _positions(claim: Mapping, field_of: Mapping[str, Mapping]) -> tuple[float, ...]:
    over, positions = claim.get("over"), []
    for arm in claim["arms"]:
        value = field_of[arm].get(over)
        if isinstance(value, bool) or not isinstance(value, int | float) or (claim.get("over_scale") == "log" and value <= 0):
            numbers = [name for name, x in field_of[arm].items() if isinstance(x, int | float) and not isinstance(x, bool)]
            raise UserError(f"claim {claim['id']!r}: over={over!r} is {value!r} in arm {arm!r}, which gives no position"
                            f"{nearest(str(over), numbers)}")
        positions.append(float(np.log(value)) if claim.get("over_scale") == "log" else float(value))
    return tuple(positions)
