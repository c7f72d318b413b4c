"""Rows of the logit lens and of causal tracing: one for each state, position and target or replaced token.

Legend: S seeds, N prompts, T positions, V vocabulary, J states, K targets, C kinds of replaced token, M null draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxpost import stats
from jaxpost.probes.circuits import lens, swaps
from jaxpost.probes.circuits.asked import Asked
from jaxpost.probes.circuits.metrics import CHANGED, RECIPROCAL_RANK, TRANSFERRED
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.pooling import RowTable

_NAN = ("nan", "the policy's logits are not finite")
_POSITION = {"changed": 2, "transferred": 2, "close": 2, "noise_changed": 3, "noise_transferred": 3}  # axis after S
_SAME = ("degenerate", "both prompts of every pair have one answer: nothing can be transferred")


def state_table(states: int, constant: Mapping[str, object], seeds: Sequence[int]) -> RowTable:
    """A table with one scope a residual state; `layer` counts the blocks that have run."""
    columns = {"granularity": ["layer"] * states, "tensor": [None] * states, "module_kind": [None] * states,
               "layer": list(range(states))}
    scopes = pooling.Scopes(np.eye(states, dtype=bool), {name: np.asarray(x, object) for name, x in columns.items()})
    return RowTable(scopes, seeds, constant)


def columns(asked: Asked, values: Mapping[str, np.ndarray], constant: Mapping[str, object], seeds: Sequence[int],
            row_ids: Callable) -> dict[str, np.ndarray]:
    """All rows of one split at a step; values as in `Circuits.measure`, with a leading axis over seeds."""
    finite_S = np.isfinite(values["largest"])
    table = state_table(values["reciprocal"].shape[2], constant, seeds)
    for k, (target, position) in enumerate(asked.targets):
        v = {name: values[name][:, k] for name in lens.Ranks._fields}
        _add_lens(table, v, values["vocabulary"], finite_S, asked.split,
                  f"position={asked.positions[position]};target={target}")
    if "changed" in values:
        for c, replaced in enumerate(asked.replaced):
            for p, position in enumerate(asked.positions):
                v = {name: values[name][:, c] if name == "differ" else np.take(values[name][:, c], p, axis=_POSITION[name])
                     for name in swaps.Swapped._fields}
                _add_tracing(table, v, values["undecided"], finite_S, asked.split, f"position={position};replaced={replaced}")
    return table.columns(row_ids)


def _band(draws_SxMxJ: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return pooling.prediction_band(np.moveaxis(draws_SxMxJ, 1, -1), 0.0, 1.0)


def _add_lens(table: RowTable, v: Mapping[str, np.ndarray], vocabulary_S, finite_S, split: str, params: str) -> None:
    row = _add(table, RECIPROCAL_RANK.id, stats.t_interval(v["reciprocal"]), v["reciprocal"].shape[-1], finite_S,
               ("other_prompts", *_band(v["others"])), 1 / vocabulary_S[:, None], v["error"], split, params)
    table.add_null(row, "shuffled_unembedding", np.asarray([[lens.random_rank(int(V))] for V in vocabulary_S]), None, None)


def _add_tracing(table: RowTable, v: Mapping[str, np.ndarray], floor_S, finite_S, split: str, params: str) -> None:
    """Rows of one position and replaced token: changed over all prompts, transferred over those that differ."""
    differ_SxN = v["differ"] > 0
    intervals = [stats.t_interval(x_JxN[:, own_N]) if own_N.any() else stats.Interval(*np.full((3, len(x_JxN)), np.nan))
                 for x_JxN, own_N in zip(v["transferred"], differ_SxN, strict=True)]
    for metric, interval, n, name, some_S in (
            (CHANGED, stats.t_interval(v["changed"]), differ_SxN.shape[1], "noise_changed", np.ones(len(floor_S), bool)),
            (TRANSFERRED, stats.Interval(*(np.stack(x) for x in zip(*intervals, strict=True))), differ_SxN.sum(1)[:, None],
             "noise_transferred", differ_SxN.any(axis=1))):
        null = ("noise", *(np.where(some_S[:, None], x, np.nan) for x in _band(v[name])))
        _add(table, metric.id, interval, n, finite_S, null, floor_S[:, None], v["close"], split, params, some_S)


def _add(table: RowTable, metric: str, interval: stats.Interval, n_units, finite_S, null, floor, error, split: str, params: str,
         some_S=True) -> int:
    ok_S = finite_S & some_S
    at = interval.value.shape
    status, reason = np.full(at, "ok", object), np.full(at, None, object)
    for s in np.flatnonzero(~ok_S):
        status[s], reason[s] = _SAME if finite_S[s] else _NAN
    value, lo, hi = (np.where(ok_S[:, None], x, np.nan) for x in (interval.value, interval.lo, interval.hi))
    return table.add(metric, value, status, reason, null=null, floor=floor, num_err=error, ci_lo=lo, ci_hi=hi, unit="example",
                     n_units=n_units, dtype="fp32", split=split, params=params)
