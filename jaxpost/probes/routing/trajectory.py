"""Routing along a run: events, pathways of the samples memorised so far, and how near the routing is to its last state.

Legend: P measured steps, S seeds, N samples, L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxpost.probes.routing import events, pathway_estimates, router_estimates
from jaxpost.probes.routing import rows as routing_rows
from jaxpost.probes.routing.estimates import Estimate, Null, averaged
from jaxpost.probes.weights import by_matrix


def rows(probe: Any, series: Mapping[int, Mapping[str, np.ndarray]], *, arm: str, seeds: Sequence[int],
         conditional_on: str | None, row_ids: Callable[[dict], Sequence[str]]) -> dict[str, np.ndarray]:
    """Rows of every measured step; series is step -> `Routing.arrays`, leading axis seeds; `probe` has the settings."""
    if not series:
        return dict(by_matrix.NO_ROWS)
    steps = sorted(series)
    policies = [[routing_rows.of_policy(series[step], s) for step in steps] for s in range(len(seeds))]
    happened = [_events(probe, path) for path in policies]
    parts = []
    for p, step in enumerate(steps):
        table = routing_rows.layer_table(probe, series[step]["probs_NxLxE"].shape[2], arm=arm, step=step, seeds=seeds,
                                         conditional_on=conditional_on)
        now = [path[p] for path in policies]
        estimates = [_estimates(probe, v, path[-1], event, p) for v, path, event in zip(now, policies, happened, strict=True)]
        routing_rows.add(table, probe, estimates, now)
        parts.append(table.columns(row_ids))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _events(probe: Any, path: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Events of one seed and their nulls, [P, N]."""
    loss, correct = (np.stack([v[name] for v in path]) for name in ("loss_N", "correct_N"))
    return {"memorised": events.memorised(loss, probe.eps, probe.delta), "generalised": events.generalised(correct),
            "memorised_null": events.memorised_null(loss, probe.eps, probe.delta),
            "generalised_null": events.generalised_null(correct)}


def _estimates(probe: Any, v: Mapping[str, Any], last: Mapping[str, Any], event: Mapping[str, np.ndarray], p: int
              ) -> list[Estimate]:
    probs, longest = v["probs_NxLxE"], int(v["tokens_N"].max())
    limits = {"eps": probe.eps, "delta": probe.delta}
    members = np.flatnonzero(event["memorised"][p])
    of_members = pathway_estimates.distance_estimates(probs, longest, threshold=probe.threshold, cap=probe.pairs,
                                                    draws=probe.draws, params=limits, members=members)
    aligned = pathway_estimates.consistency_estimates(probs[members], v["router"], longest, probe.draws,
                                                    {"over": "memorised"} | limits)
    shares = [Estimate(f"event.{name}", **averaged(event[name][p]), params=params, whole=True,
                      nulls=(Null("shuffled_steps", event[f"{name}_null"][p].mean()),))
              for name, params in (("memorised", limits), ("generalised", {}))]
    return [*of_members, *aligned, *shares,
            *router_estimates.saturation_estimates(v["top_NxLxTxk"], last["top_NxLxTxk"], v["tied_NxL"] + last["tied_NxL"],
                                                 probs.shape[-1])]
