"""From kernels of one policy to rows: each statistic with its null, noise floor, numerical error and interval.

Legend: N rows, M sketches, D null draws, O outputs, S seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxpost.probes.kernels import statistics
from jaxpost.probes.policy import example_rows
from jaxpost.probes.rows import pooling
from jaxpost.probes.rows.pooling import RowTable
from jaxpost.stats import Interval


class Reading(NamedTuple):
    """What one set of parameters says, beside the initial one."""

    kernel: np.ndarray  # [N, N]
    kernel0: np.ndarray
    labels: np.ndarray  # Y Y'
    moved: np.ndarray  # f(w) - f0, [N, O]
    line: np.ndarray  # J0 (w - w0)

    def take(self, kept: np.ndarray) -> Reading:
        """The same of some rows."""
        square = np.ix_(kept, kept)
        return Reading(*(x[square] for x in self[:3]), *(x[kept] for x in self[3:]))


STATISTICS: dict[str, Callable[[Reading], float]] = {
    "kernel.drift": lambda r: statistics.drift(r.kernel, r.kernel0),
    "kernel.alignment.initial": lambda r: statistics.alignment(r.kernel, r.kernel0),
    "kernel.alignment.labels": lambda r: statistics.alignment(r.kernel, r.labels),
    "kernel.effective_rank": lambda r: statistics.effective_rank(r.kernel),
    "kernel.trace": lambda r: float(np.trace(r.kernel) / len(r.kernel)),
    "kernel.linearised": lambda r: statistics.departure(r.moved, r.line),
}
DOMAIN = {"kernel.alignment.initial": (-1.0, 1.0), "kernel.effective_rank": (1.0, np.inf)}  # of the others: [0, inf)
DISTANCES = ("kernel.drift", "kernel.linearised")  # not resolved where they are not above their own error


def rounding(parameters: int) -> float:
    """Rounding of a float32 inner product of gradients, in units of their norms: about sqrt(P) + 4 units of 2^-24."""
    return (parameters**0.5 + 4) * 2.0**-24


class Member:
    """One seed's values, as the probe's `measure` gives them. Args: unit: `rounding` of the parameters."""

    def __init__(self, values: Mapping[str, np.ndarray], unit: float):
        self.values, self.unit = values, unit
        self.labels = values["label"] @ values["label"].T
        self.policy = self._reading("policy")

    def _reading(self, name: str, sketches: slice | np.ndarray = slice(None), draw: int | None = None) -> Reading:
        kernel, moved, line = (self.values[f"{name}/{part}"] if draw is None else self.values[f"{name}/{part}"][draw]
                               for part in ("kernel", "moved", "line"))
        return Reading(kernel[sketches].mean(0), self.values["initial/kernel"][sketches].mean(0), self.labels, moved, line)

    def interval(self, metric: str) -> Interval:
        """Value and interval over rows."""
        return statistics.over_rows(lambda kept: STATISTICS[metric](self.policy.take(kept)), len(self.labels))

    def null(self, metric: str) -> tuple[float, float, float]:
        """(value, lo, hi): of blind updates; of alignment with labels, of labels in another order."""
        if metric == "kernel.alignment.labels":
            return statistics.permuted_alignment(self.policy.kernel, self.labels)
        drawn = [STATISTICS[metric](self._reading("blind", draw=d)) for d in range(len(self.values["blind/kernel"]))]
        return pooling.prediction_band(np.asarray(drawn), *DOMAIN.get(metric, (0.0, np.inf)))

    def floor(self, metric: str) -> float:
        """What rounding the policy to bf16 changes."""
        return abs(STATISTICS[metric](self._reading("stored")) - STATISTICS[metric](self.policy))

    def error(self, metric: str) -> float:
        """Of rounding in float32, to first order, and of sketches."""
        of = STATISTICS[metric]
        sketched = statistics.over_sketches(lambda kept: of(self._reading("policy", kept)), len(self.values["initial/kernel"]))
        return self._rounding(metric, of(self.policy)) + sketched

    def _rounding(self, metric: str, value: float) -> float:
        """An entry of K is off by at most unit * sqrt(K_ii K_jj), and so |dK|_F by unit * tr K."""
        r, unit, count = self.policy, self.unit, len(self.labels)
        if metric == "kernel.linearised":
            return float(pooling.divide(4 * unit * np.linalg.norm(self.values["output"]), np.linalg.norm(r.moved)))
        if metric == "kernel.trace":
            return unit * value
        if metric == "kernel.drift":
            return unit * (np.trace(r.kernel) + (1 + value) * np.trace(r.kernel0)) / np.linalg.norm(r.kernel0)
        if metric == "kernel.effective_rank":  # Fannes: entropies of shares that differ by T differ by T log N - T log T
            apart = min(2 * count**0.5 * unit, np.exp(-1))
            return value * apart * (np.log(count) - np.log(apart))
        pair = (r.kernel, r.kernel0) if metric == "kernel.alignment.initial" else (r.kernel,)
        return 2 * unit * sum(float(pooling.divide(np.trace(k), np.linalg.norm(statistics.centred(k)))) for k in pair)


def add(table: RowTable, metric: str, members: Sequence[Member], params: str | None) -> None:
    """Append one statistic of all seeds."""
    intervals = [member.interval(metric) for member in members]
    null = zip(*(member.null(metric) for member in members), strict=True)
    floor, error = (np.asarray([getattr(member, name)(metric) for member in members]) for name in ("floor", "error"))
    status, reason = zip(*(_status(metric, x.value, e, member) for x, e, member in zip(intervals, error, members, strict=True)),
                         strict=True)
    kind = "permuted_labels" if metric == "kernel.alignment.labels" else "shuffled"
    example_rows.add(table, metric, Interval(*map(np.asarray, zip(*intervals, strict=True))), len(members[0].labels),
                     null=(kind, *map(np.asarray, null)), floor=floor, num_err=error[:, None], params=params, dtype="fp32",
                     status=np.asarray(status, object), reason=np.asarray(reason, object))


def _status(metric: str, value: float, error: float, member: Member) -> tuple[str, str | None]:
    if metric == "kernel.linearised" and not member.policy.moved.any():
        return "degenerate", "the outputs are the initial ones"
    if not all(np.isfinite(x).all() for x in member.policy):
        return "nan", "a kernel or an output is not finite"
    if not np.isfinite(value):
        return "degenerate", "a kernel or the labels are constant"
    if metric in DISTANCES and value <= error:
        return "unresolved", "not above its numerical error"
    return "ok", None
