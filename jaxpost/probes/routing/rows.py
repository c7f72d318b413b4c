"""Rows of routing estimates: every layer and the whole model, every seed, with statuses; and what is refused.

Legend: S seeds, N samples, L layers with a router, C scopes of the rows (layers of the model, then the whole).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxpost.probes.routing import pathway_estimates, router_estimates
from jaxpost.probes.routing import taps as router_taps
from jaxpost.probes.routing.estimates import Estimate
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.pooling import RowTable

_NAN = ("nan", "the routing is not finite")
_DENSE = ("absent", "the layer has no router")
ROUTER = ("gram_LxExE", "cross_LxExE", "width")
OF_SAMPLES = ("probs_NxLxE", "entropy_NxL", "top_NxLxTxk", "tied_NxL", "tokens_N", "loss_N", "correct_N", "label_N")


def check(values: Mapping[str, np.ndarray], initial: bool = False) -> None:
    """Refuse routing that cannot be measured; values have a leading axis over seeds. With `initial`, every example must count.

    Raises: ValueError for logits that were softmaxed already, and for examples without a counted token.
    """
    tokens_S = values["tokens_N"].sum(1)
    for layer, suspects_S in enumerate(values["suspect_NxL"].sum(1).T):
        if ((suspects_S == tokens_S) & (tokens_S > 0)).any():
            raise router_taps.refuse_softmaxed(f"router {layer}")
    empty = values["tokens_N"] == 0
    if empty.all() or (initial and empty.any()):
        raise ValueError(f"{int(empty[0].sum())} of {empty.shape[1]} examples have no counted token (mask_NxT is 0 everywhere)"
                         ": expected at least one each that is no padding")


def of_policy(values: Mapping[str, np.ndarray], s: int) -> dict[str, Any]:
    """One seed's values, without examples that have no counted token; `finite`, `note` and `router` are added.

    Where something is not finite, zeros stand in, so that its rows exist; they are marked by `finite`.
    """
    kept = values["tokens_N"][s] > 0
    v = {name: np.asarray(values[name][s])[kept] for name in OF_SAMPLES if name in values}
    router = {name: np.asarray(values[name][s]) for name in ROUTER if name in values}
    measured = [v["probs_NxLxE"], *router.values()]
    v["finite"] = all(np.isfinite(x).all() for x in measured)
    v["probs_NxLxE"] = np.nan_to_num(v["probs_NxLxE"].astype(np.float64), posinf=0.0, neginf=0.0)
    v["router"] = {name: np.nan_to_num(x, posinf=0.0, neginf=0.0) for name, x in router.items()} or None
    left_out = int((~kept).sum())
    v["note"] = f"{left_out} of {len(kept)} examples have no counted token and are left out" if left_out else None
    return v


def table(probe: Any, values: Mapping[str, np.ndarray], *, arm: str, step: int, seeds: Sequence[int],
          conditional_on: str | None) -> RowTable:
    """Rows of one step; `probe` is the `routing.Routing` whose settings hold."""
    policies = [of_policy(values, s) for s in range(len(seeds))]
    rows = layer_table(probe, values["probs_NxLxE"].shape[2], arm=arm, step=step, seeds=seeds, conditional_on=conditional_on)
    add(rows, probe, [_estimates(probe, v) for v in policies], policies)
    return rows


def _estimates(probe: Any, v: Mapping[str, Any]) -> list[Estimate]:
    probs, longest, experts = v["probs_NxLxE"], int(v["tokens_N"].max()), v["probs_NxLxE"].shape[-1]
    return [
        *pathway_estimates.distance_estimates(probs, longest, threshold=probe.threshold, cap=probe.pairs, draws=probe.draws,
                                            params={}),
        pathway_estimates.length_estimate(probs, longest, probe.threshold),
        *pathway_estimates.consistency_estimates(probs, v["router"], longest, probe.draws, {"over": "all"}),
        pathway_estimates.complexity_estimate(probs, longest, probe.ridge, probe.draws),
        *router_estimates.entropy_estimates(np.nan_to_num(v["entropy_NxL"]), probs, v["tokens_N"]),
        *router_estimates.load_estimates(v["top_NxLxTxk"], v["tied_NxL"], experts),
        *router_estimates.coactivation_estimates(v["top_NxLxTxk"], experts, probe.draws),
        router_estimates.specialisation_estimate(v.get("label_N"), probs, pathway_estimates.tolerance(longest, experts)),
    ]


def layer_table(probe: Any, routed: int, *, arm: str, step: int, seeds: Sequence[int], conditional_on: str | None) -> RowTable:
    """A table with a scope for every layer of the model and one for the whole. Raises: ValueError for dense layers it lacks."""
    layers = routed + len(probe.dense)
    if any(not 0 <= layer < layers for layer in probe.dense):
        raise ValueError(f"Routing.dense={probe.dense}: with {routed} routed layers the model has layers 0 to {layers - 1}")
    columns = {"granularity": ["layer"] * layers + ["global"], "tensor": [None] * (layers + 1),
               "module_kind": ["router"] * (layers + 1), "layer": [*range(layers), None]}
    member = np.concatenate([np.eye(layers, dtype=bool), np.ones((1, layers), bool)])
    scopes = pooling.Scopes(member, {name: np.asarray(x, object) for name, x in columns.items()})
    return RowTable(scopes, seeds, {"arm": arm, "step": step, "conditional_on": conditional_on})


def add(rows: RowTable, probe: Any, estimates_S: Sequence[Sequence[Estimate]], policies: Sequence[Mapping[str, Any]]) -> None:
    """Append the estimates, the same list for every seed, with their nulls."""
    layers = rows.scopes.member_CxT.shape[1]
    place = [layer for layer in range(layers) if layer not in probe.dense] + [layers]

    def column(of_seeds, read) -> np.ndarray:
        """[S, C]; NaN where a seed's routing is not finite and where a layer has no router."""
        out = np.full((len(of_seeds), layers + 1), np.nan)
        for s, (estimate, v) in enumerate(zip(of_seeds, policies, strict=True)):
            if v["finite"]:
                out[s, [layers] if estimate.whole else place] = read(estimate)
        return out

    for of_seeds in zip(*estimates_S, strict=True):
        whole = of_seeds[0].whole
        nulls = [(null.kind, *(column(of_seeds, lambda r, i=i, end=end: r.nulls[i][end]) for end in (1, 2, 3)))
                 for i, null in enumerate(of_seeds[0].nulls)]
        columns = {name: column(of_seeds, lambda r, name=name: getattr(r, name))
                   for name in ("value", "lo", "hi", "floor", "num_err")}
        status, reason = _statuses(columns["value"], of_seeds, policies, probe.dense)
        row = rows.add(
            of_seeds[0].metric, columns["value"], status, reason, null=nulls[0] if nulls else None, floor=columns["floor"],
            num_err=columns["num_err"], ci_lo=columns["lo"], ci_hi=columns["hi"], unit="example", dtype="fp32",
            split=probe.split, only=np.arange(layers + 1) == layers if whole else None,
            params=np.asarray([[_text(r.params)] for r in of_seeds], object),
            n_units=np.asarray([[len(v["tokens_N"]) if r.n is None else r.n] for r, v in zip(of_seeds, policies)], object))
        for null in nulls[1:]:
            rows.add_null(row, *null)


def _statuses(value_SxC, of_seeds, policies, dense) -> tuple[np.ndarray, np.ndarray]:
    status = np.where(np.isfinite(value_SxC), "ok", "nan").astype(object)
    reason = np.full(status.shape, None, object)
    for s, (estimate, v) in enumerate(zip(of_seeds, policies, strict=True)):
        gone = status[s] == "nan"
        status[s, gone], reason[s, gone] = (estimate.missing or _NAN) if v["finite"] else _NAN
        notes = "; ".join(filter(None, (estimate.note, v["note"])))
        reason[s, ~gone] = notes or None
        status[s, list(dense)], reason[s, list(dense)] = _DENSE
    return status, reason


def _text(params: Mapping[str, object]) -> str | None:
    """Sorted "key=value;key=value", as the records hold it."""
    return ";".join(f"{key}={x:g}" if isinstance(x := params[key], float) else f"{key}={x}" for key in sorted(params)) or None
