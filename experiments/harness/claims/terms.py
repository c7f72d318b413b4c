"""A claim as a weighted sum of statistics: what its kind compares, and the same in words."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.harness.claims.curves import SELECTORS

# kind -> (least and largest number of arms, what it compares)
KINDS = {
    "value": (1, 1, "the statistic of one arm"),
    "difference": (2, 2, "the first arm minus the second"),
    "ratio": (2, 2, "the natural logarithm of the first arm over the second"),
    "excess_over_null": (1, 2, "the statistic minus its null, of one arm, or the difference of two"),
    "order": (1, 1, "ln(step of the event in `against` / step of the claim's own event): positive if the own comes first"),
    "slope": (2, 64, "the least-squares slope of the statistic over a field of the arms (`over`)"),
    "rank_correlation": (4, 64, "Spearman's correlation, over the arms, of the statistic with that of `against`"),
    "signed_sum": (1, 64, "the sum of the claim's `terms`, each with its weight"),
}
_PICK = ("metric", "column", "params", *SELECTORS)  # fields of a term that pick one curve


def sides(claim: Mapping) -> tuple[list[dict], list[dict]]:
    """(what the statistic of each arm needs, what that of `against` needs) of a rank correlation."""
    whole = {**claim, "scale": "plain", "excess": excess(claim)}
    other = _against(claim, whole) | {"excess": False}
    return tuple([side | {"arm": arm} for arm in claim["arms"]] for side in (whole, other))


def _against(claim: Mapping, whole: Mapping) -> dict:
    """What the statistic in `against` needs: the claim's fields but for those that pick a curve, and its own."""
    return {name: x for name, x in whole.items() if name not in _PICK} | dict(claim["against"])


def terms(claim: Mapping) -> list[tuple[float, dict]]:
    """(weight, everything that one statistic needs) of every term of a claim."""
    shared = {"scale": scale(claim), "excess": excess(claim)}
    whole = {**claim, **shared}
    if "alpha" in claim:
        whole["params"] = {"alpha": str(claim["alpha"]), **claim.get("params", {})}
    if claim["at"].startswith("matched_"):
        on = {} if target(claim) == "id" else {"on": target(claim)}
        whole["params"] = {**whole.get("params", {}), "at": claim["at"], "among": among(claim), **on}
    kind, arms = claim["kind"], claim["arms"]
    if kind == "order":
        return [(1, _against(claim, whole) | {"arm": arms[0]}), (-1, whole | {"arm": arms[0]})]
    if kind == "signed_sum":
        return [(weight, _merged(whole, term)) for weight, term in claim["terms"]]
    weights = slope_weights(claim["positions"]) if kind == "slope" else (1, -1)
    return [(weight, whole | {"arm": arm}) for weight, arm in zip(weights, arms)]


def _merged(whole: Mapping, term: Mapping) -> dict:
    """A term's own fields over the claim's; params add up."""
    return {**whole, **term, "params": {**whole.get("params", {}), **term.get("params", {})}}


def slope_weights(x_A: Sequence[float]) -> list[float]:
    """w with sum_a w_a y_a = the least-squares slope of y over x:  w_a = (x_a - mean x) / sum_b (x_b - mean x)^2.

    >>> slope_weights([0.0, 1.0])
    [-1.0, 1.0]
    """
    away = np.asarray(x_A, float) - np.mean(x_A)
    return (away / (away @ away)).tolist()


def scale(claim: Mapping) -> str:
    """The scale on which statistics are subtracted and averaged: stated, or that of the kind."""
    natural = "log" if claim["kind"] in ("ratio", "order") else "fisher" if claim["at"] == "trend" else "plain"
    return claim.get("scale", natural)


def excess(claim: Mapping) -> bool:
    """Whether every statistic is taken minus its null."""
    return claim.get("excess", claim["kind"] == "excess_over_null")


def among(claim: Mapping) -> str:
    """The name of the comparison set of a claim's arms."""
    return "+".join(claim["arms"])


def target(claim: Mapping) -> str:
    """The split on which the arms of a claim have equal success, where it is at matched success."""
    return claim.get("matched_on", "id")


_WHERE = {"final": "at the last step", "matched_norm": "at matched ||dW||_F",
          "matched_kl": "at matched KL(base || policy)", "mean": "mean over the measured steps",
          "area": "averaged over training (area under the curve)"}


def contrast(claim: Mapping) -> str:
    """The statistic of a claim in words."""
    null = " minus its null" if excess(claim) else ""
    if claim["kind"] == "order":
        return f"ln({_event(claim, claim['against'])} / {_event(claim, claim)}), {claim['arms'][0]}"
    if claim["kind"] == "rank_correlation":
        against = {"at": claim["at"], **claim["against"]}
        return (f"rank correlation over {len(claim['arms'])} arms of {_named(claim)}{null}, {_where(claim)}, with "
                f"{_named(against)}, {_where(against)}")
    if claim["kind"] == "signed_sum":
        parts = [f"{'+' if weight > 0 else '-'}{'' if abs(weight) == 1 else f' {abs(weight):g}'} ({_of_term(term)})"
                 for weight, term in claim["terms"]]
        return f"{_named(claim)}{null}: {' '.join(parts)}, {_where(claim)}"
    arms = f"slope over {claim['over']}" if claim["kind"] == "slope" else (
        f"ln({' / '.join(claim['arms'])})" if claim["kind"] == "ratio" else " - ".join(claim["arms"]))
    return f"{_named(claim)}, {arms}{null}, {_where(claim)}"


def _of_term(term: Mapping) -> str:
    """What one term of a sum has of its own: its arm first, then what picks its statistic."""
    own = [name for name in term if name not in ("arm", "params", "column")]
    null = ["the null"] if term.get("column") == "null_value" else []
    return ", ".join(map(str, [term["arm"], *(term[name] for name in own), *term.get("params", {}).values(), *null]))


def _named(of: Mapping) -> str:
    """A metric with what picks its variant."""
    picked = [f"{name}={of[name]}" for name in ("split", "k", "alpha", "dtype", "layer", "module_kind") if name in of]
    picked += [f"{name}={x}" for name, x in dict(of.get("params", {})).items()]
    picked += ["the null"] if of.get("column") == "null_value" else []
    return of["metric"] + (f" ({' '.join(picked)})" if picked else "")


def _event(claim: Mapping, of: Mapping) -> str:
    what = "half-change step of" if claim["at"] == "half_change" else f"step of {claim.get('level')} in"
    return f"{what} {_named(of)}"


def _where(claim: Mapping) -> str:
    at = claim["at"]
    if at == "trend":
        against = {"arm": claim["arms"][0], **claim["against"]}
        settings = [claim.get("method", "spearman"), claim.get("reading", "given_time"), f"{claim.get('window', 'all')} steps"]
        on = ", Fisher's z" if len(claim["arms"]) > 1 or excess(claim) else ""
        return f"correlation with {_named(against)} of {against['arm']} ({', '.join(settings)}){on}"
    if at == "matched_success":
        return "at matched " + ("new-task success" if target(claim) == "id" else f"success on {target(claim)}")
    if at == "reaches":
        return f"first step at {claim['level']}"
    return _WHERE.get(at, at.replace("_", " "))
